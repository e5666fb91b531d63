"""A measure given by any density function, for Python users and for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from congested.errors import InputError
from congested.geometry import Cells, FloatArray
from congested.measures.base import as_box, run_collectively
from congested.quadrature import Density, clip_to_box, integrate_over_simplices


@dataclass(frozen=True, eq=False)
class DensityMeasure:
    """The measure with a given density in a box, and nothing outside the box.

    Cell masses come from adaptive quadrature. Cells that the faces of the box cut are cut there
    first, so a jump of the density at the faces does no harm; a jump elsewhere is expensive. The
    density should have no peaks much narrower than a cell: they may be overlooked.

    Attributes
    ----------
    function
        Density: maps points (k, d) to values (k,) ≥ 0 whose integral over the box is 1.
    lower, upper
        Corners (d,) of the box.
    dimension
        Space dimension d; 0 takes it from the corners.

    Raises
    ------
    InputError
        If the corners do not span a box of that dimension.
    """

    function: Density
    lower: FloatArray
    upper: FloatArray
    dimension: int = 0

    def __post_init__(self) -> None:
        """Check and convert the values."""
        lower, upper = as_box(self.lower, self.upper, self.dimension or None)
        if not callable(self.function):
            raise InputError(f"found {self.function!r:.80}; allowed: a function", key="function")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        object.__setattr__(self, "dimension", len(lower))

    @property
    def sample_dimension(self) -> int:
        """Dimension d; sampling itself is not offered."""
        return len(self.lower)

    def density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) at points (m, d)."""
        points = np.asarray(points, dtype=np.float64)
        inside = ((points >= self.lower) & (points <= self.upper)).all(axis=1)
        values = np.zeros(len(points))
        values[inside] = self.function(points[inside])
        return values

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integral of the density over each owned cell (collective).

        Parameters
        ----------
        cells
            The cells.
        tolerance
            Bound of the sum of the estimated absolute errors over all cells of all ranks.

        Raises
        ------
        NotConverged
            If the quadrature does not reach the tolerance.
        InputError
            If the function does not return one finite number per point.
        """
        return self._integrals(cells, tolerance, vertices=False)

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return ∫_T λ_i dμ (n, d+1) of each owned cell (collective).

        Parameters
        ----------
        cells
            The cells.
        tolerance
            Bound of the sum of the estimated absolute errors over all vertices of all cells of all
            ranks.

        Raises
        ------
        NotConverged, InputError
            As `cell_masses`.
        """
        return self._integrals(cells, tolerance, vertices=True)

    def _integrals(self, cells: Cells, tolerance: float, vertices: bool) -> FloatArray:
        number = max(cells.comm.allreduce(cells.number), 1)

        def compute() -> FloatArray:
            cut, owner, whole = clip_to_box(cells.simplices, self.lower, self.upper)
            pieces = np.concatenate([cells.simplices[whole], cut])
            owner = np.concatenate([whole, owner])
            share = tolerance * cells.number / number
            whose = cells.simplices[owner] if vertices else None
            integrals = integrate_over_simplices(self.function, pieces, share, vertices=whose)
            result = np.zeros((cells.number, *integrals.shape[1:]))
            np.add.at(result, owner, integrals)
            return result

        return run_collectively(cells.comm, compute)

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Raise InputError: a general density cannot be sampled by a map of uniform numbers."""
        raise InputError(
            "found a measure given by a density function, which cannot be sampled; allowed: "
            "gaussian-mixture, uniform, points, ray-monotone, or a weight that needs no samples",
            key="sample",
        )

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the box."""
        return self.lower, self.upper
