"""One mesh: which potential gives the lower bound, and what is never certified."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import CellIntegrals
from congested.domain import Box, create_mesh
from congested.errors import NotConverged
from congested.geometry import cells_of_mesh
from congested.solvers.level import LevelGoal, _is_wanted
from congested.solvers.pair import pair_bounds


@pytest.mark.parametrize(
    ("kind", "lower_bound", "last", "gap", "gains", "wanted"),
    [
        # The goal is met; the first mesh measures; no finer mesh will come.
        ("crouzeix-raviart", "p1", False, 0.9e-3, {}, False),
        ("crouzeix-raviart", "p1", False, 0.5, {}, True),
        ("crouzeix-raviart", "p1", True, 0.5, {"crouzeix-raviart": 1.7}, True),
        # Its gain may meet the goal; it will not; P1's flux is a bad guide.
        ("crouzeix-raviart", "p1", False, 1.9e-3, {"crouzeix-raviart": 1.7}, True),
        ("crouzeix-raviart", "p1", False, 2.2e-3, {"crouzeix-raviart": 1.7}, False),
        ("crouzeix-raviart", "auto", False, 2.2e-3, {"crouzeix-raviart": 1.7, "p2": 1.3}, True),
        ("crouzeix-raviart", "p1", False, 0.5, {"crouzeix-raviart": 4.0}, True),
        ("crouzeix-raviart", "p2", False, 1e-6, {"crouzeix-raviart": 1.7}, True),
        ("p2", "p1", True, 0.5, {}, False),
        ("p2", "p2", False, 1e-6, {}, True),
        ("p2", "auto", False, 0.9e-3, {}, False),
        ("p2", "auto", False, 2e-3, {}, True),
        ("p2", "auto", False, 2e-3, {"p2": 1.2}, False),
        ("p2", "auto", False, 5e-3, {}, False),
        ("p2", "auto", False, 5e-3, {"p2": 5.0}, True),
        ("p2", "auto", True, 0.5, {}, True),
    ],
)
def test_when_a_better_space_pays(
    kind: str, lower_bound: str, last: bool, gap: float, gains: dict[str, float], wanted: bool
) -> None:
    assert _is_wanted(LevelGoal(1e-3, lower_bound, last), gap, gains, kind, False) is wanted
    # Where P1 is slow, every better space that is allowed is tried until the goal is met.
    slow = _is_wanted(LevelGoal(1e-3, lower_bound, last), gap, gains, kind, True)
    assert slow is (wanted or (gap > 1e-3 and (kind, lower_bound) != ("p2", "p1")))


def make_integrals(loss: float, penalty: float, cost: float) -> tuple[CellData, CellIntegrals]:
    cells = cells_of_mesh(create_mesh(Box((0.0, 0.0), (1.0, 1.0), cells=1), MPI.COMM_SELF))
    each = np.full(cells.number, 1.0 / cells.number)
    data = CellData(cells, each, each, each, 10.0, each > 0.0, {})
    return data, CellIntegrals(loss * each, penalty * each, cost * each, each, each, each)


def test_bounds_are_sums_over_cells() -> None:
    bounds = pair_bounds(*make_integrals(2.0, 0.5, 1.75))
    assert (bounds.lower, bounds.upper) == pytest.approx((1.5, 1.75), rel=1e-15)
    # Equal to rounding is what an exact solution gives.
    assert pair_bounds(*make_integrals(1.0, 0.0, 1.0 - 1e-15)).gap < 0.0


@pytest.mark.parametrize(
    ("loss", "cost"), [(1.0, 0.999), (np.nan, 1.0), (1.0, np.nan), (1e-9, 0.0)]
)
def test_numbers_that_are_no_bounds_are_refused(loss: float, cost: float) -> None:
    with pytest.raises(NotConverged, match="are no bounds"):
        pair_bounds(*make_integrals(loss, 0.0, cost))
