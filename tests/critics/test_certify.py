"""A solution's word on critics in training is true for any cost between its bounds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import congested as ct
from congested.critics.certify import certifier
from congested.critics.evaluate import evaluate
from congested.critics.network import Network
from congested.critics.problem_sampling import problem_samplers
from congested.critics.reference import Reference, reference_from_directory
from congested.critics.sampled import sampled_dual
from congested.errors import InputError

PROBLEM = ct.Problem(
    ct.Box((0.0, 0.0), (1.0, 1.0), 48),
    ct.GaussianMixture.from_stds([[0.3, 0.35]], [0.08]),
    ct.GaussianMixture.from_stds([[0.7, 0.6]], [0.06]),
    output=ct.OutputOptions(formats=(), overview=False),
)
DOWN = np.array([[-0.4, -0.25]]) / math.hypot(0.4, 0.25)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    directory: Path = tmp_path_factory.mktemp("solution")
    ct.solve(PROBLEM, relative_gap=2e-2, comm=MPI.COMM_SELF).write(directory)
    return reference_from_directory(directory, MPI.COMM_SELF)


@pytest.mark.parametrize("slope", [-0.5, 0.5, 1.0, 1.1, 2.0])
def test_affine_critics(reference: Reference, slope: float) -> None:
    """u = s·a with |a| = 1 has D = s L₁ − λ (s − 1)₊²; a wrong sign is not mended."""
    certified = certifier(reference)(Network((slope * DOWN,), (np.zeros(1),)))
    distance = math.hypot(0.4, 0.25)
    worth = slope * distance - 10.0 * max(abs(slope) - 1.0, 0.0) ** 2
    assert certified.dual_value == pytest.approx(worth, abs=2e-3)
    bounds = reference.bounds
    for cost in (bounds.lower, 0.5 * (bounds.lower + bounds.upper), bounds.upper):
        relative = (cost - certified.dual_value) / cost
        assert certified.lower - 1e-9 <= relative <= certified.upper + 1e-9
    assert certified.upper - certified.lower < 2.0 * bounds.relative_gap * max(
        1.0, abs(certified.upper)
    )


def test_samples_and_mesh_agree(reference: Reference) -> None:
    random = np.random.default_rng(3)
    network = Network(
        (2.0 * random.standard_normal((8, 2)), random.standard_normal((1, 8))),
        (random.standard_normal(8), np.zeros(1)),
    )
    dual = sampled_dual(network, problem_samplers(PROBLEM), 10.0, samples=100_000, seed=8)
    evaluation = evaluate(reference, network, sign=1)
    for estimate, exact in (
        (dual.critic_loss, evaluation.critic_loss),
        (dual.penalty, evaluation.penalty),
        (dual.penalty_two_sided, evaluation.penalty_two_sided),
    ):
        # Cell data leave out what lies inside cells.
        assert abs(estimate.value - exact) < 5.0 * estimate.standard_error + 1e-2 * abs(exact)


def test_solution_without_a_positive_bound(reference: Reference) -> None:
    nothing = dataclasses.replace(reference, bounds=ct.Bounds(0.0, 0.1))
    with pytest.raises(InputError, match="lower bound 0; allowed: one > 0") as caught:
        certifier(nothing)
    assert caught.value.key == "against"
