"""The mass of the weight σ in every cell: which rule computes it for which pair of measures.

For a source μ and a target ν the weight of WGAN-GP is the law of (1 − t) X + t Y with X ~ μ and
Y ~ ν independent and t uniform in [0, 1] (Gulrajani et al. 2017). Its cell masses σ_T are exact for
pairs of point sets (every segment is shared out over the cells), accurate to a tolerance for
pairs of densities, and for all other pairs the mean of quasi-random samples of whole
segments, with a standard error.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from congested.cell_search import CellBins
from congested.errors import InputError
from congested.geometry import Cells, FloatArray
from congested.measures.base import Measure, run_collectively
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.quadrature import integrate_over_simplices
from congested.weights.base import CellWeight, combined, summed
from congested.weights.gaussian import closed_form_weight
from congested.weights.kinds import (
    ENDS,
    ConstantWeight,
    DensityWeight,
    Interpolates,
    MeasureWeight,
    MixtureWeight,
    Weight,
    refused_rule,
)
from congested.weights.optimal import optimal_weight
from congested.weights.raster import raster_weight
from congested.weights.raster import serves as raster_serves
from congested.weights.rays import MOST_SECONDS, foreseen_seconds, rays_weight
from congested.weights.segments import ALL_PAIRS, all_pairs_weight, sampled_weight

logger = logging.getLogger(__name__)


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
        or if a given density is negative or not finite, or if no rule serves the pair. Every rank
        raises it. What concerns part k of a mixture has a key that begins ``weight.parts[k]``.
    """
    # Rules that follow no segments do without.
    lazy = cache(lambda: CellBins(cells)) if bins is None else lambda: bins
    return _weight(weight, source, target, cells, lazy)


def _weight(
    weight: Weight, source: Measure, target: Measure, cells: Cells, bins: Callable[[], CellBins]
) -> CellWeight:
    if isinstance(weight, ConstantWeight):
        density = weight.density
        if density is None:
            density = 1.0 / cells.total(cells.volume)
        return summed(cells, "constant", density * cells.volume)
    if isinstance(weight, DensityWeight):
        return _given_density(weight, cells)
    if isinstance(weight, MeasureWeight):
        return _given_measure(weight.measure, cells, "weight", weight.mass)
    if isinstance(weight, MixtureWeight):
        assert weight.shares is not None
        parts = []
        for number, part in enumerate(weight.parts):
            with _inside(f"weight.parts[{number}]"):
                parts.append(_weight(part, source, target, cells, bins))
        return combined(cells, parts, weight.shares)
    return _interpolates(weight, source, target, cells, bins)


@contextmanager
def _inside(place: str) -> Iterator[None]:
    """Name the place of a part in the errors that concern its keys."""
    try:
        yield
    except InputError as error:
        first, dot, rest = (error.key or "").partition(".")
        if first != "weight":
            raise
        raise InputError(error.message, key=place + dot + rest, file=error.file) from error


def _interpolates(
    weight: Interpolates,
    source: Measure,
    target: Measure,
    cells: Cells,
    bins: Callable[[], CellBins],
) -> CellWeight:
    for name, measure in (("source", source), ("target", target)):
        _check_dimension(measure, cells, name)
    if weight.coupling in ENDS:
        measure = {"source": source, "target": target}[weight.coupling]
        return _given_measure(measure, cells, weight.coupling)
    if weight.coupling == "optimal":
        return optimal_weight(weight, source, target, cells, bins())
    rule = _rule(weight, source, target, cells)
    if rule != "segments" and weight.samples is not None and cells.comm.rank == 0:
        logger.warning("weight.samples = %d is not used: there is a closed form", weight.samples)
    if rule == "closed-form":
        assert isinstance(source, GaussianMixture)
        assert isinstance(target, GaussianMixture)
        return closed_form_weight(source, target, cells, weight.tolerance)
    if rule == "rays":
        return rays_weight(source, target, cells, weight.tolerance)
    if rule == "raster":
        return raster_weight(source, target, cells, weight.tolerance)
    if isinstance(source, Points) and isinstance(target, Points):
        pairs = len(source.points) * len(target.points)
        if pairs <= (weight.samples or ALL_PAIRS):
            return all_pairs_weight(source, target, cells, bins())
    return sampled_weight(
        source,
        target,
        cells,
        bins(),
        samples=weight.samples,
        seed=weight.seed,
        tolerance=weight.tolerance,
    )


def _rule(weight: Interpolates, source: Measure, target: Measure, cells: Cells) -> str:
    """Return the rule that is asked for, or the first that serves the pair (collective)."""
    gaussian = isinstance(source, GaussianMixture) and isinstance(target, GaussianMixture)
    seconds = foreseen_seconds(source, target, cells)
    serves = {
        "closed-form": gaussian,
        "rays": math.isfinite(seconds),
        "raster": raster_serves(source, target),
        "segments": True,
    }
    if weight.rule == "auto":
        if weight.samples is not None and not gaussian:
            return "segments"
        serves["rays"] = seconds <= MOST_SECONDS
        return next(rule for rule, serving in serves.items() if serving)
    if not serves[weight.rule]:
        pair = f"{type(source).__name__} and {type(target).__name__} in {cells.dimension}D"
        raise refused_rule(weight.rule, [rule for rule in serves if serves[rule]], pair)
    return weight.rule


def _check_dimension(measure: Measure, cells: Cells, name: str) -> None:
    if measure.dimension != cells.dimension:
        raise InputError(
            f"found dimension {measure.dimension}; allowed: {cells.dimension}, as that of the mesh",
            key=name,
        )


def _given_measure(measure: Measure, cells: Cells, name: str, mass: float = 1.0) -> CellWeight:
    _check_dimension(measure, cells, name)
    try:
        masses = mass * np.maximum(measure.cell_masses(cells), 0.0)
    except InputError as error:  # it names a field of the measure: say of which
        raise error.within(name) from error
    return summed(cells, "measure", masses, whole=mass)


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
    return summed(cells, "density", np.maximum(masses, 0.0), error=weight.tolerance)
