"""The weight σ: how much a WGAN-GP critic's gradient penalty samples each cell.

For a source μ and a target ν the weight is the law of (1 − t) X + t Y with X ~ μ and Y ~ ν
independent and t uniform in [0, 1] (Gulrajani et al. 2017). Its cell masses σ_T are exact for
pairs of point sets (every segment is shared out over the cells), accurate to a tolerance for
pairs of Gaussian mixtures, and for all other pairs the mean of quasi-random samples of whole
segments, with a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from congested.cell_search import CellBins
from congested.errors import InputError
from congested.geometry import Cells, FloatArray
from congested.interpolates import deposit_all_pairs, deposit_samples, interpolates_mixture
from congested.measures.base import Measure, run_collectively
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.quadrature import integrate_over_simplices

# Up to this number of pairs of points every segment is shared out.
ALL_PAIRS = 1 << 20
# Independent replicates of the quasi-random sampling, for the standard error.
REPLICATES = 8
# Default number of sampled segments: the power of two next above this number per cell, ...
_SAMPLES_PER_CELL = {2: 2.0, 3: 8.0}
# ... but within these limits.
_FEWEST_SAMPLES, _MOST_SAMPLES = 1 << 17, 1 << 20


@dataclass(frozen=True)
class Interpolates:
    """The weight of WGAN-GP: the law of points on segments from source to target.

    The measures are taken as they are: what they have outside the domain is not cut off first,
    and the part of the weight that falls outside the domain is lost (and recorded). The difference
    to the weight of the restricted measures is at most twice the mass they have outside.

    Attributes
    ----------
    coupling
        How a segment's ends are drawn; ``"independent"`` is the only way so far.
    samples
        Number of segments where the weight is sampled, rounded up to 8 times a power of two. For
        two point sets: the largest number of pairs that are all used. None: chosen from the number
        of cells, or 2^20 pairs.
    seed
        Seed ≥ 0 of the sampling. The samples are the same on any number of ranks.
    tolerance
        Error allowed in the cell masses, in total over all cells, where a deterministic rule is
        used (two Gaussian mixtures).

    Raises
    ------
    InputError
        If a value is not allowed.
    """

    coupling: str = "independent"
    samples: int | None = None
    seed: int = 0
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        """Check the values."""
        if self.coupling != "independent":
            raise InputError(
                f'found "{self.coupling}"; allowed: "independent"', key="weight.coupling"
            )
        if self.samples is not None and self.samples < 1:
            raise InputError(f"found {self.samples}; allowed: >= 1", key="weight.samples")
        if self.seed < 0:
            raise InputError(f"found {self.seed}; allowed: >= 0", key="weight.seed")
        if not 1e-13 <= self.tolerance < 1.0:
            raise InputError(
                f"found {self.tolerance:g}; allowed: from 1e-13 to 1", key="weight.tolerance"
            )


@dataclass(frozen=True)
class ConstantWeight:
    """A weight with constant density.

    Attributes
    ----------
    density
        Density > 0 per volume; None: one over the volume of the domain.

    Raises
    ------
    InputError
        If the density is not a positive number.
    """

    density: float | None = None

    def __post_init__(self) -> None:
        """Check the value."""
        if self.density is not None and not 0.0 < self.density < math.inf:
            raise InputError(f"found {self.density:g}; allowed: > 0", key="weight.density")


@dataclass(frozen=True)
class DensityWeight:
    """A weight given by a density, in Python only.

    Attributes
    ----------
    function
        Maps points (k, d) to densities (k,) ≥ 0; they need not integrate to one.
    tolerance
        Absolute error allowed in the cell masses, in total over all cells.
    """

    function: Callable[[FloatArray], FloatArray]
    tolerance: float = 1e-9


Weight: TypeAlias = Interpolates | ConstantWeight | DensityWeight


@dataclass(frozen=True, eq=False)
class CellWeight:
    """Cell masses of the weight, and how well they are known.

    Attributes
    ----------
    masses
        σ_T (n,) of the owned cells. They sum to `mass`, not to one, if part of the weight lies
        outside the domain.
    replicates
        Independent estimates (R, n) whose mean is `masses`, if the weight was sampled, to carry
        its error on to what is computed from it; else None.
    relative_error
        Sum over all cells of the standard errors of σ_T, over the mass, if the weight was sampled;
        else the error that the deterministic rule may have made in total, over the mass: 0 for
        exact rules.
    method
        ``"all-pairs"``, ``"closed-form"``, ``"sampled"``, ``"constant"`` or ``"density"``.
    mass
        σ(Ω), over all ranks.
    lost
        Part of a weight of mass one that lies outside the domain: 1 − mass; 0 for weights that
        were given on the domain.
    samples
        Number of segments that were shared out; 0 where there were none.
    """

    masses: FloatArray
    replicates: FloatArray | None
    relative_error: float
    method: str
    mass: float
    lost: float
    samples: int


def cell_weight(
    weight: Weight,
    source: Measure,
    target: Measure,
    cells: Cells,
    *,
    bins: CellBins | None = None,
) -> CellWeight:
    """Compute the weight's mass in each cell (collective).

    Parameters
    ----------
    weight
        Which weight.
    source, target
        The measures μ and ν; used by `Interpolates` only.
    cells
        The cells, distributed over ``cells.comm``.
    bins
        Search structure over the cells, if there is one already.

    Raises
    ------
    InputError
        If a measure has another dimension than the cells, cannot be sampled though it has to be,
        or if a given density is negative or not finite. Every rank raises it.
    """
    if isinstance(weight, ConstantWeight):
        density = weight.density
        if density is None:
            density = 1.0 / cells.total(cells.volume)
        return _summed(cells, "constant", density * cells.volume)
    if isinstance(weight, DensityWeight):
        return _given_density(weight, cells)
    for name, measure in (("source", source), ("target", target)):
        if measure.dimension != cells.dimension:
            raise InputError(
                f"found dimension {measure.dimension}; allowed: {cells.dimension}, as that of the "
                "mesh",
                key=name,
            )
    if isinstance(source, GaussianMixture) and isinstance(target, GaussianMixture):
        mixture, error = interpolates_mixture(source, target, 0.5 * weight.tolerance)
        masses = mixture.cell_masses(cells, 0.5 * weight.tolerance)
        error += 0.5 * weight.tolerance
        return _summed(cells, "closed-form", masses, error=error, whole=1.0)
    if bins is None:
        bins = CellBins(cells)
    if isinstance(source, Points) and isinstance(target, Points):
        pairs = len(source.points) * len(target.points)
        if pairs <= (weight.samples or ALL_PAIRS):
            masses = deposit_all_pairs(source, target, bins)
            return _summed(cells, "all-pairs", masses, whole=1.0, samples=pairs)
    return _sampled(weight, source, target, cells, bins)


def default_samples(number: int, dimension: int) -> int:
    """Return how many segments are sampled on a mesh of `number` cells unless the user says.

    Some samples · number^(1/d − 1) segments cross a cell and make its noise. With these numbers
    the relative error was measured to be 1 to 3 %, for a few seconds on 10⁵ cells.
    """
    wanted = _SAMPLES_PER_CELL[dimension] * max(number, 1)
    return min(_MOST_SAMPLES, max(_FEWEST_SAMPLES, 1 << math.ceil(math.log2(wanted))))


def _sampled(
    weight: Interpolates, source: Measure, target: Measure, cells: Cells, bins: CellBins
) -> CellWeight:
    samples = weight.samples
    if samples is None:
        number = round(cells.total(np.ones(cells.number)))
        samples = default_samples(number, cells.dimension)
    each = 1 << max(0, math.ceil(math.log2(samples / REPLICATES)))
    replicates = np.stack(
        [
            deposit_samples(source, target, bins, each, (weight.seed, replicate))
            for replicate in range(REPLICATES)
        ]
    )
    masses = replicates.mean(axis=0)
    standard_error = replicates.std(axis=0, ddof=1) / math.sqrt(REPLICATES)
    return _summed(
        cells,
        "sampled",
        masses,
        replicates=replicates,
        error=cells.total(standard_error),
        whole=1.0,
        samples=REPLICATES * each,
    )


def _given_density(weight: DensityWeight, cells: Cells) -> CellWeight:
    def density(points: FloatArray) -> FloatArray:
        values = np.asarray(weight.function(points), dtype=np.float64)
        negative = np.flatnonzero(values < 0.0)
        if len(negative):
            where = points[negative[0] % len(points)].tolist()
            raise InputError(
                f"found {values.flat[negative[0]]:.6g} at {where}; allowed: >= 0",
                key="weight.density",
            )
        return values

    share = weight.tolerance / cells.comm.size
    masses = run_collectively(
        cells.comm, lambda: integrate_over_simplices(density, cells.simplices, share)
    )
    return _summed(cells, "density", np.maximum(masses, 0.0), error=weight.tolerance)


def _summed(
    cells: Cells,
    method: str,
    masses: FloatArray,
    *,
    replicates: FloatArray | None = None,
    error: float = 0.0,
    whole: float | None = None,
    samples: int = 0,
) -> CellWeight:
    """Add up the mass and relate the error to it (collective)."""
    mass = cells.total(masses)
    lost = 0.0 if whole is None else max(0.0, whole - mass)
    relative_error = error / mass if mass > 0.0 else math.inf
    return CellWeight(masses, replicates, relative_error, method, mass, lost, samples)
