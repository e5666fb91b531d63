"""Constants on parts: means removed, one pin for each part, PETSc's null space."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from petsc4py import PETSc

from congested.parts import Parts

NUMBER = np.array([2, -1, 0, 0, 2, 1, 2, -1])


def parts(number: np.ndarray = NUMBER, count: int = 3) -> Parts:
    return Parts(MPI.COMM_SELF, number, count)


def test_means_are_removed_part_by_part() -> None:
    values = np.arange(8.0)
    parts().remove_means(values)
    # Entries of no part stay; the means are 10/3, 5/2 and 5.
    expected = [-10 / 3, 1.0, -0.5, 0.5, 4 - 10 / 3, 0.0, 6 - 10 / 3, 7.0]
    np.testing.assert_allclose(values, expected, atol=1e-15)
    np.testing.assert_array_equal(parts().sizes, [2, 1, 3])


def test_no_part_at_all() -> None:
    values = np.arange(3.0)
    parts(np.full(3, -1), 0).remove_means(values)
    np.testing.assert_array_equal(values, np.arange(3.0))


def test_petsc_removes_the_same() -> None:
    vector = PETSc.Vec().createWithArray(np.arange(8.0), comm=MPI.COMM_SELF)
    expected = np.arange(8.0)
    parts().remove_means(expected)
    null_space = parts().null_space()
    null_space.remove(vector)
    np.testing.assert_array_equal(vector.array, expected)
    null_space.destroy()
    vector.destroy()


def test_one_entry_of_each_part_is_pinned() -> None:
    matrix = PETSc.Mat().createAIJ((8, 8), nnz=1, comm=MPI.COMM_SELF)
    for row in range(8):
        matrix.setValue(row, row, 1.0 + row)
    matrix.assemble()
    parts().pin(matrix)
    diagonal = matrix.getDiagonal()
    np.testing.assert_array_equal(diagonal.array / np.arange(1.0, 9.0), [2, 1, 2, 1, 1, 2, 1, 1])
    diagonal.destroy()
    matrix.destroy()


@pytest.mark.parametrize(("count", "many"), [(1, False), (8, False), (9, True)])
def test_multigrid_gets_a_regular_matrix_where_there_are_many_parts(count: int, many: bool) -> None:
    assert parts(np.arange(count), count).many is many
