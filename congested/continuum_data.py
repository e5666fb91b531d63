"""What the bounds for the original densities need besides the cell data, and these bounds.

The problem they are for: μ and ν restricted to the cells that take part, with the factor that
`cell_data` applied to each part of the domain, and σ as it is; cells closed for want of weight are
walls. Vertex masses and cell masses come from quadrature with a tolerance, and the rows of vertex
masses are scaled to the cell masses that the flux balances. So the upper bound is that of densities
which differ from the given ones by a factor and an affine function in each cell, together within
the tolerances; the lower bound subtracts what the tolerances may do to it and holds for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import Bounds, CellIntegrals, gradient_at_vertices
from congested.continuum import ContinuumFields, continuum_integrals
from congested.errors import InputError
from congested.geometry import Cells, FloatArray
from congested.integrand import capacity as capacity_of
from congested.integrand import gradient_penalty
from congested.measures.base import (
    Measure,
    OffersAffineError,
    OffersDensityRange,
    OffersVertexMasses,
    affine_error_bound,
)
from congested.problem import CONTINUUM, Problem
from congested.weights.base import CellWeight
from congested.weights.kinds import Interpolates, MixtureWeight, Weight
from congested.weights.lower_bound import has_lower_bound, weight_from_below

_KEY = "solver.scope"
# Error of the vertex masses of a measure, and of its cell masses, in total.
MASS_TOLERANCE = 1e-10
# Masses that quadrature cannot tell from none.
_NO_MASS = 1e-290
# Part of the relative gap that may be lost by taking a weight from below, and its limits.
_LOSS_SHARE, _LEAST_LOSS, _MOST_LOSS = 0.1, 1e-6, 1e-3


@dataclass(frozen=True)
class ContinuumData:
    """Data of the bounds for the original densities on the owned cells.

    Attributes
    ----------
    fields
        Vertex masses, distances from affine functions, 1/σ from above.
    mass_error
        Absolute error of the vertex masses of both measures together.
    weight_error
        Absolute error of the cell masses σ_T in total.
    weight_loss
        Part of the weight that its bound from below leaves out.
    """

    fields: ContinuumFields
    mass_error: float
    weight_error: float
    weight_loss: float


def check_scope(problem: Problem) -> None:
    """Check that a problem has bounds for its original densities, if it asks for them.

    Raises
    ------
    InputError
        If its scope is "continuum" and there are none; the text names the part that is to blame.
    """
    if problem.solver.scope != CONTINUUM:
        return
    for name, measure in (("source", problem.source), ("target", problem.target)):
        kind = type(measure).__name__
        if not isinstance(measure, OffersVertexMasses):
            raise _refusal(f"the masses that {kind}, the {name}, has near vertices are not known")
        dense = isinstance(measure, OffersAffineError | OffersDensityRange)
        if not dense and not math.isinf(problem.strength):
            raise _refusal(
                f"{kind}, the {name}, has no density that can be bounded on a cell, which a finite "
                "penalty strength needs"
            )
    weight = problem.weight
    if not math.isinf(problem.strength):
        if not has_lower_bound(weight, problem.source, problem.target):
            raise _refusal(
                f"no lower bound of the weight {type(weight).__name__} is known inside the cells; "
                "there is one of constant weights, Gaussian mixtures, the interpolates of two of "
                "these with independent coupling, and mixtures of such weights"
            )
        _check_rules(weight, "weight")


def _check_rules(weight: Weight, place: str) -> None:
    """Refuse the rules whose errors have no bound, before anything is computed."""
    if isinstance(weight, MixtureWeight):
        for number, part in enumerate(weight.parts):
            _check_rules(part, f"{place}.parts[{number}]")
    if isinstance(weight, Interpolates) and weight.rule not in ("auto", "closed-form"):
        raise InputError(
            f'found "{weight.rule}", whose errors have no bound, with solver.scope = "continuum"; '
            'allowed: "auto" or "closed-form"',
            key=f"{place}.rule",
        )


def _refusal(reason: str) -> InputError:
    return InputError(f'found "continuum", but {reason}; allowed here: "cell-data"', key=_KEY)


def make_continuum_data(problem: Problem, data: CellData, weight: CellWeight) -> ContinuumData:
    """Compute what the bounds for the original densities need (collective).

    Parameters
    ----------
    problem
        The problem, for which `check_scope` found nothing.
    data
        Its cell data.
    weight
        Its weight, with the error of the cell masses.

    Raises
    ------
    InputError
        If more mass than the quadrature's error had to be moved to cells around, since no bound
        knows what that costs, or if the weight was sampled. On every rank.
    """
    moved = data.record["mass_moved"]
    for name in ("source", "target"):
        if moved[name] > MASS_TOLERANCE:
            raise _refusal(
                f"{moved[name]:.3g} of the {name} lies where the weight can hardly carry it away "
                "and was moved to the cells around"
            )
    if weight.replicates is not None or weight.errors is not None:
        raise _refusal("the masses of the weight are estimates: their errors have no bound")
    cells = data.cells
    source = _restricted(problem.source, cells, data.source)
    target = _restricted(problem.target, cells, data.target)
    inverse, loss, weight_error = None, 0.0, 0.0
    if not math.isinf(problem.strength):
        tolerance = _LOSS_SHARE * problem.solver.relative_gap
        below = weight_from_below(
            problem.weight,
            problem.source,
            problem.target,
            cells.total(cells.volume),
            min(max(tolerance, _LEAST_LOSS), _MOST_LOSS),
        )
        assert below is not None
        inverse, loss = below.inverse_coefficients(cells.simplices), below.loss
        # Twice, as a part of it is measured at samples of the weight.
        weight_error = 2.0 * float(weight.relative_error) * weight.mass + MASS_TOLERANCE
    fields = ContinuumFields(source[0], target[0], source[1], target[1], inverse)
    # For each measure: vertex masses, cell masses, their sum, by which they are divided, moves.
    return ContinuumData(fields, 2 * 4 * MASS_TOLERANCE, weight_error, loss)


def _restricted(
    measure: Measure, cells: Cells, masses: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return vertex masses with the given row sums, and the distances from affine functions."""
    assert isinstance(measure, OffersVertexMasses)
    raw = np.maximum(measure.vertex_masses(cells, MASS_TOLERANCE), 0.0)
    total = raw.sum(axis=1)
    known = total > _NO_MASS
    factor = np.divide(masses, total, out=np.zeros_like(masses), where=known)
    # Mass where quadrature saw none: rounding, spread evenly.
    even = np.where(known, 0.0, masses) / raw.shape[1]
    vertex_masses = factor[:, None] * raw + even[:, None]
    error = affine_error_bound(measure, cells)
    return vertex_masses, np.full(len(masses), np.inf) if error is None else factor * error


def continuum_bounds(
    data: CellData, continuum: ContinuumData, potential: FloatArray, flux: FloatArray
) -> tuple[CellIntegrals, Bounds]:
    """Evaluate the bounds for the original densities (collective).

    What the tolerances may change is subtracted from the lower bound. It belongs to no cell: the
    indicators share it by volume, so that they still sum to the gap.

    Parameters
    ----------
    data, continuum
        The data of the problem.
    potential
        P1 potential at the vertices (n, d+1) of the cells.
    flux
        Outward facet integrals (n, d+1) of the momentum.
    """
    cells, total = data.cells, data.cells.total
    integrals = continuum_integrals(
        cells.simplices,
        potential,
        flux,
        data.weight / cells.volume,
        data.strength,
        continuum.fields,
    )
    slack = _slack(data, continuum, potential)
    lower = float(total(integrals.critic_loss) - total(integrals.penalty) - slack)
    upper = total(integrals.transport_cost)
    active = np.where(data.active, cells.volume, 0.0)
    shared = integrals.gap_indicator + slack * active / total(active)
    return replace(integrals, gap_indicator=shared), Bounds(lower, upper, CONTINUUM, 0.0)


def _slack(data: CellData, continuum: ContinuumData, potential: FloatArray) -> float:
    """Return what errors of the vertex masses and of σ_T may take from the dual value."""
    values = potential[data.active]
    comm = data.cells.comm
    highest = comm.allreduce(float(values.max(initial=-np.inf)), op=MPI.MAX)
    lowest = comm.allreduce(float(values.min(initial=np.inf)), op=MPI.MIN)
    slack = continuum.mass_error * (highest - lowest)
    if not math.isinf(data.strength):
        slope = gradient_at_vertices(data.cells.simplices, potential)[data.active, 0]
        per_mass = gradient_penalty(
            np.linalg.norm(slope, axis=1), capacity_of(np.ones(1), data.strength)
        )
        worst = comm.allreduce(float(per_mass.max(initial=0.0)), op=MPI.MAX)
        slack += continuum.weight_error * worst
    return slack
