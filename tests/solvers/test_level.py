"""One mesh: which potential gives the lower bound, and what is never certified."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import CellIntegrals
from congested.discretization import LAGRANGE_2
from congested.domain import Box, create_mesh
from congested.errors import NotConverged
from congested.geometry import cells_of_mesh
from congested.solvers.level import LevelGoal, _bounds, _wants_p2


@pytest.mark.parametrize(
    ("lower_bound", "last", "gap", "wanted"),
    [
        ("p1", True, 0.5, False),
        ("p2", False, 1e-6, True),
        # The goal is met, P2 may meet it, a finer mesh will, nothing else will.
        ("auto", False, 0.9e-3, False),
        ("auto", False, 2e-3, True),
        ("auto", False, 5e-3, False),
        ("auto", True, 0.5, True),
    ],
)
def test_when_p2_pays(lower_bound: str, last: bool, gap: float, wanted: bool) -> None:
    assert LAGRANGE_2 == "p2"
    assert _wants_p2(LevelGoal(1e-3, lower_bound, last), gap) is wanted


def make_integrals(loss: float, penalty: float, cost: float) -> tuple[CellData, CellIntegrals]:
    cells = cells_of_mesh(create_mesh(Box((0.0, 0.0), (1.0, 1.0), cells=1), MPI.COMM_SELF))
    each = np.full(cells.number, 1.0 / cells.number)
    data = CellData(cells, each, each, each, 10.0, each > 0.0, {})
    return data, CellIntegrals(loss * each, penalty * each, cost * each, each, each, each)


def test_bounds_are_sums_over_cells() -> None:
    bounds = _bounds(*make_integrals(2.0, 0.5, 1.75))
    assert (bounds.lower, bounds.upper) == pytest.approx((1.5, 1.75), rel=1e-15)
    # Equal to rounding is what an exact solution gives.
    assert _bounds(*make_integrals(1.0, 0.0, 1.0 - 1e-15)).gap < 0.0


@pytest.mark.parametrize(
    ("loss", "cost"), [(1.0, 0.999), (np.nan, 1.0), (1.0, np.nan), (1e-9, 0.0)]
)
def test_numbers_that_are_no_bounds_are_refused(loss: float, cost: float) -> None:
    with pytest.raises(NotConverged, match="are no bounds"):
        _bounds(*make_integrals(loss, 0.0, cost))
