"""Quadrature on simplices: fixed rules, error-controlled adaptive integration, exact clipping.

The adaptive integration compares two rules on every simplex and cuts only the simplices that
spend too much of the error budget; it keeps all pieces of one refinement level in arrays, so that
integrands are evaluated on many points at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import basix
import numpy as np
import numpy.typing as npt

from congested.clip_kernels import cut_each
from congested.errors import InputError, NotConverged
from congested.geometry import (
    FloatArray,
    IntArray,
    barycentric_coordinates,
    simplex_volumes,
    split_simplices,
)

Density = Callable[[FloatArray], FloatArray]
# (pieces (k, s, d), owner (k,)) -> integrals (k, …) and estimate of their error (k,); an infinite
# estimate asks for a cut whatever the budget.
PieceRule = Callable[[FloatArray, IntArray], tuple[FloatArray, FloatArray]]

# Degrees of the two rules that are compared: the error estimate is that of the lower one.
RULE_DEGREES = {2: (5, 8), 3: (9, 13)}

_POINTS_PER_CALL = 1 << 18
_NUMBERS_OF_PIECES = 1 << 24  # coordinates kept at a time: 128 MiB


@lru_cache(maxsize=64)
def simplex_rule(dimension: int, degree: int) -> tuple[FloatArray, FloatArray]:
    """Return a quadrature rule that is exact for polynomials up to a degree.

    Parameters
    ----------
    dimension
        1, 2 or 3.
    degree
        Total degree, at least 0.

    Returns
    -------
    tuple
        Points in barycentric coordinates (q, dimension + 1) and weights (q,) that sum to one.
    """
    cell = {
        1: basix.CellType.interval,
        2: basix.CellType.triangle,
        3: basix.CellType.tetrahedron,
    }[dimension]
    points, weights = basix.make_quadrature(cell, degree)
    points, weights = np.asarray(points, np.float64), np.asarray(weights, np.float64)
    barycentric = np.concatenate([1.0 - points.sum(axis=1, keepdims=True), points], axis=1)
    weights = weights / weights.sum()
    barycentric.flags.writeable = weights.flags.writeable = False
    return barycentric, weights


def integrate_over_simplices(
    density: Density,
    simplices: FloatArray,
    tolerance: float = 1e-10,
    *,
    must_split: Callable[[FloatArray], npt.NDArray[np.bool_]] | None = None,
    max_depth: int = 40,
    vertices: FloatArray | None = None,
) -> FloatArray:
    """Integrate a density over each simplex to an absolute error that is given in total.

    Parameters
    ----------
    density
        Maps points (k, d) to values (k,).
    simplices
        Vertices (n, d+1, d), d = 2 or 3.
    tolerance
        Bound of the sum, over all simplices, of the estimated absolute errors. The estimate is
        the difference of two rules: far above the error where the density is smooth, but at a
        jump inside a simplex it may be a few times too low.
    must_split
        Maps pieces (k, d+1, d) to booleans (k,): pieces that are to be cut whatever the rules
        say. A peak much narrower than its simplex can fall between all quadrature points; this
        is the way to make them look closer.
    max_depth
        Largest number of cuts from a simplex to a piece.
    vertices
        Simplices (n, d+1, d), one that holds each simplex: the density is then integrated against
        each of its barycentric coordinates, and the errors of all of them count.

    Returns
    -------
    numpy.ndarray
        Integrals (n,), or (n, d+1) with `vertices`.

    Raises
    ------
    NotConverged
        If the tolerance is not met within the depth or the memory allowed.
    InputError
        If the density returns something else than one finite number per point.
    """
    dimension = simplices.shape[2]
    low, high = (simplex_rule(dimension, degree) for degree in RULE_DEGREES[dimension])
    points = np.concatenate([low[0], high[0]])
    number_low = len(low[1])

    def rule(pieces: FloatArray, owner: IntArray) -> tuple[FloatArray, FloatArray]:
        coordinates = np.matmul(points, pieces)
        values = np.asarray(density(coordinates.reshape(-1, dimension)), dtype=np.float64)
        if values.shape != (coordinates.shape[0] * coordinates.shape[1],):
            raise InputError(
                f"found an array of shape {values.shape} for {coordinates.shape[0]} points; "
                "allowed: one number per point",
                key="density",
            )
        if not np.isfinite(values).all():
            where = coordinates.reshape(-1, dimension)[np.argmin(np.isfinite(values))]
            raise InputError(
                f"found a value that is not finite at {where.tolist()}; allowed: finite numbers",
                key="density",
            )
        values = values.reshape(len(pieces), len(points))
        volume = simplex_volumes(pieces)
        if vertices is not None:
            parent = barycentric_coordinates(vertices[owner], pieces)
            moments = values[:, None] * np.matmul(points, parent).swapaxes(1, 2)
        else:
            moments = values[:, None]
        fine = volume[:, None] * (moments[..., number_low:] @ high[1])
        coarse = volume[:, None] * (moments[..., :number_low] @ low[1])
        error = np.abs(fine - coarse).sum(axis=1)
        # Below rounding the difference says nothing; a cut would not make it smaller.
        error[error <= 4e-16 * volume * np.abs(values).max(axis=1)] = 0.0
        if must_split is not None:
            error[must_split(pieces)] = np.inf
        return (fine[:, 0] if vertices is None else fine), error

    return integrate_adaptively(
        rule, simplices, tolerance, points_per_piece=len(points), max_depth=max_depth
    )


def integrate_adaptively(
    rule: PieceRule,
    simplices: FloatArray,
    tolerance: float,
    *,
    points_per_piece: int = 1,
    max_depth: int = 40,
) -> FloatArray:
    """Apply a rule with an error estimate, and cut the simplices where the estimate is too large.

    On every level the pieces with the smallest errors are accepted as long as these add up to
    half of what is left of the tolerance, and all of them once they fit in it.

    Parameters
    ----------
    rule
        Maps pieces (k, d+1, d) and the indices (k,) of their simplices to integrals (k,), or
        several of them (k, m), and estimated errors (k,), infinite where the piece must be cut.
    simplices
        Vertices (n, d+1, d).
    tolerance
        Bound of the sum of the estimated errors of all accepted pieces.
    points_per_piece
        Number of points that the rule evaluates on a piece, to limit the memory of a call.
    max_depth
        Largest number of cuts from a simplex to a piece.

    Returns
    -------
    numpy.ndarray
        Integrals (n,) or (n, m).

    Raises
    ------
    NotConverged
        If the tolerance is not met within the depth or the memory allowed.
    """
    number, corners, dimension = simplices.shape
    integrals: FloatArray | None = None
    pieces, owner = simplices, np.arange(number)
    children = 2**dimension
    most_pieces = max(_NUMBERS_OF_PIECES // (corners * dimension), number)
    left = float(tolerance)
    for depth in range(max_depth + 1):
        value, error = _in_chunks(rule, pieces, owner, points_per_piece)
        accepted = _affordable(error, left)
        if integrals is None:
            integrals = np.zeros((number, *value.shape[1:]))
        np.add.at(integrals, owner[accepted], value[accepted])
        left -= float(error[accepted].sum())
        rest = np.flatnonzero(~accepted)
        if len(rest) == 0:
            return integrals
        if len(rest) * children > most_pieces or depth == max_depth:
            if tolerance > 0.0 or number == 1 or depth == max_depth:
                break
            # Without a budget to share the simplices do not depend on each other: one half after
            # the other needs half of the memory. (Layers 250 times wider than high need this.)
            return np.concatenate(
                [
                    integrate_adaptively(
                        _of_some(rule, half),
                        simplices[half],
                        0.0,
                        points_per_piece=points_per_piece,
                        max_depth=max_depth,
                    )
                    for half in np.array_split(np.arange(number), 2)
                ]
            )
        pieces = split_simplices(pieces[rest])
        owner = np.repeat(owner[rest], children)
    remaining = np.abs(value[rest]).sum()
    worst = pieces[rest[0]].mean(axis=0)
    raise NotConverged(
        f"adaptive quadrature stopped after {depth} cuts with {len(rest)} pieces of mass "
        f"{remaining:.3g} left, one near {np.round(worst, 6).tolist()}: the density jumps or is "
        f"too peaked there for the tolerance {tolerance:.3g}; allow a larger tolerance or let the "
        "mesh follow the jump"
    )


def _of_some(rule: PieceRule, some: IntArray) -> PieceRule:
    """Return the rule for some of the simplices, which are numbered anew."""
    return lambda pieces, owner: rule(pieces, some[owner])


def _in_chunks(
    rule: PieceRule, pieces: FloatArray, owner: IntArray, points_per_piece: int
) -> tuple[FloatArray, FloatArray]:
    step = max(1, _POINTS_PER_CALL // points_per_piece)
    chunks = [
        rule(pieces[start : start + step], owner[start : start + step])
        for start in range(0, max(len(pieces), 1), step)
    ]
    values, errors = zip(*chunks, strict=True)
    return np.concatenate(values), np.concatenate(errors)


def _affordable(error: FloatArray, budget: float) -> npt.NDArray[np.bool_]:
    """Return which pieces are accepted: all if the budget allows, else the best for half of it."""
    if error.sum() <= budget:
        return np.ones(len(error), dtype=bool)
    order = np.argsort(error)
    accepted = np.zeros(len(error), dtype=bool)
    accepted[order[np.cumsum(error[order]) <= 0.5 * budget]] = True
    return accepted


def clip_simplices(
    simplices: FloatArray, normal: npt.ArrayLike, offset: npt.ArrayLike
) -> tuple[FloatArray, IntArray]:
    """Cut simplices with a half-space, or each with one of its own, exactly.

    Parameters
    ----------
    simplices
        Vertices (n, d+1, d), d = 2 or 3.
    normal, offset
        The half-space normal·x ≤ offset; a normal (d,) or (n, d) and a number or (n,).

    Returns
    -------
    tuple
        Simplices (k, d+1, d) that fill the part inside without overlap, and for each the index
        (k,) of the simplex it was cut from. Their orientation is arbitrary. Simplices that only
        touch the half-space leave nothing.
    """
    normals = np.broadcast_to(np.asarray(normal, dtype=np.float64), simplices[:, 0].shape)
    offsets = np.broadcast_to(np.asarray(offset, dtype=np.float64), len(simplices))
    heights = np.einsum("nid,nd->ni", simplices, normals) - offsets[:, None]
    return cut_each(np.ascontiguousarray(simplices), heights)


def clip_to_box(
    simplices: FloatArray, lower: FloatArray, upper: FloatArray
) -> tuple[FloatArray, IntArray, IntArray]:
    """Cut simplices with a box, exactly; only those that its faces may cut are touched.

    Parameters
    ----------
    simplices
        Vertices (n, d+1, d).
    lower, upper
        Corners (d,) of the box.

    Returns
    -------
    tuple
        Pieces (k, d+1, d) inside the box of the simplices that are cut, the index (k,) of the
        simplex each was cut from, and the indices of the simplices that lie wholly inside.
    """
    low, high = simplices.min(axis=1), simplices.max(axis=1)
    inside = ((low >= lower) & (high <= upper)).all(axis=1)
    outside = ((high <= lower) | (low >= upper)).any(axis=1)
    owner = np.flatnonzero(~inside & ~outside)
    pieces = simplices[owner]
    for axis in range(simplices.shape[2]):
        for sign, offset in ((1.0, upper[axis]), (-1.0, -lower[axis])):
            normal = np.zeros(simplices.shape[2])
            normal[axis] = sign
            pieces, parent = clip_simplices(pieces, normal, offset)
            owner = owner[parent]
    return pieces, owner, np.flatnonzero(inside)
