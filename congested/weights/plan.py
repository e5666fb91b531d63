"""Optimal transport plans between finite sets of points, exact, by POT's network simplex.

A plan is a vertex of the polytope of all couplings: at most N + M − 1 of its N·M masses are
positive. Where several plans are optimal, as is usual for the distance itself (order 1: mass may
change places with other mass along the same line), it is the vertex that the simplex method meets
first; the same points in the same order give the same one.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from mpi4py import MPI
from scipy.spatial.distance import cdist

from congested.errors import NotConverged
from congested.geometry import FloatArray, IntArray
from congested.measures.base import run_collectively
from congested.measures.points import Points

# Pairs of points for which a plan is computed; each takes about 40 bytes.
LARGEST_PLAN = 1 << 24
# Pivots of the simplex method before it gives up. 4,096 random points on each side need about 10⁶.
_MOST_PIVOTS = 10**9
# Sum of the differences between the plan's marginals and the weights that is put down to rounding.
_ROUNDING = 1e-9
# POT looks for these packages when it is imported, and would load torch for a second. If they are
# there already, somebody else in this process may want POT to know them.
_BACKENDS = {
    "POT_BACKEND_DISABLE_PYTORCH": "torch",
    "POT_BACKEND_DISABLE_JAX": "jax",
    "POT_BACKEND_DISABLE_CUPY": "cupy",
    "POT_BACKEND_DISABLE_TENSORFLOW": "tensorflow",
}


@dataclass(frozen=True, eq=False)
class Plan:
    """A coupling of two point sets: `masses[k]` goes from point `rows[k]` to point `columns[k]`.

    Attributes
    ----------
    source, target
        The points x_i and y_j with their weights.
    rows, columns
        Indices (k,) of the pairs with positive mass, in the order of the rows.
    masses
        Masses (k,) > 0 with sum one.
    """

    source: Points
    target: Points
    rows: IntArray
    columns: IntArray
    masses: FloatArray

    @property
    def reversed(self) -> Plan:
        """The plan from target to source."""
        order = np.argsort(self.columns, kind="stable")
        rows, columns = self.columns[order], self.rows[order]
        return Plan(self.target, self.source, rows, columns, self.masses[order])


def optimal_plan(source: Points, target: Points, order: int) -> Plan:
    """Return a plan that minimises Σ_ij masses_ij |x_i − y_j|^order (not collective).

    Parameters
    ----------
    source, target
        The points, with at most `LARGEST_PLAN` pairs.
    order
        1 or 2.

    Raises
    ------
    NotConverged
        If the simplex method gives up, or the plan's marginals are not the weights.
    """
    assert source.weights is not None
    assert target.weights is not None
    cost = cdist(source.points, target.points, {1: "euclidean", 2: "sqeuclidean"}[order])
    # The simplex method compares costs with absolute tolerances, too.
    largest = cost.max()
    if largest > 0.0:
        cost /= largest
    with warnings.catch_warnings():
        # What went wrong is in the log as well.
        warnings.simplefilter("ignore")
        dense, log = _network_simplex()(
            source.weights, target.weights, cost, numItermax=_MOST_PIVOTS, log=True
        )
    if log["warning"] is not None:
        raise NotConverged(
            f"the optimal plan of {dense.shape[0]} and {dense.shape[1]} points was not found: "
            f"{log['warning']}"
        )
    rows, columns = np.nonzero(dense > 0.0)
    masses = dense[rows, columns]
    error = np.abs(np.bincount(rows, masses, dense.shape[0]) - source.weights).sum()
    error += np.abs(np.bincount(columns, masses, dense.shape[1]) - target.weights).sum()
    if not error <= _ROUNDING:
        raise NotConverged(
            f"the marginals of the optimal plan differ from the weights by {error:.3g}; allowed: "
            f"{_ROUNDING:g}"
        )
    return Plan(source, target, rows, columns, masses / masses.sum())


def share_out_plans(comm: MPI.Comm, make: Callable[[int], Plan], number: int) -> list[Plan]:
    """Compute plans 0, 1, …, each on one rank, and give all of them to all ranks (collective).

    Hence all ranks work with the same plans, whatever their machines do with ties.

    Parameters
    ----------
    comm
        Communicator.
    make
        Computes the plan of a number, without communication.
    number
        How many.
    """
    turns = range(comm.rank, number, comm.size)
    mine = run_collectively(comm, lambda: [make(turn) for turn in turns])
    found = comm.allgather(mine)
    return [found[turn % comm.size][turn // comm.size] for turn in range(number)]


@cache
def _network_simplex() -> Callable[..., tuple[FloatArray, dict[str, Any]]]:
    """Import POT, which takes half a second, when it is needed."""
    with _without_backends():
        from ot import emd
    solve: Callable[..., tuple[FloatArray, dict[str, Any]]] = emd
    return solve


@contextmanager
def _without_backends() -> Iterator[None]:
    """Keep POT from loading packages for machine learning that are not loaded yet."""
    hidden = [name for name, package in _BACKENDS.items() if package not in sys.modules]
    before = {name: os.environ.get(name) for name in hidden}
    os.environ.update(dict.fromkeys(hidden, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
