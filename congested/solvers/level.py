"""Solve and certify on one mesh: P1, then Crouzeix–Raviart and P2 where they pay.

The flux of the P1 solution, made conservative, is feasible and costs no second solve. The flux of a
Crouzeix–Raviart solution is the best one there is; in the plane stream functions give it for less
than P1 costs, in space it takes more than all of P1. How much sharper it was on the coarser meshes
decides whether a mesh gets it. At λ = ∞ Newton's method begins with P2 in place of P1, and every
mesh gets Crouzeix–Raviart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from dolfinx.mesh import Mesh

from congested.cell_data import CellData
from congested.certificate import (
    Bounds,
    CellFields,
    CellIntegrals,
)
from congested.continuum_data import ContinuumData
from congested.discretization import (
    CROUZEIX_RAVIART,
    LAGRANGE_1,
    LAGRANGE_2,
    PotentialSpace,
)
from congested.errors import NotConverged
from congested.geometry import FloatArray, IntArray
from congested.recovery import equilibrate, marini_momentum
from congested.solvers.augmented_lagrangian import (
    AugmentedLagrangian,
    solve_augmented_lagrangian,
)
from congested.solvers.iteration import (
    Iterate,
    SpaceResult,
    Step,
    Trust,
    initial_iterate,
    transfer,
)
from congested.solvers.linear import LinearStatistics
from congested.solvers.newton import Newton, solve_newton
from congested.solvers.pair import (
    PotentialValues,
    certified,
    conforming_values,
    pair_fields,
    pair_totals,
)
from congested.solvers.stream import STREAM, StreamSpace, solve_stream, stream_space

# Where a better space was last seen to close the gap by more than that, the gap without it is no
# guide for refinement: every mesh gets that space. Smooth data have 1.7 for Crouzeix–Raviart and
# 1.3 for P2; near λ = ∞ both are up to 10, as the flux of P1 strays from the mass's paths, and a
# P1 potential of slope 1 has an error like h.
_LARGEST_GAIN = 2.5
# The same where P1's own gap falls by less than the cells' diameter to that power: P1 is not in its
# range of second order, or the data are rough, and better spaces gain more than they did.
_LEAST_ORDER = 1.5
# Otherwise it is tried where a gain that much larger than the last would meet the goal ...
_OPTIMISM = 1.2
# ... and P2 the first time where this one would.
_HOPED_P2_GAIN = 3.0
# Where the first space takes so many steps, stream functions are solved for on every mesh: they
# take one to three, and the better flux is the better guide for refinement.
_CHEAP_BESIDE = 4
# An iteration that leaves less than this part of the certified gap is not what keeps it open.
_IMMATERIAL = 0.5


@dataclass(frozen=True)
class FoundPair:
    """What it takes a solve to find on a mesh.

    Attributes
    ----------
    potential, flux
        The pair: potential; outward facet integrals of the momentum (n, d+1).
    lower_bound_from
        "p1" or "p2".
    dofs
        Sizes of the potential (of the lower bound) and flux spaces.
    gains
        Factors by which spaces were last seen to make the gap smaller.
    first_gap
        Relative gap that the first space certified alone.
    iterate
        Iterate in the first space, from which the next mesh starts.
    trust
        What the starts in the spaces were worth.
    unfinished
        Spaces in which the method met its limit of steps, came no further or was stopped before
        its goal, if what it left makes a good part of the gap.
    failure
        What went wrong in a better space, after there were bounds; None if nothing did.
    """

    potential: PotentialValues
    flux: FloatArray
    lower_bound_from: str
    dofs: dict[str, int]
    gains: dict[str, float]
    first_gap: float
    iterate: Iterate
    trust: dict[str, Trust]
    unfinished: tuple[str, ...]
    failure: str | None


@dataclass(frozen=True)
class LevelResult(FoundPair):
    """What is known after a mesh: the pair, and what it certifies.

    Attributes
    ----------
    data
        Cell data of the mesh.
    fields
        All fields in the layout of the result file.
    bounds
        The bounds, in the scope that was asked for.
    totals
        Critic loss, penalty, ∫|m| and the largest divergence residual.
    """

    data: CellData
    fields: CellFields
    bounds: Bounds
    totals: dict[str, float]


@dataclass(frozen=True)
class LevelGoal:
    """What a level aims at.

    Attributes
    ----------
    relative_gap
        Certified relative gap wanted.
    lower_bound
        "p1", "p2" or "auto".
    last
        Whether no finer mesh will follow, so that P2 is the last resort.
    """

    relative_gap: float
    lower_bound: str
    last: bool


Monitor = Callable[[str, Step], bool]
Method = Newton | AugmentedLagrangian


def solve_level(
    mesh: Mesh,
    data: CellData,
    goal: LevelGoal,
    method: Method,
    statistics: LinearStatistics,
    monitor: Monitor,
    coarse: tuple[LevelResult, IntArray] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    continuum: ContinuumData | None = None,
) -> LevelResult | None:
    """Solve on one mesh (collective).

    Parameters
    ----------
    mesh, data
        Mesh and cell data.
    goal
        What to aim at.
    method, statistics
        Options of the method; counts of linear solves, updated.
    monitor
        Called with the space's name and each Newton step; True stops that iteration.
    coarse
        Result on the coarser mesh and the parent cell of each owned cell, to start from.
    stopped
        Whether the run has been asked to stop (the same on all ranks). A level that has a
        coarser result to fall back on is then abandoned before its flux is feasible.
    continuum
        Data of the bounds for the original densities, if these are asked for.

    Returns
    -------
    LevelResult or None
        None if abandoned.
    """
    run = _LevelRun(mesh, data, goal, method, statistics, monitor, coarse, stopped, continuum)
    conforming = run.space(run.first_kind)
    if coarse is None:
        first = run.solve(conforming, initial_iterate(conforming), 0.0)
    else:
        start = transfer(coarse[0].iterate, conforming, coarse[1])
        # A finer mesh has a gap of about a quarter.
        first = run.solve(conforming, start, 0.25 * coarse[0].bounds.relative_gap)
        if stopped() and not first.converged:
            return None
    potential = conforming_values(conforming, data, first, continuum)
    pair = run.certified(conforming, potential, run.conservative(first))
    run.first_gap, run.first_steps = pair.bounds.relative_gap, first.iterations
    best = first
    if run.wants(CROUZEIX_RAVIART, pair):
        pair, best = run.sharpen_flux(pair, first)
    # Beside the flux of P1 the sharper potential would be half of what is asked for.
    if best is not first and continuum is None and run.wants(LAGRANGE_2, pair):
        pair = run.sharpen_potential(pair, best)
    found = FoundPair(
        potential=pair.potential,
        flux=pair.flux,
        lower_bound_from=pair.space.kind,
        dofs={"potential": pair.space.global_dofs, "flux": run.facets.global_dofs},
        gains=run.gains,
        first_gap=run.first_gap,
        iterate=first.iterate,
        trust=run.trust,
        unfinished=run.unfinished(pair),
        failure=run.failure,
    )
    return _result(data, found, pair.integrals, pair.bounds, continuum)


def certify_again(
    mesh: Mesh, data: CellData, found: FoundPair, continuum: ContinuumData | None = None
) -> LevelResult:
    """Certify a pair that was found in an earlier run, without a solve for it (collective).

    The bounds come from the data and the pair alone, so that they hold whatever file it was kept
    in; what the flux lacks of being conservative is corrected.

    Parameters
    ----------
    mesh, data
        Mesh and cell data.
    found
        The pair, and what else the run knew.
    continuum
        Data of the bounds for the original densities, if these are asked for.

    Raises
    ------
    NotConverged
        If the pair certifies nothing.
    """
    facets = PotentialSpace(mesh, data.cells, CROUZEIX_RAVIART, data.active)
    found = replace(found, flux=equilibrate(facets, data, found.flux))
    integrals, bounds, _ = certified(data, found.potential, found.flux, continuum)
    return _result(data, found, integrals, bounds, continuum)


def _result(
    data: CellData,
    found: FoundPair,
    integrals: CellIntegrals,
    bounds: Bounds,
    continuum: ContinuumData | None,
) -> LevelResult:
    return LevelResult(
        **vars(found),
        data=data,
        fields=pair_fields(data, found.potential, found.flux, integrals, continuum),
        bounds=bounds,
        totals=pair_totals(data, integrals),
    )


@dataclass(frozen=True)
class _Pair:
    """A conforming potential and a conservative flux, and what they certify together."""

    space: PotentialSpace
    potential: PotentialValues
    flux: FloatArray
    integrals: CellIntegrals
    bounds: Bounds
    cell_data_gap: float


@dataclass
class _LevelRun:
    """State of one call of `solve_level`; arguments as there."""

    mesh: Mesh
    data: CellData
    goal: LevelGoal
    method: Method
    statistics: LinearStatistics
    monitor: Monitor
    coarse: tuple[LevelResult, IntArray] | None
    stopped: Callable[[], bool]
    continuum: ContinuumData | None
    trust: dict[str, Trust] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    flux_kind: str = ""
    failure: str | None = None
    first_gap: float = np.nan
    first_steps: int = 0

    def __post_init__(self) -> None:
        self.gains = {} if self.coarse is None else dict(self.coarse[0].gains)
        self.facets = self.space(CROUZEIX_RAVIART)
        self.flux_kind = self.first_kind

    def space(self, kind: str) -> PotentialSpace:
        return PotentialSpace(self.mesh, self.data.cells, kind, self.data.active)

    @property
    def first_kind(self) -> str:
        """The conforming space to begin with."""
        # At λ = ∞ a P1 potential of slope one has an error like h, and P2 one like h².
        allowed = self.continuum is None and self.goal.lower_bound != LAGRANGE_1
        return LAGRANGE_2 if self._steep and allowed else LAGRANGE_1

    @property
    def _steep(self) -> bool:
        return bool(np.isinf(self.data.strength)) and isinstance(self.method, Newton)

    def solve(self, space: PotentialSpace, start: Iterate, expected_gap: float) -> SpaceResult:
        goal, method = self.goal.relative_gap, self.method
        share = max(method.gap_share * goal, method.unsolved_share * expected_gap)
        if self.coarse is not None:
            before = self.coarse[0].trust.get(space.kind, Trust.FULL)
            start = replace(start, trust=before.or_less(start.trust))
        arguments = (space, self.data.capacity, self.data.load, start, share)

        def report(step: Step) -> bool:
            return self.monitor(space.kind, step)

        if isinstance(method, Newton):
            result = solve_newton(*arguments, method, self.statistics, report)
        else:
            result = solve_augmented_lagrangian(*arguments, method, self.statistics, report)
        self.trust[space.kind] = result.trust
        if not result.converged:
            self.left[space.kind] = result.gap / result.cost if result.cost > 0.0 else np.inf
        return result

    def conservative(self, result: SpaceResult) -> FloatArray:
        """Return the conservative flux (n, d+1) next to that of an iterate."""
        data = self.data
        flux = marini_momentum(data.cells, result.iterate.flux.mean(axis=1), data.load)
        return equilibrate(self.facets, data, flux)

    def certified(
        self, space: PotentialSpace, potential: PotentialValues, flux: FloatArray
    ) -> _Pair:
        found = certified(self.data, potential, flux, self.continuum)
        return _Pair(space, potential, flux, *found)

    def wants(self, kind: str, pair: _Pair) -> bool:
        """Whether to solve in a better space."""
        if kind == pair.space.kind or self.stopped():
            return False
        if self._steep and kind == CROUZEIX_RAVIART:
            # There the flux of another space strays from the straight ways, on every mesh.
            return pair.bounds.relative_gap > self.goal.relative_gap
        cheap = kind == CROUZEIX_RAVIART and self.first_steps >= _CHEAP_BESIDE
        if cheap and self.stream is not None:
            # One or two steps more.
            return pair.bounds.relative_gap > self.goal.relative_gap
        return _is_wanted(self.goal, pair.bounds.relative_gap, self.gains, kind, self._slow)

    @property
    def _slow(self) -> bool:
        """Whether the gap of the first space fell by less than it should from mesh to mesh."""
        if self.coarse is None:
            return False
        count, before = (
            cells.total(np.ones(cells.number))
            for cells in (self.data.cells, self.coarse[0].data.cells)
        )
        order = _LEAST_ORDER / self.data.cells.dimension
        return self.first_gap > self.coarse[0].first_gap * (before / count) ** order

    @cached_property
    def stream(self) -> StreamSpace | None:
        """Stream functions, where they give the flux of Crouzeix–Raviart."""
        congested = bool(np.isfinite(self.data.strength))
        if self.data.cells.dimension != 2 or not congested or not isinstance(self.method, Newton):
            return None
        space = stream_space(self.facets)
        return space if space.complete else None

    def sharpen_flux(self, pair: _Pair, first: SpaceResult) -> tuple[_Pair, SpaceResult]:
        """Return the better pair of two, with the flux of Crouzeix–Raviart, and its iterate."""
        cells = self.data.cells
        open_volume = cells.total(np.where(self.data.active, cells.volume, 0.0))
        smoothing = max(first.iterate.smoothing or 0.0, 0.1 * pair.cell_data_gap / open_volume)
        start = transfer(first.iterate, self.facets, np.arange(cells.number))
        start = replace(start, smoothing=smoothing, trust=first.trust)
        try:
            if self.stream is not None:
                flux, result = self.solve_stream(self.stream, pair, start)
            else:
                result = self.solve(self.facets, start, self._expected_gap(CROUZEIX_RAVIART, pair))
                flux = self.conservative(result)
            found = self.certified(pair.space, pair.potential, flux)
        except NotConverged as error:
            self.failure = str(error)
            return pair, first
        return self._better(pair, found, CROUZEIX_RAVIART), result

    def solve_stream(
        self, space: StreamSpace, pair: _Pair, start: Iterate
    ) -> tuple[FloatArray, SpaceResult]:
        """Return the best flux near that of a pair, and its iterate."""
        method = self.method
        assert isinstance(method, Newton)
        asked = method.gap_share * self.goal.relative_gap * pair.bounds.upper

        def tolerance(decrease: float) -> float:
            return max(asked, method.unsolved_share * (pair.cell_data_gap - decrease))

        flux, result = solve_stream(
            space,
            self.data.capacity,
            pair.flux,
            start,
            tolerance,
            method,
            self.statistics,
            lambda step: self.monitor(STREAM, step),
        )
        if not result.converged:
            self.left[STREAM] = result.gap / result.cost if result.cost > 0.0 else np.inf
        return flux, result

    def sharpen_potential(self, pair: _Pair, start: SpaceResult) -> _Pair:
        """Return the better pair of two, with a potential in P2."""
        p2 = self.space(LAGRANGE_2)
        iterate = transfer(start.iterate, p2, np.arange(self.data.cells.number))
        iterate = replace(iterate, trust=start.trust)
        try:
            result = self.solve(p2, iterate, self._expected_gap(LAGRANGE_2, pair))
            found = self.certified(p2, conforming_values(p2, self.data, result), pair.flux)
        except NotConverged as error:
            self.failure = str(error)
            return pair
        return self._better(pair, found, LAGRANGE_2)

    def unfinished(self, pair: _Pair) -> tuple[str, ...]:
        """Return the spaces whose iteration was cut short, if that keeps the gap open."""
        # P1 is idle where P2 gives the lower bound and Crouzeix–Raviart the upper. Any other space
        # would have made the gap smaller.
        idle = {self.first_kind} - {pair.space.kind, self.flux_kind}
        return tuple(
            kind
            for kind, gap in self.left.items()
            # Written so that what is not a number counts.
            if not gap <= _IMMATERIAL * pair.bounds.relative_gap and kind not in idle
        )

    def _expected_gap(self, kind: str, pair: _Pair) -> float:
        return pair.bounds.relative_gap / self.gains.get(kind, _LARGEST_GAIN)

    def _better(self, before: _Pair, found: _Pair, kind: str) -> _Pair:
        # Nothing, or infinitely much, between the bounds tells nothing of what a space gains.
        if 0.0 < before.cell_data_gap < np.inf and 0.0 < found.cell_data_gap < np.inf:
            self.gains[kind] = before.cell_data_gap / found.cell_data_gap
        gaps = [(one.bounds.gap, one.cell_data_gap) for one in (found, before)]
        if not gaps[0] < gaps[1]:
            return before
        if kind == CROUZEIX_RAVIART:
            self.flux_kind = kind
        return found


def _is_wanted(
    goal: LevelGoal, relative_gap: float, gains: Mapping[str, float], kind: str, slow: bool
) -> bool:
    """Whether a better space is worth its solve: the gap so far, and what it gained before."""
    if kind == LAGRANGE_2 and goal.lower_bound != "auto":
        return goal.lower_bound == LAGRANGE_2
    if goal.lower_bound == LAGRANGE_2:
        # A sharper lower bound beside the flux of P1 would be half of what is asked for.
        return True
    if relative_gap <= goal.relative_gap:
        return False
    measured = kind in gains
    if goal.last or slow or (measured and gains[kind] > _LARGEST_GAIN):
        return True
    if kind == CROUZEIX_RAVIART:
        # The first mesh measures what it gains; later P2 may add to it.
        reach = gains[kind] * gains.get(LAGRANGE_2, 1.0) if measured else np.inf
    else:
        reach = gains.get(kind, _HOPED_P2_GAIN)
    return bool(relative_gap <= _OPTIMISM * reach * goal.relative_gap)
