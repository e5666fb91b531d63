"""A problem on a mesh: the masses of source, target and weight in its cells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from congested.domain import Box
from congested.errors import InputError
from congested.geometry import Cells
from congested.measures.base import Measure, RestrictedMasses, restricted_masses
from congested.measures.points import away_from_facets
from congested.problem import Problem
from congested.weights.base import CellWeight
from congested.weights.compute import cell_weight
from congested.weights.kinds import ENDS, Interpolates, MeasureWeight, MixtureWeight, Weight

# Part of the weight that may be lost without a word.
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


def mesh_masses(problem: Problem, cells: Cells, timed: Timed = nullcontext) -> MeshMasses:
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

    Raises
    ------
    InputError
        If a measure or the weight does not fit the domain; the key begins with that of its table.
        Every rank raises it.
    """
    with timed("setup"):
        source = _restricted(problem.source, cells, "source")
        target = _restricted(problem.target, cells, "target")
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
            "%.2g %% of the weight is lost outside the domain: %s; the rest is not scaled up",
            100.0 * weight.lost / whole,
            ", and ".join(_reasons(problem, masses)),
        )


def _reasons(problem: Problem, masses: MeshMasses) -> Iterator[str]:
    weights = list(_simple(problem.weight))
    drawn = [part for part in weights if isinstance(part, Interpolates)]
    lines = [part for part in drawn if part.coupling not in ENDS]
    outside = {
        name: measure.outside
        for name, measure in (("source", masses.source), ("target", masses.target))
        if lines or any(part.coupling == name for part in drawn)
    }
    lost = masses.weight.lost
    # A line with both ends in a convex domain stays there.
    if lines and not isinstance(problem.domain, Box):
        if lost - sum(outside.values()) > _NAMED_CAUSE * lost:
            yield "lines from source to target leave the domain, which is not convex"
    for name, part in outside.items():
        if part > _NAMED_CAUSE * lost:
            yield f"{100.0 * part:.2g} % of the {name} lies there"
    if any(isinstance(part, MeasureWeight) for part in weights):
        yield "the weight is a measure that was given, and reaches beyond it"


def _simple(weight: Weight) -> Iterator[Weight]:
    """Yield the weights that a mixture is made of, or the weight itself."""
    if isinstance(weight, MixtureWeight):
        for part in weight.parts:
            yield from _simple(part)
    else:
        yield weight
