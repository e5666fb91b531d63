"""Coarse solutions of every kind, made once, and critics that know them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
from mpi4py import MPI

import congested as ct
from congested.certificate import gradient_at_vertices
from congested.comparison import reference_of
from congested.critics.network import Activation, FunctionCritic, Network
from congested.critics.reference import Reference
from congested.geometry import EDGES, FloatArray, barycentric_gradients
from congested.weights.kinds import DensityWeight

SQUARE = ct.Box((0.0, 0.0), (1.0, 1.0), 6)
CUBE = ct.Box((0.0,) * 3, (1.0,) * 3, 2)


def gaussian(std: float, *mean: float) -> ct.GaussianMixture:
    return ct.GaussianMixture.from_stds(np.array([mean]), np.array([std]))


def _outside_strip(points: FloatArray) -> FloatArray:
    return np.where(np.abs(points[:, 0] - 0.75) < 0.05, 0.0, 1.0)


@cache
def solution(name: str) -> ct.Solution:
    """Return a solution on one coarse mesh, in serial."""
    source, target = gaussian(0.1, 0.35, 0.4), gaussian(0.1, 0.65, 0.6)
    strength, settings = 10.0, {"lower_bound": "p1"}
    problem = ct.Problem(SQUARE, source, target, title="Two Gaussians")
    match name:
        case "p2":
            settings = {"lower_bound": "p2"}
        case "w1":
            strength = math.inf
        case "w1, p2":
            strength, settings = math.inf, {"lower_bound": "p2"}
        case "continuum":
            settings = {"scope": "continuum"}
        case "closed":
            # A strip without weight between two parts: all mass is in the left one.
            box = ct.Box((0.0, 0.0), (1.0, 1.0), 10)
            parts = gaussian(0.06, 0.3, 0.3), gaussian(0.06, 0.3, 0.7)
            problem = ct.Problem(box, *parts, DensityWeight(_outside_strip), title="Strip")
        case "same":
            problem = ct.Problem(SQUARE, source, source)
        case "cube" | "cube, p2":
            pair = gaussian(0.12, 0.4, 0.4, 0.4), gaussian(0.12, 0.6, 0.6, 0.5)
            problem = ct.Problem(CUBE, *pair, title="Two Gaussians in space")
            settings = {"lower_bound": name[-2:] if "," in name else "p1"}
        case "plane":
            pass
        case _:
            raise ValueError(name)
    if math.isinf(strength):
        problem = ct.Problem(SQUARE, source, target, strength=strength, title="W1")
    problem = replace(problem, output=ct.OutputOptions(overview=False))
    return ct.solve(problem, comm=MPI.COMM_SELF, refine="none", **settings)


@cache
def reference(name: str) -> Reference:
    """Return a solution as critics see it."""
    return reference_of(solution(name))


def own_potential(found: Reference, factor: float = 1.0) -> FunctionCritic:
    """Return the potential of a solution as a critic that is given by functions of points.

    Points on facets take the gradient of one of the cells.
    """
    corners = found.simplices
    gradients = barycentric_gradients(corners)
    slopes = gradient_at_vertices(corners, found.potential, found.potential_edges)

    def locate(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        # λ_i at points (m,) of cells (n,): the least is largest in the cell where the point is.
        away = points[:, None] - corners[None, :, 0]
        shares = np.einsum("mnd,nid->mni", away, gradients)
        shares[..., 0] += 1.0
        cell = shares.min(axis=2).argmax(axis=1)
        return cell, shares[np.arange(len(points)), cell]

    def value(points: FloatArray) -> FloatArray:
        cell, shares = locate(points)
        if found.potential_edges is None:
            return factor * np.einsum("mi,mi->m", shares, found.potential[cell])
        result = np.einsum("mi,mi->m", shares * (2.0 * shares - 1.0), found.potential[cell])
        for number, (first, second) in enumerate(EDGES[found.dimension]):
            bump = 4.0 * shares[:, first] * shares[:, second]
            result += bump * found.potential_edges[cell, number]
        return factor * result

    def gradient(points: FloatArray) -> FloatArray:
        cell, shares = locate(points)
        if slopes.shape[1] == 1:
            return factor * slopes[cell, 0]
        return factor * np.einsum("mi,mid->md", shares, slopes[cell])

    return FunctionCritic(found.dimension, value, gradient)


def network_of(seed: int, dimension: int = 2, activation: str = "relu", width: int = 5) -> Network:
    random = np.random.default_rng(seed)
    sizes = (dimension, width, width, 1)
    pairs = [(sizes[number + 1], sizes[number]) for number in range(3)]
    weights = tuple(1.5 * random.normal(size=pair) / pair[1] ** 0.5 for pair in pairs)
    biases = tuple(random.normal(size=pair[0]) - 0.5 for pair in pairs)
    return Network(weights, biases, Activation(activation))
