"""Ray-monotone pairs, whose Wasserstein-1 distance is known (Korotin et al., arXiv 2206.07767).

The function w(x) = min_n |x − a_n| + b_n divides the box [−L, L]^d into funnels: x belongs to the
funnel n that attains the minimum, and moves along the ray from the tip a_n. The target is uniform
on the box, the source is its image under T(x) = a_n + t^p R v: v is the direction of the ray, R the
distance from the tip to the end of the funnel on it, t = |x − a_n|/R. Hence the source sits near
the tips, −w is a Kantorovich potential in this package's sign (high on the source), and with
ρ₀ = (2L)^{−d} the source has the density ρ₀/p · (R/s)^{d(1−1/p)} at the distance s on a ray.

On each ray 1/R is the largest of finitely many functions α + g·v: the faces of the box give
g = ±e_i / (distance of the tip from the face), and funnel m gives 2 (β + c·v) / (|c|² − β²) with
c = a_m − a_n and β = b_n − b_m. All the geometry of the funnels is in these numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from congested.errors import InputError, NotConverged
from congested.geometry import Cells, FloatArray, IntArray
from congested.measures.base import (
    as_array,
    check_dimension,
    check_uniforms,
    run_collectively,
)
from congested.measures.ray_kernels import edge_integral, face_integral, source_masses

_PAIR_KEYS = ("half_width", "power", "centers", "biases")

# In 3D the kinks of R across the lines of a face are left to bisection; more digits take minutes.
# The error seen is a twentieth of this.
SMALLEST_TOLERANCE_3D = 1e-5

# Edges of the square and triangles of the cube's faces, [−1, 1]^d.
_SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64)
_FACES = [
    np.insert(_SQUARE, axis, side, axis=1)[list(corners)]
    for axis in range(3)
    for side in (-1.0, 1.0)
    for corners in ((0, 1, 2), (0, 2, 3))
]
_CUBE_FACETS = {
    2: np.stack([_SQUARE, np.roll(_SQUARE, -1, axis=0)], axis=1),
    3: np.array(_FACES),
}


@dataclass(frozen=True)
class Funnels:
    """The nonempty funnels of a pair.

    Attributes
    ----------
    centers, biases
        Tips (N, d) and biases (N,).
    offsets, slopes
        Numbers α (N, J) and vectors g (N, J, d): 1/R = max_j α_j + g_j·v on the ray v of a funnel.
    """

    centers: FloatArray
    biases: FloatArray
    offsets: FloatArray
    slopes: FloatArray

    def inverse_radius(self, funnel: int, directions: FloatArray) -> FloatArray:
        """Return 1/R (m,) on the rays with unit vectors (m, d) of one funnel."""
        return (directions @ self.slopes[funnel].T + self.offsets[funnel]).max(axis=1)


@dataclass(frozen=True, eq=False)
class RayMonotonePair:
    """Numbers of a ray-monotone pair of measures on a box.

    Attributes
    ----------
    half_width
        L > 0: the box is [−L, L]^d.
    power
        p ≥ 1: how strongly the source concentrates at the tips.
    centers
        Tips a_n (N, d), strictly inside the box, d = 2 or 3.
    biases
        Numbers b_n (N,).

    Raises
    ------
    InputError
        If a number is out of its range or the shapes do not fit.
    """

    half_width: float
    power: float
    centers: FloatArray
    biases: FloatArray

    def __post_init__(self) -> None:
        """Check and convert the values."""
        half_width = float(as_array(self.half_width, "half_width", "a number > 0", ()))
        if half_width <= 0:
            raise InputError(f"found {half_width:g}; allowed: a number > 0", key="half_width")
        power = float(as_array(self.power, "power", "a number >= 1", ()))
        if power < 1:
            raise InputError(f"found {power:g}; allowed: a number >= 1", key="power")
        centers = as_array(self.centers, "centers", "a list of points", (None, None))
        number, dimension = centers.shape
        if number == 0:
            raise InputError("found no point; allowed: at least one", key="centers")
        check_dimension(dimension, "centers")
        outside = np.flatnonzero((np.abs(centers) >= half_width).any(axis=1))
        if len(outside):
            raise InputError(
                f"found {centers[outside[0]].tolist()}; allowed: points strictly inside the box "
                f"with half_width = {half_width:g}",
                key="centers",
            )
        biases = as_array(self.biases, "biases", f"{number} numbers", (number,))
        for name, value in (
            ("half_width", half_width),
            ("power", power),
            ("centers", centers),
            ("biases", biases),
        ):
            object.__setattr__(self, name, value)

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.centers.shape[1]

    @cached_property
    def funnels(self) -> Funnels:
        """The funnels that are not empty, with the numbers that describe their ends."""
        distances = np.linalg.norm(self.centers[:, None] - self.centers, axis=2)
        kept: list[int] = []
        for n in range(len(self.centers)):
            # A tip covered by another funnel has no points of its own; of equal ones the first
            # stays.
            slack = distances[n] - (self.biases[n] - self.biases)
            equal = (distances[n] == 0.0) & (self.biases == self.biases[n])
            dominated = (slack <= 0.0) & ~(equal & (np.arange(len(slack)) >= n))
            if not dominated.any():
                kept.append(n)
        centers, biases = self.centers[kept], self.biases[kept]
        number, dimension = centers.shape
        offsets = np.zeros((number, number + 2 * dimension))
        slopes = np.zeros((number, number + 2 * dimension, dimension))
        for n in range(number):
            others = np.flatnonzero(np.arange(number) != n)
            to_other = centers[others] - centers[n]
            bias = biases[n] - biases[others]
            length = np.linalg.norm(to_other, axis=1)
            scale = 2.0 / ((length - bias) * (length + bias))
            offsets[n, others] = scale * bias
            slopes[n, others] = scale[:, None] * to_other
            for axis in range(dimension):
                for side, sign in enumerate((1.0, -1.0)):
                    face = self.half_width - sign * centers[n, axis]
                    slopes[n, number + 2 * axis + side, axis] = sign / face
        return Funnels(centers, biases, offsets, slopes)

    def _rays(self, points: FloatArray) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
        """Return funnel (m,), distance (m,) from its tip, direction (m, d) and 1/R (m,)."""
        points = np.asarray(points, dtype=np.float64)
        funnels = self.funnels
        best = np.full(len(points), np.inf)
        chosen = np.zeros(len(points), dtype=np.int64)
        for n, (center, bias) in enumerate(zip(funnels.centers, funnels.biases, strict=True)):
            value = np.linalg.norm(points - center, axis=1) + bias
            closer = value < best
            best[closer], chosen[closer] = value[closer], n
        offset = points - funnels.centers[chosen]
        distance = np.linalg.norm(offset, axis=1)
        direction = offset / np.where(distance > 0, distance, 1.0)[:, None]
        # The tip itself has no direction; any will do.
        direction[distance == 0, 0] = 1.0
        inverse = np.empty(len(points))
        for n in range(len(funnels.centers)):
            here = chosen == n
            inverse[here] = funnels.inverse_radius(n, direction[here])
        return chosen, distance, direction, inverse

    def potential(self, points: FloatArray) -> FloatArray:
        """Return the Kantorovich potential −min_n (|x − a_n| + b_n) at points (m, d).

        It is high at the tips, where the source is, as everywhere in this package; the benchmark's
        paper writes the opposite sign.
        """
        points = np.asarray(points, dtype=np.float64)
        smallest = np.full(len(points), np.inf)
        for center, bias in zip(self.centers, self.biases, strict=True):
            smallest = np.minimum(smallest, np.linalg.norm(points - center, axis=1) + bias)
        return -smallest

    def gradient(self, points: FloatArray) -> FloatArray:
        """Return the gradient (m, d) of the potential: unit vectors towards the tips.

        At a tip, where the gradient does not exist, it is zero.
        """
        _, distance, direction, _ = self._rays(points)
        return np.where(distance[:, None] > 0, -direction, 0.0)

    def transport(self, points: FloatArray) -> FloatArray:
        """Return the image (m, d) of points of the box under T, which makes ν the source μ."""
        chosen, distance, direction, inverse = self._rays(points)
        share = np.minimum(distance * inverse, 1.0)
        length = share**self.power / inverse
        return self.funnels.centers[chosen] + length[:, None] * direction

    def source_density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) of the source: zero outside the box, infinite at the tips."""
        points = np.asarray(points, dtype=np.float64)
        _, distance, _, inverse = self._rays(points)
        density = (2.0 * self.half_width) ** -self.dimension / self.power
        with np.errstate(divide="ignore"):
            values = density * (distance * inverse) ** (-self.dimension * (1.0 - 1.0 / self.power))
        return np.where((np.abs(points) <= self.half_width).all(axis=1), values, 0.0)

    def wasserstein1(self, tolerance: float = 1e-12) -> float:
        """Return the exact W₁ distance of the pair by quadrature over the directions of the rays.

        W₁ = Σ_n ∫ ρ₀ R^{d+1} (1/(d+1) − 1/(d+p)) dv.

        Parameters
        ----------
        tolerance
            Absolute error allowed.

        Raises
        ------
        NotConverged
            If the quadrature does not reach the tolerance.
        """
        d, funnels = self.dimension, self.funnels
        facets = self.half_width * _CUBE_FACETS[d]
        factor = (2.0 * self.half_width) ** -d * (1.0 / (d + 1) - 1.0 / (d + self.power))
        share = tolerance / (max(factor, 1e-300) * len(facets) * len(funnels.centers))
        total, reached = 0.0, True
        for center, offsets, slopes in zip(
            funnels.centers, funnels.offsets, funnels.slopes, strict=True
        ):
            for facet in facets - center:
                # All directions are those of the box's facets, seen from the tip.
                if d == 2:
                    part, good = edge_integral(*facet, offsets, slopes, 3, 0.0, False, share)
                else:
                    part, good = face_integral(
                        facet, np.zeros(3), offsets, slopes, 4, 0.0, False, share
                    )
                total += abs(part)
                reached = reached and good
        if not reached:
            raise NotConverged(f"W₁ misses the tolerance {tolerance:.3g}: allow a larger one")
        return factor * total

    def source_masses(self, simplices: FloatArray, tolerance: float = 1e-10) -> FloatArray:
        """Return the source's mass in disjoint simplices (n, d+1, d) (not collective).

        Parameters
        ----------
        simplices
            Vertices.
        tolerance
            Absolute error allowed in total.

        Raises
        ------
        NotConverged
            If the tolerance is not met.
        """
        funnels = self.funnels
        masses, failures = source_masses(
            np.ascontiguousarray(simplices),
            funnels.centers,
            funnels.biases,
            funnels.offsets,
            funnels.slopes,
            self.half_width,
            self.power,
            tolerance / max(len(simplices), 1),
        )
        if failures:
            raise NotConverged(
                f"the mass of the ray-monotone source misses the tolerance {tolerance:.3g} in "
                f"{failures} of {len(simplices)} cells: allow a larger tolerance"
            )
        return masses


@dataclass(frozen=True, eq=False)
class RayMonotoneSource:
    """The source μ = T_#ν of a ray-monotone pair.

    Attributes
    ----------
    pair
        The pair. Its target is ``UniformBox([-L] * d, [L] * d)``.
    """

    pair: RayMonotonePair

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.pair.dimension

    @property
    def sample_dimension(self) -> int:
        """One uniform number per coordinate of the point that T moves."""
        return self.pair.dimension

    def density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) at points (m, d); it is infinite at the tips."""
        return self.pair.source_density(points)

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the mass of each owned cell (collective).

        Parameters
        ----------
        cells
            The cells.
        tolerance
            Absolute error allowed in total over all cells of all ranks; in 3D at least
            1e-5 is used, which takes 0.4 ms per cell (smaller errors: `pair.source_masses`).

        Raises
        ------
        NotConverged
            If the quadrature does not reach the tolerance.
        """
        if self.dimension == 3:
            tolerance = max(tolerance, SMALLEST_TOLERANCE_3D)
        # The same tolerance for every cell gives the same masses on any number of ranks.
        number = cells.comm.allreduce(cells.number)
        share = tolerance * cells.number / max(number, 1)
        return run_collectively(cells.comm, lambda: self.pair.source_masses(cells.simplices, share))

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d) in [0, 1) to samples (m, d) of the box, and these by T."""
        uniforms = check_uniforms(uniforms, self.sample_dimension)
        return self.pair.transport(self.pair.half_width * (2.0 * uniforms - 1.0))

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the box."""
        upper = np.full(self.dimension, self.pair.half_width)
        return -upper, upper


def pair_from_file(path: str | Path) -> RayMonotonePair:
    """Read a pair from a JSON file with the keys half_width, power, centers and biases.

    Raises
    ------
    InputError
        If the file cannot be read, or a key is missing, unknown or holds something else.
    """
    path = Path(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("found no such file; allowed: a .json file", file=str(path)) from error
    except ValueError as error:
        raise InputError(f"found no JSON ({error}); allowed: JSON", file=str(path)) from error
    allowed = ", ".join(_PAIR_KEYS)
    if not isinstance(table, dict):
        raise InputError(f"found no table; allowed: a table of {allowed}", file=str(path))
    for key in sorted(set(table) ^ set(_PAIR_KEYS)):
        found = "an unknown key" if key in table else "no such key"
        raise InputError(f"found {found}; allowed: {allowed}", key=key, file=str(path))
    try:
        return RayMonotonePair(**table)
    except InputError as error:
        raise InputError(error.message, key=error.key, file=str(path)) from error
