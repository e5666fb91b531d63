"""A critic held against a solution: its dual value, what it misses, and where.

With the data of the cells (μ_T, ν_T, σ_T) the dual value of a critic f is

    D(f) = Σ_T (μ_T − ν_T) mean_T f − λ σ_T mean_T (|∇f| − 1)₊²,

and no critic has one above the certified upper bound. What f lacks to that bound is Σ_T η_T(f),
with the indicator η_T(f) = ∫_T φ(∇f) + H(m) + ∇f·m ≥ 0 of the solution's flux m: the certificate,
with the critic in the place of the potential.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from congested.certificate import potential_means
from congested.critics.integrals import CellIntegrals, integrate, pieces_per_cell
from congested.critics.network import Critic, Multiple, Network
from congested.critics.reference import Reference
from congested.critics.rounding import Rounding, rounding_of
from congested.errors import CongestedError, InputError
from congested.geometry import FloatArray, barycentric_gradients
from congested.io.arrays import gather_rows
from congested.measures.base import run_collectively
from congested.recovery import best_factor

# What value and penalty of a critic that is not piecewise affine may be wrong by, over the cost.
_TOLERANCE = 1e-4
# Pieces that are found at most: some minutes' work.
_MOST_PIECES = 6_000_000
# Relative error of a sum of very many numbers, each right to the last digits.
_ROUNDING = 1e-13
# A slope above one by less than this is one: no critic has its slope to the last digit.
_STEEP = 1e-9


@dataclass(frozen=True)
class Mean:
    """A mean over the domain.

    Attributes
    ----------
    source, weight, momentum
        Under μ, under σ, and under |m| of the solution, where ∇u is unique. NaN where there is no
        such measure.
    error
        The largest error of the three: an estimate, twice what two quadrature rules differ by.
    """

    source: float
    weight: float
    momentum: float
    error: float


@dataclass(frozen=True, eq=False)
class CriticFields:
    """A critic on cells (n,), for pictures.

    Attributes
    ----------
    value
        Mean of f, its constant chosen as that of the solution's potential.
    gradient_norm
        Mean of |∇f|.
    momentum
        Mean (n, d) of the critic's momentum −2λσ(|∇f| − 1)₊∇f/|∇f|.
    momentum_difference
        Mean of its distance from the solution's momentum.
    indicator
        η_T(f), whose sum is what the critic lacks to the upper bound.
    """

    value: FloatArray
    gradient_norm: FloatArray
    momentum: FloatArray
    momentum_difference: FloatArray
    indicator: FloatArray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a critic is worth for the data of a solution's cells.

    Attributes
    ----------
    sign
        1, or −1 if the critic is low on the source: everything else is of sign · f.
    constant
        What is added to the critic to compare it with the solution's potential.
    critic_loss, penalty, penalty_two_sided
        L = ∫ f d(μ − ν), λ∫(|∇f| − 1)₊² dσ and λ∫(|∇f| − 1)² dσ. For W₁ a penalty is 0, or
        infinite where a slope exceeds one.
    error
        Bound of the error of L − P by rounding, if the critic was integrated exactly, else an
        estimate: twice what two quadrature rules differ by in each cell.
    suboptimality
        How far D(f) is from the largest there is, which nobody knows better than the bounds: the
        interval from lower bound − D(f), at least 0, to upper bound − D(f), widened by `error`.
    factor
        The best multiple of the critic is factor · f; 0 if nobody knows the sign of L.
    factor_dual_value, factor_error
        The dual value of that, and its error.
    gradient_norm, solution_gradient_norm, cosine, gradient_l2
        Means of |∇f|, of |∇u|, of the cosine of their angle and of |∇f − ∇u|².
    largest_gradient_norm
        The largest |∇f| seen: of all pieces, if `exact`.
    momentum_relative_l1
        ∫|m_f − m| over ∫|m|; NaN for W₁, where a critic has no momentum.
    momentum_relative_l1_error
        Its error, as of the means.
    momentum_divergence_error
        Half of Σ_i |∫ m_f·∇φ_i + ∫ φ_i d(μ − ν)| over the hat functions φ_i of the mesh: the part
        of the mass that the critic's momentum makes or loses at the scale of the cells. NaN for W₁.
    exact
        Whether value and gradient were integrated exactly.
    pieces
        Number of pieces of cells.
    fields
        The critic on all cells, on rank 0; None on the others.
    """

    sign: int
    constant: float
    critic_loss: float
    penalty: float
    penalty_two_sided: float
    error: float
    suboptimality: tuple[float, float]
    factor: float
    factor_dual_value: float
    factor_error: float
    gradient_norm: Mean
    solution_gradient_norm: Mean
    cosine: Mean
    gradient_l2: Mean
    largest_gradient_norm: float
    momentum_relative_l1: float
    momentum_relative_l1_error: float
    momentum_divergence_error: float
    exact: bool
    pieces: int
    fields: CriticFields | None

    @property
    def dual_value(self) -> float:
        """D = L − P."""
        return self.critic_loss - self.penalty


def evaluate(
    reference: Reference, critic: Critic, *, sign: int | None = None, exact: bool = True
) -> Evaluation:
    """Hold a critic against a solution (collective).

    Parameters
    ----------
    reference
        The solution.
    critic
        The critic.
    sign
        1 or −1: what the critic is multiplied by to be high on the source. None: what makes its
        critic loss positive.
    exact
        Whether piecewise affine networks are integrated exactly, piece by piece; else by
        quadrature, like all other critics.

    Returns
    -------
    Evaluation
        The same on every rank, but for the fields.

    Raises
    ------
    InputError
        If the critic is one of another dimension, or `sign` is something else.
    """
    if critic.dimension != reference.dimension:
        found = f"found a critic of {critic.dimension} coordinates"
        raise InputError(f"{found}; allowed: {reference.dimension}, as the solution", key="critic")
    if sign not in (None, 1, -1):
        raise InputError(f"found {sign}; allowed: 1 or -1", key="sign")
    comm = reference.comm
    number = comm.allreduce(len(reference.simplices))
    tolerance = _TOLERANCE * abs(reference.bounds.upper) / number
    network = _network_to_cut(reference, critic, number) if exact else None
    tried = _guessed_sign(reference, critic) if sign is None else sign
    while True:
        signed = Multiple(critic, float(tried))
        integrals, rounding = _integrated(reference, signed, tolerance, network)
        load = (reference.source - reference.target) * integrals.column("value")
        critic_loss = reference.total(load)
        if sign is not None or critic_loss >= 0.0:
            break
        sign = tried = -tried  # the guess was wrong
    return _evaluation(reference, integrals, rounding, tried, critic_loss)


def _integrated(
    reference: Reference, critic: Critic, tolerance: float, network: Network | None
) -> tuple[CellIntegrals, Rounding | None]:
    """Integrate a critic; exactly, and with what rounding can do, if by a network (collective)."""
    comm = reference.comm
    if network is not None:
        rounding = _rounding(reference, network)
        work = partial(integrate, reference, critic, tolerance, network, rounding, 2 * _MOST_PIECES)
        integrals = run_collectively(comm, work)
        # There can be more pieces than some cells let expect.
        if not comm.allreduce(integrals is None, op=MPI.LOR):
            assert integrals is not None
            return integrals, rounding
    integrals = run_collectively(comm, partial(integrate, reference, critic, tolerance, None))
    assert integrals is not None
    return integrals, None


def _network_to_cut(reference: Reference, critic: Critic, number: int) -> Network | None:
    """Return the network whose pieces shall be found (collective).

    None for critics that are not piecewise affine or have too many pieces: a network that sorts
    layers of 128 has thousands in a small cell, one in space millions in a large one.
    """
    if not isinstance(critic, Network) or not critic.piecewise_affine:
        return None
    most = _MOST_PIECES / number
    some = run_collectively(reference.comm, partial(pieces_per_cell, reference, critic, most))
    share = len(reference.simplices) / number
    pieces = float(reference.comm.allreduce(share * some, op=MPI.SUM))
    return critic if pieces <= most else None


def _rounding(reference: Reference, network: Network) -> Rounding:
    """Return what rounding can do to a network on the domain (collective)."""
    radius = np.abs(reference.simplices).max(axis=(0, 1), initial=0.0)
    reference.comm.Allreduce(MPI.IN_PLACE, radius, op=MPI.MAX)
    return rounding_of(network, radius)


def _rounding_errors(
    reference: Reference, integrals: CellIntegrals, rounding: Rounding
) -> tuple[float, float]:
    """Return bounds of the errors of critic loss and penalty of a network (collective).

    Where an entry of a layer counts as zero and is not, the gradient is that of the other side of
    a kink. For each entry z these places are |z| ≤ 2t in a piece that has such a vertex, and by the
    coarea formula ∫|∇z| over them is at most 4t times the largest section of the cell.
    """
    total, volume = reference.total, reference.volume
    difference = np.abs(reference.source - reference.target)
    mass = total(difference * volume)
    loss = mass * (rounding.value + rounding.shift)
    loss += _ROUNDING * total(difference * np.abs(integrals.column("value")))
    capacity = reference.finite_capacity
    edges = reference.simplices[:, :, None] - reference.simplices[:, None]
    diameter = np.linalg.norm(edges, axis=3).max(axis=(1, 2), initial=0.0)
    hidden = 4.0 * total(capacity * integrals.doubt * diameter ** (reference.dimension - 1))
    penalty = _ROUNDING * total(integrals.column("penalty"))
    for size in (hidden, rounding.gradient * total(capacity * volume)):
        if size > 0.0:
            penalty += size * rounding.slope
    return loss, penalty


def _guessed_sign(reference: Reference, critic: Critic) -> int:
    """Return the sign of the critic loss of the critic's interpolation (collective)."""

    def vertex_means() -> FloatArray:
        flat = reference.simplices.reshape(-1, reference.dimension)
        return critic.value(flat).reshape(reference.simplices.shape[:2]).mean(axis=1)

    means = run_collectively(reference.comm, vertex_means)
    load = reference.volume * (reference.source - reference.target)
    return 1 if reference.total(load * means) >= 0.0 else -1


def _evaluation(
    reference: Reference,
    integrals: CellIntegrals,
    rounding: Rounding | None,
    sign: int,
    critic_loss: float,
) -> Evaluation:
    comm, total = reference.comm, reference.total
    finite = math.isfinite(reference.strength)
    largest = comm.allreduce(float(integrals.lengths.max(initial=0.0)), op=MPI.MAX)
    penalty = total(integrals.column("penalty"))
    two_sided = total(integrals.column("penalty_two_sided"))
    if not finite:
        penalty = math.inf if largest > 1.0 + _STEEP else 0.0
        # The two-sided constraint |∇f| = 1 everywhere.
        smallest = comm.allreduce(float(integrals.lengths.min(initial=math.inf)), op=MPI.MIN)
        two_sided = penalty if smallest > 1.0 - _STEEP else math.inf
    difference = np.abs(reference.source - reference.target)
    dual_value = critic_loss - penalty
    lower, upper = reference.bounds.lower, reference.bounds.upper
    if rounding is not None:
        loss_error, penalty_error = _rounding_errors(reference, integrals, rounding)
    else:
        loss_error = total(difference * integrals.error("value"))
        penalty_error = total(integrals.error("penalty"))
    # For W₁ slopes count as one that exceed it by a little.
    error = loss_error + penalty_error + (0.0 if finite else _STEEP * abs(critic_loss))
    if rounding is None and dual_value - upper > error:
        # Impossible, so that the estimate was too small; it is at least this.
        error = dual_value - upper
    elif dual_value - upper > error + _ROUNDING * abs(upper):
        raise CongestedError(
            f"found the dual value {dual_value:.10g} ± {error:.2g} above the upper bound "
            f"{upper:.10g}, which is impossible: the solution or this program is wrong"
        )
    suboptimality = (max(0.0, lower - dual_value - error), upper - dual_value + error)
    factor, factor_dual_value, factor_error = _best_multiple(
        reference, integrals, critic_loss, loss_error, penalty_error, largest
    )

    flux_length = reference.volume * np.linalg.norm(reference.momentum.mean(axis=1), axis=1)
    divided = {
        "source": reference.source,
        "weight": reference.weight,
        "momentum": flux_length / reference.volume,
    }

    def mean(name: str) -> Mean:
        values, errors = {}, [0.0]
        for measure, density in divided.items():
            mass = total(density * reference.volume)
            if mass > 0.0:
                values[measure] = total(density * integrals.column(name)) / mass
                errors.append(total(density * integrals.error(name)) / mass)
            else:
                values[measure] = math.nan
        return Mean(**values, error=max(errors))

    momentum_l1 = total(flux_length)
    relative = relative_error = math.nan
    if finite and momentum_l1 > 0.0:
        relative = total(integrals.column("momentum_difference")) / momentum_l1
        relative_error = total(integrals.error("momentum_difference")) / momentum_l1
    mass = 0.5 * total(reference.volume * (reference.source + reference.target))
    middle = 0.5 * (reference.source + reference.target)
    potential = potential_means(reference.potential, reference.potential_edges)
    constant = total(middle * (reference.volume * potential - integrals.column("value"))) / mass
    fields = _gathered_fields(reference, integrals, constant)
    divergence = math.nan
    if finite:
        divergence = _divergence_error(reference, integrals.momentum)
    return Evaluation(
        sign=sign,
        constant=constant,
        critic_loss=critic_loss,
        penalty=penalty,
        penalty_two_sided=two_sided,
        error=error,
        suboptimality=suboptimality,
        factor=factor,
        factor_dual_value=factor_dual_value,
        factor_error=factor_error,
        gradient_norm=mean("gradient_norm"),
        solution_gradient_norm=mean("reference_norm"),
        cosine=mean("cosine"),
        gradient_l2=mean("gradient_difference"),
        largest_gradient_norm=largest,
        momentum_relative_l1=relative,
        momentum_relative_l1_error=relative_error,
        momentum_divergence_error=divergence,
        exact=integrals.exact,
        pieces=int(comm.allreduce(integrals.pieces)),
        fields=fields,
    )


def _best_multiple(
    reference: Reference,
    integrals: CellIntegrals,
    critic_loss: float,
    loss_error: float,
    penalty_error: float,
    largest: float,
) -> tuple[float, float, float]:
    """Return the best multiple of the critic, its dual value and the error of it (collective)."""
    # A critic loss within its error is none, and no reason to multiply.
    if largest == 0.0 or critic_loss <= loss_error:
        return 0.0, 0.0, 0.0
    # Slopes of the size of one, whatever the critic's units.
    loss, error = critic_loss / largest, loss_error / largest
    if math.isinf(reference.strength):
        return 1.0 / largest, loss, error + _STEEP * loss
    lengths: FloatArray = np.asarray(integrals.lengths / largest)
    factor = best_factor(reference.comm, lengths, integrals.stiffness, loss)

    def penalty(lengths: FloatArray, stiffness: FloatArray) -> float:
        excess = np.maximum(factor / largest * lengths - 1.0, 0.0)
        return reference.total(0.5 * stiffness * excess**2)

    fine = penalty(integrals.lengths, integrals.stiffness)
    coarse = penalty(integrals.coarse_lengths, integrals.coarse_stiffness)
    error = factor * error + abs(fine - coarse)
    if integrals.exact:
        # The penalty is quadratic in slopes: its error grows with the square of the factor.
        error += max(1.0, (factor / largest) ** 2) * penalty_error + _ROUNDING * fine
    return factor / largest, factor * loss - fine, error


def _gathered_fields(
    reference: Reference, integrals: CellIntegrals, constant: float
) -> CriticFields | None:
    """Bring the critic on all cells together on rank 0 (collective)."""
    volume = reference.volume
    own: dict[str, FloatArray] = {
        "value": integrals.column("value") / volume + constant,
        "gradient_norm": integrals.column("gradient_norm") / volume,
        "momentum": integrals.momentum / volume[:, None],
        "momentum_difference": integrals.column("momentum_difference") / volume,
        # For W₁ without the penalty, which is none or infinite.
        "indicator": integrals.column("penalty")
        + reference.integrals.transport_cost
        + integrals.column("work"),
    }
    gathered: dict[str, Any] = {
        name: gather_rows(reference.comm, rows) for name, rows in own.items()
    }
    return CriticFields(**gathered) if reference.comm.rank == 0 else None


def _divergence_error(reference: Reference, momentum: FloatArray) -> float:
    """Return how far integrals (n, d) of a momentum are from balancing μ − ν (collective)."""
    corners = reference.dimension + 1
    load = reference.volume * (reference.source - reference.target) / corners
    parts = np.einsum("nd,nid->ni", momentum, barycentric_gradients(reference.simplices))
    gathered = gather_rows(reference.comm, parts + load[:, None])
    error = 0.0
    if gathered is not None and reference.arrays is not None:
        cells = reference.arrays.cells
        residual = np.bincount(cells.ravel(), gathered.ravel(), len(reference.arrays.vertices))
        error = 0.5 * float(np.abs(residual).sum())
    return float(reference.comm.bcast(error))
