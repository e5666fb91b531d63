"""Constants on the connected parts of a mesh: the null space of a weighted Laplacian.

A weight may leave thousands of islands, each with a null vector of its own. Kept as vectors, they
would need a thousand times the memory of a solution, and PETSc a thousand scalar products in each
step of CG. Here every entry of a vector knows its part: one pass removes all means.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from congested.geometry import FloatArray, IntArray

# With more parts than this multigrid gets a regular matrix. hypre stops coarsening at 9 unknowns; a
# thousand parts cannot be that few, and parts of one unknown each, whose matrix is zero up to
# rounding, made it indefinite.
_FEW = 8


class Parts:
    """The connected parts among the entries of a distributed vector.

    Attributes
    ----------
    comm
        Communicator of the vector.
    number
        Part of each entry that this rank owns (n,), −1 where it belongs to none.
    count
        Number of parts on all ranks.
    """

    def __init__(self, comm: MPI.Intracomm, number: IntArray, count: int) -> None:
        self.comm = comm
        self.number = number
        self.count = count

    @cached_property
    def _member(self) -> IntArray:
        return np.flatnonzero(self.number >= 0)

    @cached_property
    def _member_number(self) -> IntArray:
        return self.number[self._member]

    @cached_property
    def sizes(self) -> FloatArray:
        """Number of entries of each part on all ranks (count,)."""
        return self._sums(np.ones(len(self._member)))

    def _sums(self, values: FloatArray) -> FloatArray:
        # Without any entry the result of bincount is of integers.
        local = np.bincount(self._member_number, values, minlength=self.count).astype(np.float64)
        total = np.zeros(self.count)
        self.comm.Allreduce(local, total, op=MPI.SUM)
        return total

    def remove_means(self, values: FloatArray) -> None:
        """Subtract its mean from the owned entries of each part, in place (collective)."""
        means = self._sums(values[self._member]) / np.maximum(self.sizes, 1)
        values[self._member] -= means[self._member_number]

    def null_space(self) -> PETSc.NullSpace:
        """Return the constants on each part as a PETSc object, to be destroyed by the caller."""
        null_space = PETSc.NullSpace().create(comm=self.comm)
        null_space.setFunction(_remove_means, (self,))
        return null_space

    @cached_property
    def _pins(self) -> IntArray:
        """Those of the first entries of the parts, by global number, that this rank owns."""
        before = self.comm.exscan(len(self.number)) or 0
        present, place = np.unique(self._member_number, return_index=True)
        first = np.full(self.count, np.iinfo(np.int64).max)
        first[present] = before + self._member[place]
        lowest = np.empty_like(first)
        self.comm.Allreduce(first, lowest, op=MPI.MIN)
        own = (lowest >= before) & (lowest < before + len(self.number))
        return np.asarray(lowest[own] - before)

    @property
    def many(self) -> bool:
        """Whether multigrid needs the pinned matrix."""
        return self.count > _FEW

    def pin(self, matrix: PETSc.Mat) -> None:
        """Make a Laplacian regular: raise the diagonal at one entry of each part (collective).

        Where the right-hand side sums to zero on each part, the solution then vanishes at these
        entries, and differs by a constant on each part from any solution of the singular system.
        """
        diagonal = matrix.getDiagonal()
        diagonal.array[self._pins] *= 2.0
        matrix.setDiagonal(diagonal)
        diagonal.destroy()


def _remove_means(_: PETSc.NullSpace, vector: PETSc.Vec, parts: Parts) -> None:
    parts.remove_means(vector.array)
