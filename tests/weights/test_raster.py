"""The rule for images: its tables against integrals by hand, and exact zeros where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from congested.measures.image import Image
from congested.weights.compute import cell_weight
from congested.weights.kinds import Interpolates
from congested.weights.raster_kernels import ray_table, read_table
from tests.weights.pairs import box_cells


@pytest.mark.parametrize("slope", [0.37, -0.91, 1e-3])
def test_tables_hold_the_integrals_along_rays(slope: float) -> None:
    columns = np.random.default_rng(5).uniform(size=(6, 9))
    table, lowest = ray_table(columns, slope, 4)
    # The heights of the rays of the table itself: no interpolation between rays.
    for ray in (12, 30, 41):
        height = lowest + ray / 4
        for x in (0.0, 2.5, 6.0):
            found = read_table(table, lowest, slope, 4, x, height + slope * x)
            at = (np.arange(60_000) + 0.5) / 10_000.0
            row = np.floor(height + slope * at).astype(int)
            inside = (row >= 0) & (row < columns.shape[1])
            along = np.where(inside, columns[at.astype(int), np.where(inside, row, 0)], 0.0) / 1e4
            expected = along[at < x].sum(), along[at >= x].sum()
            if x == 2.5:  # in the middle of a column its integral counts by halves
                column = along[(at >= 2.0) & (at < 3.0)].sum()
                expected = (
                    along[at < 2.0].sum() + 0.5 * column,
                    along[at >= 3.0].sum() + 0.5 * column,
                )
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_no_weight_where_no_segment_goes() -> None:
    """Beside the convex hull of the two images σ is zero, and not what rounding leaves of it."""
    source = Image(np.array([[1.0, 0.3], [0.2, 0.7]]), (0.1, 0.3), (0.3, 0.5))
    target = Image(np.array([[0.4, 0.9, 0.1]]), (0.7, 0.4), (0.9, 0.8))
    cells = box_cells((0.0, 0.0), (1.0, 1.0), 40)
    masses = cell_weight(Interpolates(rule="raster"), source, target, cells).masses
    x, y = cells.midpoint.T
    # Distance outside: from the box, from the line (0.1, 0.5) to (0.7, 0.8) above and from that
    # from (0.3, 0.3) to (0.9, 0.4) below. Rays are read between their neighbours in the table, and
    # may see a part of a pixel that is beside them.
    beside = np.max([0.1 - x, x - 0.9, 0.3 - y, y - 0.8], axis=0)
    beside = np.maximum(beside, y - 0.5 - 0.5 * (x - 0.1))
    beside = np.maximum(beside, 0.3 + (x - 0.3) / 6.0 - y)
    assert (beside > 0.03).sum() > 500
    assert (masses[beside > 0.03] == 0.0).all()
    assert (masses[beside < 0.0] > 0.0).all()
