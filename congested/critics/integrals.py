"""Integrals over each cell of what a critic and a solution are compared by.

Two rules are applied to every piece of a cell: the finer gives the integrals, twice the
difference an estimate of the error. On the pieces of a piecewise affine network its values and
gradients are integrated exactly by both; other critics have their cells cut where the rules differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from congested.critics.network import Critic, Network
from congested.critics.pieces import Pieces, affine_pieces, whole
from congested.critics.reference import Reference
from congested.critics.rounding import Rounding
from congested.geometry import BoolArray, FloatArray, split_simplices
from congested.integrand import gradient_penalty, momentum_norm, two_sided_penalty
from congested.quadrature import simplex_rule

#: The quantities, in the order of the columns; after them come the components of the momentum.
QUANTITIES = (
    "value",
    "penalty",
    "penalty_two_sided",
    "gradient_norm",
    "cosine",
    "gradient_difference",
    "reference_norm",
    "momentum_difference",
    "work",
)

# Degrees of the two rules: for functions that are affine on the pieces, and for all others.
_AFFINE_RULES = (2, 4)
_OTHER_RULES = (3, 6)
# Cells in which the pieces are counted before all are found.
_PROBED = 24
# Pieces whose columns are computed at a time.
_PIECES = 1 << 14
# Cuts of a cell where the rules differ, by dimension: at a kink each halves the error.
_MOST_CUTS = {2: 3, 3: 2}


@dataclass(frozen=True, eq=False)
class CellIntegrals:
    """Integrals of n cells.

    Attributes
    ----------
    fine
        Integrals (n, 9 + d) by the finer rule, in the order of `QUANTITIES`, then ∫ of the
        critic's momentum.
    difference
        The same less that by the other rule.
    lengths, stiffness
        |∇f| at all points (k,) of the finer rule, and the capacity times the volume there (0 for
        W₁); once per piece if `exact`.
    coarse_lengths, coarse_stiffness
        The same of the other rule; the same arrays if `exact`.
    pieces
        Number of pieces.
    doubt
        Sizes of the kinks that rounding may have hidden in each cell (n,), see `Pieces`.
    exact
        Whether value and gradient were integrated exactly.
    """

    fine: FloatArray
    difference: FloatArray
    lengths: FloatArray
    stiffness: FloatArray
    coarse_lengths: FloatArray
    coarse_stiffness: FloatArray
    pieces: int
    doubt: FloatArray
    exact: bool

    def column(self, name: str) -> FloatArray:
        """Return the integrals (n,) of a quantity."""
        return self.fine[:, QUANTITIES.index(name)]

    def error(self, name: str) -> FloatArray:
        """Return twice the difference of the two rules (n,), which at kinks are equally good."""
        return 2.0 * np.abs(self.difference[:, QUANTITIES.index(name)])

    @property
    def momentum(self) -> FloatArray:
        """Integrals (n, d) of the critic's momentum."""
        return self.fine[:, len(QUANTITIES) :]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pieces with the critic at the points of both rules: value (k, q), gradient (k, q or 1, d)."""

    pieces: Pieces
    value: FloatArray
    gradient: FloatArray
    points: FloatArray
    weights: tuple[FloatArray, FloatArray]


def pieces_per_cell(reference: Reference, network: Network, most: float) -> float:
    """Return about how many pieces a network has in a cell, from some of this rank's cells.

    Infinite as soon as these have `most` on average.
    """
    number = len(reference.simplices)
    if number == 0:
        return 0.0
    some = np.unique(np.linspace(0, number - 1, _PROBED).astype(int))
    count = 0
    for pieces in affine_pieces(network, reference.simplices[some]):
        count += len(pieces.owner)
        if count > most * len(some):
            return math.inf
    return count / len(some)


def integrate(
    reference: Reference,
    critic: Critic,
    tolerance: float,
    network: Network | None,
    rounding: Rounding | None = None,
    most: float = math.inf,
) -> CellIntegrals | None:
    """Integrate a critic over this rank's cells (not collective).

    Parameters
    ----------
    reference
        The solution.
    critic
        The critic, of the solution's dimension.
    tolerance
        Error of value and penalty that a cell may have, without `network`; it holds as far as the
        number of cuts allows.
    network
        The piecewise affine network that the critic is a multiple of, if its pieces are to be
        found; else None.
    rounding
        What rounding can do to that network, on the whole domain.
    most
        Number of pieces that may be found.

    Returns
    -------
    CellIntegrals or None
        None if there are more pieces.
    """
    number, columns = len(reference.simplices), len(QUANTITIES) + reference.dimension
    fine, difference = np.zeros((number, columns)), np.zeros((number, columns))
    # |∇f| and the capacity times the volume, by the finer rule and by the other.
    slopes: list[list[FloatArray]] = [[np.zeros(0)] for _ in range(4)]
    doubt = np.zeros(number)
    count = 0
    if network is not None:
        batches = _affine_batches(reference, critic, network, rounding)
    else:
        batches = _adaptive_batches(reference, critic, tolerance)
    for batch in batches:
        owner = batch.pieces.owner
        volume = _volumes(reference, batch.pieces)
        split = len(batch.weights[0])
        values = _columns(reference, batch)
        coarse_sums, sums = (
            volume[:, None] * np.einsum("kqc,q->kc", part, weights)
            for part, weights in zip(
                (values[:, :split], values[:, split:]), batch.weights, strict=True
            )
        )
        first = int(owner.min()) if len(owner) else 0
        for target, parts in ((fine, sums), (difference, sums - coarse_sums)):
            for column in range(columns):
                added = np.bincount(owner - first, parts[:, column])
                target[first : first + len(added), column] += added
        norm = np.linalg.norm(batch.gradient, axis=2)
        stiffness = (reference.finite_capacity[owner] * volume)[:, None]
        rules = zip((norm[:, split:], norm[:, :split]), batch.weights[::-1], strict=True)
        for place, (part, weights) in enumerate(rules):
            # One length per piece where the gradient is constant.
            if network is not None:
                part, weights = norm, np.ones(1)
            slopes[2 * place].append(part.ravel())
            slopes[2 * place + 1].append((stiffness * weights).ravel())
            if network is not None:
                break
        doubt += np.bincount(owner, batch.pieces.doubt, minlength=number)
        count += len(owner)
        if network is not None and count > most:
            return None
    exact = network is not None
    lengths, stiffness, *others = (np.concatenate(one) for one in slopes)
    coarse_lengths, coarse_stiffness = (lengths, stiffness) if exact else others
    return CellIntegrals(
        fine, difference, lengths, stiffness, coarse_lengths, coarse_stiffness, count, doubt, exact
    )


def _volumes(reference: Reference, pieces: Pieces) -> FloatArray:
    """Return the volumes (k,) of pieces."""
    edges = pieces.shares[:, 1:, 1:] - pieces.shares[:, :1, 1:]
    return np.asarray(reference.volume[pieces.owner] * np.abs(np.linalg.det(edges)))


def _rules(dimension: int, degrees: tuple[int, int]) -> tuple[FloatArray, tuple[FloatArray, ...]]:
    """Return the points (q, d+1) of two rules, coarse first, and the weights of each."""
    rules = [simplex_rule(dimension, degree) for degree in degrees]
    return np.concatenate([rule[0] for rule in rules]), tuple(rule[1] for rule in rules)


def _affine_batches(
    reference: Reference, critic: Critic, network: Network, rounding: Rounding | None
) -> Iterator[_Batch]:
    points, weights = _rules(reference.dimension, _AFFINE_RULES)
    for found in affine_pieces(network, reference.simplices, rounding):
        for first in range(0, len(found.owner), _PIECES):
            some = slice(first, first + _PIECES)
            pieces = found.part(some)
            vertices = np.matmul(pieces.shares, reference.simplices[pieces.owner])
            flat = vertices.reshape(-1, reference.dimension)
            value = critic.value(flat).reshape(vertices.shape[:2]) @ points.T
            gradient = critic.gradient(vertices.mean(axis=1))[:, None]
            yield _Batch(pieces, value, gradient, points, (weights[0], weights[1]))


def _adaptive_batches(reference: Reference, critic: Critic, tolerance: float) -> Iterator[_Batch]:
    dimension = reference.dimension
    points, weights = _rules(dimension, _OTHER_RULES)
    split = len(weights[0])
    cells = max(_PIECES // len(points), 1)
    for start in range(0, len(reference.simplices), cells):
        number = min(cells, len(reference.simplices) - start)
        first = whole(number, dimension + 1)
        waiting = [(Pieces(first.shares, first.owner + start, first.doubt), 0)]
        while waiting:
            pieces, cuts = waiting.pop()
            batch = _evaluated(reference, critic, pieces, points, (weights[0], weights[1]))
            values = _dual_columns(reference, batch)
            sums = [
                np.einsum("kqc,q->kc", part, rule)
                for part, rule in zip(
                    (values[:, :split], values[:, split:]), batch.weights, strict=True
                )
            ]
            volume = _volumes(reference, pieces)
            error = volume * np.abs(sums[0] - sums[1]).sum(axis=1)
            bad = error > tolerance * volume / reference.volume[pieces.owner]
            if cuts == _MOST_CUTS[dimension]:
                bad[:] = False
            yield _selected(batch, ~bad)
            if bad.any():
                # Any d of the barycentric coordinates are affine coordinates.
                corners = split_simplices(pieces.shares[bad][..., 1:])
                shares = np.concatenate([1.0 - corners.sum(axis=2, keepdims=True), corners], axis=2)
                owner = np.repeat(pieces.owner[bad], 2**dimension)
                for part in np.array_split(np.arange(len(owner)), -(-len(owner) // cells)):
                    waiting.append(
                        (Pieces(shares[part], owner[part], np.zeros(len(part))), cuts + 1)
                    )


def _evaluated(
    reference: Reference,
    critic: Critic,
    pieces: Pieces,
    points: FloatArray,
    weights: tuple[FloatArray, FloatArray],
) -> _Batch:
    """Evaluate a critic at the points of both rules on pieces."""
    vertices = np.matmul(pieces.shares, reference.simplices[pieces.owner])
    places = np.matmul(points, vertices)
    flat = places.reshape(-1, reference.dimension)
    value = critic.value(flat).reshape(places.shape[:2])
    return _Batch(pieces, value, critic.gradient(flat).reshape(places.shape), points, weights)


def _selected(batch: _Batch, some: BoolArray) -> _Batch:
    pieces = batch.pieces.part(some)
    return _Batch(pieces, batch.value[some], batch.gradient[some], batch.points, batch.weights)


def _dual_columns(reference: Reference, batch: _Batch) -> FloatArray:
    """Return what the dual value is the integral of: (k, q, 2)."""
    owner = batch.pieces.owner
    norm = np.linalg.norm(batch.gradient, axis=2)
    load = (reference.source - reference.target)[owner, None] * batch.value
    capacity = reference.finite_capacity[owner, None]
    return np.stack([load, gradient_penalty(norm, capacity)], axis=2)


def _columns(reference: Reference, batch: _Batch) -> FloatArray:
    """Return the integrands (k, q, 9 + d) at the points."""
    pieces, gradient = batch.pieces, batch.gradient
    owner = pieces.owner
    places = np.matmul(batch.points, pieces.shares)
    momentum = np.matmul(places, reference.momentum[owner])
    expected = reference.gradient[owner]
    if expected.shape[1] > 1:
        expected = np.matmul(places, expected)
    capacity = reference.finite_capacity[owner, None]
    norm = np.linalg.norm(gradient, axis=2)
    expected_norm = np.linalg.norm(expected, axis=2)
    product = norm * expected_norm
    inner = np.einsum("kqd,kqd->kq", *np.broadcast_arrays(gradient, expected))
    cosine = np.divide(inner, product, out=np.zeros(inner.shape), where=product > 0.0)
    length = momentum_norm(norm, capacity)
    factor = np.divide(length, norm, out=np.zeros(norm.shape), where=norm > 0.0)
    own = -factor[..., None] * gradient
    columns = (
        batch.value,
        gradient_penalty(norm, capacity),
        two_sided_penalty(norm, capacity),
        norm,
        cosine,
        norm**2 - 2.0 * inner + expected_norm**2,
        expected_norm,
        np.linalg.norm(own - momentum, axis=2),
        np.einsum("kqd,kqd->kq", *np.broadcast_arrays(momentum, gradient)),
        *np.moveaxis(own, 2, 0),
    )
    result = np.empty((*batch.value.shape, len(columns)))
    for number, column in enumerate(columns):
        result[..., number] = column
    return result
