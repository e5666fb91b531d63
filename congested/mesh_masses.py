"""A problem on a mesh: the masses of source, target and weight in its cells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from congested.errors import InputError
from congested.geometry import Cells
from congested.measures.base import Measure, RestrictedMasses, restricted_masses
from congested.measures.points import Points, away_from_facets
from congested.problem import Problem
from congested.weights.base import CellWeight, unused_weight
from congested.weights.compute import cell_weight
from congested.weights.kinds import ENDS, Interpolates, MeasureWeight, MixtureWeight, Weight

# Part of the weight, or of a measure, that may be lost without a word.
NOTICED_LOSS = 1e-3
# A cause is named that makes up at least this part of the loss.
_NAMED_CAUSE = 0.1

logger = logging.getLogger(__name__)

Timed = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class MeshMasses:
    """What a problem has in the cells of a mesh.

    Attributes
    ----------
    source, target
        Masses of μ and ν, restricted to the domain and renormalised.
    weight
        Masses of σ.
    """

    source: RestrictedMasses
    target: RestrictedMasses
    weight: CellWeight


def mesh_masses(
    problem: Problem, cells: Cells, timed: Timed = nullcontext, *, with_weight: bool = True
) -> MeshMasses:
    """Compute the masses of source, target and weight in the cells (collective).

    Segments start and end away from the facets of the cells, see `away_from_facets`.

    Parameters
    ----------
    problem
        The problem.
    cells
        The cells of a mesh of its domain.
    timed
        Makes a context from ``"setup"`` (source and target) and ``"weight"``, to time them.
    with_weight
        Whether the weight is computed. W₁ does without; the weight is zero then.

    Raises
    ------
    InputError
        If a measure or the weight does not fit the domain; the key begins with that of its table.
        Every rank raises it.
    """
    with timed("setup"):
        source = _restricted(problem.source, cells, "source")
        target = _restricted(problem.target, cells, "target")
    if not with_weight:
        return MeshMasses(source, target, unused_weight(cells))
    with timed("weight"):
        start = away_from_facets(problem.source, cells)
        end = away_from_facets(problem.target, cells)
        weight = cell_weight(problem.weight, start, end, cells)
    return MeshMasses(source, target, weight)


def _restricted(measure: Measure, cells: Cells, name: str) -> RestrictedMasses:
    try:
        return restricted_masses(measure, cells, name)
    except InputError as error:
        if error.key == name:
            raise
        # A measure names its own field, and not the table that it stands in.
        raise error.within(name) from error


def warn_of_cut_measures(masses: MeshMasses, rank: int) -> None:
    """Log how much of source and target lies outside the domain, unless it is little.

    Parameters
    ----------
    masses
        The masses in the cells of a mesh.
    rank
        Rank of the process; only 0 speaks.
    """
    for name, measure in (("source", masses.source), ("target", masses.target)):
        if rank == 0 and measure.outside > NOTICED_LOSS:
            logger.warning(
                "%.3g %% of the %s lies outside the domain: it is left out, and the rest scaled up",
                100.0 * measure.outside,
                name,
            )


def warn_of_lost_weight(problem: Problem, masses: MeshMasses, rank: int) -> None:
    """Log how much of the weight is lost outside the domain, and why, unless it is little.

    Parameters
    ----------
    problem
        The problem.
    masses
        Its masses in the cells of a mesh.
    rank
        Rank of the process; only 0 speaks.
    """
    weight = masses.weight
    whole = weight.mass + weight.lost
    if rank == 0 and weight.lost > NOTICED_LOSS * whole:
        logger.warning(
            "%.3g %% of the weight is lost outside the domain: %s; the rest is not scaled up",
            100.0 * weight.lost / whole,
            ", and ".join(dict.fromkeys(_reasons(problem, masses))),
        )


def _reasons(problem: Problem, masses: MeshMasses) -> Iterator[str]:
    outside = {"source": masses.source.outside, "target": masses.target.outside}
    least = _NAMED_CAUSE * masses.weight.lost
    found = masses.weight
    for share, weight, lost in _losses(problem.weight, 1.0, found.lost, found.details):
        if isinstance(weight, MeasureWeight) and lost > least:
            yield "the weight is a measure that was given, and reaches beyond it"
        if not isinstance(weight, Interpolates):
            continue
        ends = {weight.coupling} if weight.coupling in ENDS else set(outside)
        # A line with both ends in a convex domain stays there.
        if weight.coupling not in ENDS and lost - share * sum(outside.values()) > least:
            yield "lines from source to target leave the domain, which is not convex"
        for name in outside:
            if name in ends and share * outside[name] > least:
                yield f"{100.0 * outside[name]:.3g} % of the {name} lies there"


def lies_on_lines(problem: Problem) -> bool:
    """Whether the weight, or a part of it, lies on lines or points, which no mesh resolves."""

    def thin(weight: Weight) -> bool:
        if isinstance(weight, MixtureWeight):
            return any(thin(part) for part in weight.parts)
        if isinstance(weight, MeasureWeight):
            return isinstance(weight.measure, Points)
        ends = {"source": problem.source, "target": problem.target}
        if not isinstance(weight, Interpolates):
            return False
        if weight.coupling in ENDS:
            return isinstance(ends[weight.coupling], Points)
        return all(isinstance(end, Points) for end in ends.values())

    return thin(problem.weight)


def _losses(
    weight: Weight, share: float, lost: float, details: Mapping[str, Any]
) -> Iterator[tuple[float, Weight, float]]:
    """Yield share, weight and lost mass of all parts of a mixture, or of the weight itself."""
    if isinstance(weight, MixtureWeight):
        for part, entry in zip(weight.parts, details["parts"], strict=True):
            part_share = share * entry["share"]
            yield from _losses(part, part_share, part_share * entry["lost"], entry)
    else:
        yield share, weight, lost
