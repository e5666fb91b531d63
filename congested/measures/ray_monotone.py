"""Ray-monotone pairs, whose Wasserstein-1 distance is known (Korotin et al., arXiv 2206.07767).

The function w(x) = min_n |x − a_n| + b_n divides the box [−L, L]^d into funnels, d ≥ 2: x belongs
to the funnel n that attains the minimum, and moves along the ray from the tip a_n. The target is
uniform on the box, the source is its image under T(x) = a_n + t^p R v: v is the direction of the
ray, R the distance from the tip to the end of the funnel on it (`ray_funnels.py`),
t = |x − a_n|/R. Hence the source sits near the tips, and −w is a Kantorovich potential in this
package's sign (high on the source). With ρ₀ = (2L)^{−d}, on a ray at the distance s from the tip:

- the source has the density ρ₀/p · (R/s)^{d(1−1/p)};
- the least momentum |m| = ρ₀/d · s^{1−d} [R^d (s/R)^{d/p} − s^d] points away from the tip. Times
  s^{d−1} it is the mass of the source within s minus that of the target.

t^d is uniform and independent of the ray, so W₁ = E_ν|x − T(x)| = (p − 1)/(d + p) E_ν|x − a_n|,
which is also Σ_n ∫ ρ₀ R^{d+1} (1/(d+1) − 1/(d+p)) dv.

Nothing here but masses of cells and the quadrature of W₁ asks for d = 2 or 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from congested.errors import InputError, NotConverged
from congested.geometry import BoolArray, Cells, FloatArray
from congested.measures.base import as_array, check_uniforms, run_collectively
from congested.measures.ray_funnels import Funnels, Rays, active_funnels
from congested.measures.ray_kernels import edge_integral, face_integral, source_masses
from congested.measures.sampling import Estimate, estimate_mean, scrambled_sobol

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

# Numbers of the points that are looked at together, 8 MiB.
_CHUNK = 1 << 20
# Independent scramblings that show the error of W₁.
_SCRAMBLINGS = 16
# Random biases are this part of L, as in the benchmark (0.1 for L = 2.5), ...
_RANDOM_BIAS = 0.04
# ... and leave every funnel a tenth of its distance from the next tip, within so many draws.
_LARGEST_RANDOM_SLOPE, _MOST_DRAWS = 0.9, 10_000
_RANDOM_STREAM = 220607767


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
        Tips a_n (N, d), strictly inside the box, d ≥ 2.
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
        if dimension < 2:
            raise InputError(f"found {dimension} coordinates; allowed: 2 or more", key="centers")
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

    @classmethod
    def random(
        cls,
        dimension: int,
        number: int,
        *,
        half_width: float = 2.5,
        power: float = 8.0,
        seed: int = 0,
    ) -> RayMonotonePair:
        """Return a pair with random funnels, none of them empty.

        Tips are uniform on the box and biases normal with the standard deviation L/25, as in the
        benchmark; a funnel that covers another, or nearly so, is drawn again.

        Parameters
        ----------
        dimension, number
            Space dimension d ≥ 2 and number of funnels N ≥ 1.
        half_width, power
            L and p.
        seed
            The same seed gives the same pair.

        Raises
        ------
        InputError
            If a number is out of its range, or the box has no room for so many funnels.
        """
        for name, value, least in (
            ("dimension", dimension, 2),
            ("number", number, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise InputError(f"found {value}; allowed: {least} or more", key=name)
        cls(half_width, power, np.zeros((1, dimension)), np.zeros(1))  # names a mistake in either
        # A stream of its own: samples drawn with the same seed must not meet the tips.
        random = np.random.default_rng((seed, _RANDOM_STREAM))
        centers, biases, kept = np.empty((number, dimension)), np.empty(number), 0
        for _ in range(_MOST_DRAWS):
            center = random.uniform(-half_width, half_width, dimension)
            bias = _RANDOM_BIAS * half_width * random.standard_normal()
            distances = np.linalg.norm(centers[:kept] - center, axis=1)
            if (np.abs(biases[:kept] - bias) < _LARGEST_RANDOM_SLOPE * distances).all():
                centers[kept], biases[kept] = center, bias
                kept += 1
                if kept == number:
                    return cls(half_width, power, centers, biases)
        raise InputError(
            f"found {number}; allowed: fewer in {dimension} dimensions ({kept} found room)",
            key="number",
        )

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.centers.shape[1]

    @cached_property
    def funnels(self) -> Funnels:
        """The funnels that are not empty, with the numbers that describe their ends."""
        return active_funnels(self.centers, self.biases, self.half_width)

    @property
    def _log_density(self) -> float:
        """The logarithm of ρ₀, which itself may be too small for a number."""
        return -self.dimension * math.log(2.0 * self.half_width)

    def _checked(self, points: npt.ArrayLike) -> FloatArray:
        array = np.asarray(points, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != self.dimension:
            raise InputError(
                f"found an array of shape {array.shape}; allowed: (m, {self.dimension})",
                key="points",
            )
        return array

    def _rays(self, points: FloatArray) -> Iterator[tuple[slice, Rays]]:
        """Find the rays of points (m, d), some thousands at a time."""
        rows = max(1, _CHUNK // self.dimension)
        for start in range(0, len(points), rows):
            part = slice(start, start + rows)
            yield part, self.funnels.rays(points[part])

    def potential(self, points: FloatArray) -> FloatArray:
        """Return the Kantorovich potential −min_n (|x − a_n| + b_n) at points (m, d).

        It is high at the tips, where the source is, as everywhere in this package; the benchmark's
        paper writes the opposite sign.
        """
        points = self._checked(points)
        values = np.empty(len(points))
        for part, rays in self._rays(points):
            values[part] = -(rays.distance + self.funnels.biases[rays.funnel])
        return values

    def gradient(self, points: FloatArray) -> FloatArray:
        """Return the gradient (m, d) of the potential: unit vectors towards the tips.

        At a tip, where the gradient does not exist, it is zero.
        """
        points = self._checked(points)
        values = np.empty(points.shape)
        for part, rays in self._rays(points):
            values[part] = np.where(rays.distance[:, None] > 0, -rays.direction, 0.0)
        return values

    def transport(self, points: FloatArray) -> FloatArray:
        """Return the image (m, d) of points of the box under T, which makes ν the source μ."""
        points = self._checked(points)
        images = np.empty(points.shape)
        for part, rays in self._rays(points):
            share = np.minimum(rays.distance * rays.inverse_radius, 1.0)
            length = share**self.power / rays.inverse_radius
            images[part] = self.funnels.centers[rays.funnel] + length[:, None] * rays.direction
        return images

    def source_density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) of the source: zero outside the box, infinite at the tips."""
        points = self._checked(points)
        values = np.empty(len(points))
        exponent = self.dimension * (1.0 - 1.0 / self.power)
        for part, rays in self._rays(points):
            growth = -xlogy(exponent, rays.distance * rays.inverse_radius)
            values[part] = np.exp(self._log_density - math.log(self.power) + growth)
        return np.where(self._inside(points), values, 0.0)

    def momentum(self, points: FloatArray) -> FloatArray:
        """Return the momentum m (m, d) of least ∫|m|: div m = μ − ν, ∫|m| = W₁, m ∥ −∇u.

        It is zero outside the box. Its length tends to infinity at a tip if d (1 − 1/p) > 1; at
        the tip itself, where it has no direction, zero is returned.
        """
        points = self._checked(points)
        values = np.empty(points.shape)
        exponent = self.dimension * (1.0 - 1.0 / self.power)
        for part, rays in self._rays(points):
            share = np.minimum(rays.distance * rays.inverse_radius, 1.0)
            growth = -xlogy(exponent, np.where(share > 0.0, share, 1.0))
            # ρ₀ (e^growth − 1), where e^growth alone may be too large for a number.
            excess = np.exp(self._log_density + growth) * -np.expm1(-growth)
            length = rays.distance / self.dimension * excess
            values[part] = length[:, None] * rays.direction
        return np.where(self._inside(points)[:, None], values, 0.0)

    def _inside(self, points: FloatArray) -> BoolArray:
        return np.asarray((np.abs(points) <= self.half_width).all(axis=1))

    def sample_target(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d) in [0, 1) to samples (m, d) of the target, uniform on the box."""
        return self.half_width * (2.0 * check_uniforms(uniforms, self.dimension) - 1.0)

    def sample_source(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d) in [0, 1) to samples (m, d) of the source.

        They are the images under T of the samples of the target for the same numbers. Within some
        1e-16 of a tip, where at p = 8 and d = 2 a ten-thousandth of the source is, they are
        rounded to the tip itself.
        """
        return self.transport(self.sample_target(uniforms))

    def wasserstein1(self, tolerance: float = 1e-12) -> float:
        """Return the exact W₁ distance of the pair by quadrature over the directions of the rays.

        For d = 2 and 3; `wasserstein1_estimate` serves every dimension.

        Parameters
        ----------
        tolerance
            Absolute error allowed.

        Raises
        ------
        InputError
            If the dimension is another.
        NotConverged
            If the quadrature does not reach the tolerance.
        """
        self._check_mesh_dimension("allowed: 2 or 3, and any with wasserstein1_estimate")
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

    def wasserstein1_estimate(self, samples: int = 1 << 18, seed: int = 0) -> Estimate:
        """Return W₁ with its standard error, in any dimension, by quasi-Monte Carlo.

        W₁ = (p − 1)/(d + p) E_ν|x − a_n|, whose integrand is the smoothest of the known forms.
        Sixteen scramblings of a Sobol sequence show the error. Of 2^18 points it is 3e-6 for the
        published pair, and 5e-5 for 256 funnels in 128 dimensions, where they take 4 s.

        Parameters
        ----------
        samples
            Points in all; rounded up to sixteen times a power of two.
        seed
            Of the scramblings.

        Raises
        ------
        InputError
            If `samples` or `seed` is out of its range.
        """
        if samples < 1:
            raise InputError(f"found {samples}; allowed: 1 or more", key="samples")
        if seed < 0:
            raise InputError(f"found {seed}; allowed: 0 or more", key="seed")
        doublings = max(0, math.ceil(math.log2(samples / _SCRAMBLINGS)))
        piece = 1 << min(doublings, int(math.log2(max(2.0, _CHUNK / self.dimension))))
        means = np.empty(_SCRAMBLINGS)
        for scrambling in range(_SCRAMBLINGS):
            sobol = scrambled_sobol(self.dimension, (seed, scrambling))
            sums = []
            for _ in range((1 << doublings) // piece):
                rays = self.funnels.rays(self.sample_target(sobol.random(piece)))
                sums.append(rays.distance.sum())
            means[scrambling] = math.fsum(sums) / (1 << doublings)
        return estimate_mean((self.power - 1.0) / (self.dimension + self.power) * means)

    def _check_mesh_dimension(self, allowed: str) -> None:
        if self.dimension not in (2, 3):
            raise InputError(f"found {self.dimension}; {allowed}", key="dimension")

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
        InputError
            If the dimension is not 2 or 3.
        NotConverged
            If the tolerance is not met.
        """
        self._check_mesh_dimension("allowed: 2 or 3, where there are meshes")
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
        The pair. Its target is ``UniformBox([-L] * d, [L] * d)`` in the plane and in space; cells,
        and so problems, have no other dimension.
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
        InputError
            If the dimension is not 2 or 3.
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
        return self.pair.sample_source(uniforms)

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the box."""
        upper = np.full(self.dimension, self.pair.half_width)
        return -upper, upper
