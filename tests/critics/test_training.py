"""Training: every method learns, the best critic is kept, and a stop changes nothing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import congested as ct
from congested.critics.network import Network
from congested.critics.objectives import Method
from congested.critics.problem_sampling import problem_samplers
from congested.critics.sampling import Samplers, from_samplers
from congested.critics.training import (
    Outcome,
    Progress,
    Trained,
    read_checkpoint,
    train,
)
from congested.critics.training_history import Certified, read_history, write_history
from congested.critics.training_options import Training
from congested.errors import InputError
from tests.torch_threads import one_thread  # noqa: F401  (used by itself)

PROBLEM = ct.Problem(
    ct.Box((0.0, 0.0), (1.0, 1.0), 16),
    ct.GaussianMixture.from_stds([[0.3, 0.35]], [0.08]),
    ct.GaussianMixture.from_stds([[0.7, 0.6]], [0.06]),
)
SMALL = Training(
    steps=150, batch=64, width=16, depth=2, learning_rate=5e-3, check_every=50, check_samples=2000
)


@pytest.fixture(scope="module")
def samplers() -> Samplers:
    return problem_samplers(PROBLEM)


@pytest.fixture(scope="module")
def bounds() -> ct.Bounds:
    return ct.solve(PROBLEM, relative_gap=2e-2).bounds


def small(**options: Any) -> Training:
    return dataclasses.replace(SMALL, **options)


def same(first: Network, second: Network) -> bool:
    pairs = zip(first.weights + first.biases, second.weights + second.biases, strict=True)
    return all((one == other).all() for one, other in pairs)


# --- learning ---------------------------------------------------------------------------------

# Smallest part of the cost that a short training reaches; the penalties do best, and the steep
# critics of the methods that look at pairs pay for their slope.
WORTH = {
    Method.GP: 0.93,
    Method.LP: 0.93,
    Method.CLIPPING: 0.85,
    Method.SPECTRAL: 0.9,
    Method.SORTING: 0.8,
    Method.LSOT: 0.3,
    Method.QP: 0.6,
    Method.COWGAN: 0.75,
}


@pytest.mark.parametrize("method", list(Method))
def test_every_method_learns(method: Method, samplers: Samplers, bounds: ct.Bounds) -> None:
    trained = train(samplers, small(method=method))
    assert trained.outcome is Outcome.FINISHED
    assert [row.step for row in trained.history] == [0, 50, 100, 150]
    # The best multiple of a random critic may be worth something.
    assert trained.history[0].dual_value < (0.5 if method.scale_free else 0.1) * bounds.lower
    fresh = trained.fresh_dual(samplers, 20_000)
    assert WORTH[method] * bounds.lower < fresh.dual_value.value
    assert fresh.dual_value.lower(0.9999) < bounds.upper
    assert abs(fresh.dual_value.value - trained.best.dual_value) < 6.0 * trained.best.standard_error
    if method.lipschitz:
        assert fresh.largest_slope <= 1.0 + 1e-12
        assert trained.best.penalty == 0.0


@pytest.mark.parametrize("method", [Method.GP, Method.LP])
def test_penalties_reach_the_certified_cost(
    method: Method, samplers: Samplers, bounds: ct.Bounds
) -> None:
    options = small(method=method, steps=600, batch=128, width=32, check_every=200)
    dual = train(samplers, options).fresh_dual(samplers, 100_000)
    assert dual.dual_value.value > 0.99 * bounds.lower
    assert dual.dual_value.lower(0.9999) < bounds.upper
    # The critic loss overestimates W₁, by about what the penalty is.
    assert dual.critic_loss.value > dual.dual_value.value > dual.critic_loss.value - 0.02


def test_any_dimension_from_samples_alone() -> None:
    """N(0, I) moved by a: an affine critic of slope s has L = s|a|, all that matters here."""
    dimension, strength = 12, 2.0
    shift = np.full(dimension, 2.0 / math.sqrt(dimension))
    samplers = from_samplers(
        lambda number, random: random.standard_normal((number, dimension)) * 0.1 + shift,
        lambda number, random: random.standard_normal((number, dimension)) * 0.1,
    )
    trained = train(samplers, small(strength=strength, steps=300, learning_rate=2e-3))
    dual = trained.fresh_dual(samplers, 20_000)
    best_affine = max(2.0 * s - strength * (s - 1.0) ** 2 for s in np.linspace(1.0, 2.0, 101))
    assert dual.dual_value.lower(0.99) > 0.97 * best_affine


def test_infinite_strength_needs_a_bounded_slope(samplers: Samplers) -> None:
    trained = train(samplers, small(method=Method.SORTING, strength=math.inf))
    fresh = trained.fresh_dual(samplers, 2000)
    assert fresh.dual_value == fresh.critic_loss
    with pytest.raises(InputError, match='found inf with method "gp"') as caught:
        small(method=Method.GP, strength=math.inf)
    assert caught.value.key == "strength"


# --- the same again ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Method.LP, Method.SPECTRAL, Method.SORTING, Method.LSOT])
def test_resumed_training_is_that_which_was_left_alone(
    method: Method, samplers: Samplers, tmp_path: Path
) -> None:
    options = small(method=method, steps=60, check_every=20, checkpoint_every=7)
    whole = train(samplers, options)
    file = tmp_path / "critic.checkpoint.pt"
    at = 0

    def progress(state: Progress) -> None:
        nonlocal at
        at = state.step

    problem = {"title": "same"}
    first = train(
        samplers, options, checkpoint=file, problem=problem, progress=progress, stop=lambda: at > 30
    )
    assert first.outcome is Outcome.INTERRUPTED
    assert first.steps == 31
    assert [row.step for row in first.history] == [0, 20, 31]
    rest = train(samplers, options, checkpoint=file, problem=problem, resume=True)
    assert rest.outcome is Outcome.FINISHED
    assert not file.exists()
    assert same(rest.network, whole.network)

    def without_seconds(trained: Trained) -> list[str]:
        return [repr(dataclasses.replace(row, seconds=0.0)) for row in trained.history]

    assert without_seconds(rest) == without_seconds(whole)


def test_same_seed_same_critic(samplers: Samplers) -> None:
    options = small(steps=20)
    first, again = train(samplers, options), train(samplers, options)
    other = train(samplers, dataclasses.replace(options, seed=1))
    assert same(first.network, again.network)
    assert not same(first.network, other.network)


def test_training_can_go_on_beyond_its_steps(samplers: Samplers, tmp_path: Path) -> None:
    file = tmp_path / "critic.checkpoint.pt"
    never = lambda network: Certified(0.0, 0.5, 0.5)  # noqa: E731
    options = small(steps=40, schedule="constant", stop_at=0.1, check_every=40)
    missed = train(samplers, options, certifier=never, checkpoint=file)
    assert missed.outcome is Outcome.MISSED
    more = dataclasses.replace(options, steps=80)
    longer = train(samplers, more, certifier=never, checkpoint=file, resume=True)
    assert longer.steps == 80
    assert [row.step for row in longer.history] == [0, 40, 80]
    assert same(longer.network, train(samplers, more, certifier=never).network)
    with pytest.raises(InputError, match="found 80 for a training that has done 80"):
        train(samplers, more, certifier=never, checkpoint=file, resume=True)


# --- stops ------------------------------------------------------------------------------------


def test_stops_at_the_suboptimality_and_keeps_the_best(samplers: Samplers) -> None:
    values = iter([1.0, 0.3, 0.5, 0.08, 0.01])
    seen: list[Network] = []

    def certifier(network: Network) -> Certified:
        seen.append(network)
        value = next(values)
        return Certified(1.0 - value, value - 0.01, value)

    options = small(check_every=10, stop_at=0.1)
    trained = train(samplers, options, certifier=certifier)
    assert trained.outcome is Outcome.REACHED
    assert trained.steps == 30
    assert trained.network is seen[3]
    assert [row.suboptimality_upper for row in trained.history] == [1.0, 0.3, 0.5, 0.08]
    assert trained.best.certified_dual_value == pytest.approx(0.92)


def test_best_critic_is_by_certified_suboptimality(samplers: Samplers) -> None:
    values = iter([1.0, 0.3, 0.5, 0.4])
    trained = train(samplers, SMALL, certifier=lambda _: Certified(0.0, 0.0, next(values)))
    assert trained.best.step == 50
    assert trained.outcome is Outcome.FINISHED


def test_time_is_limited(samplers: Samplers, tmp_path: Path) -> None:
    file = tmp_path / "critic.checkpoint.pt"
    options = small(steps=10**6, max_seconds=0.3)
    trained = train(samplers, options, checkpoint=file)
    assert trained.outcome is Outcome.OUT_OF_TIME
    assert trained.history[-1].step == trained.steps
    assert read_checkpoint(file)["step"] == trained.steps


def test_critic_that_is_not_finite_ends_the_training(samplers: Samplers) -> None:
    checks = SMALL.check_samples

    def poisoned(number: int, random: np.random.Generator) -> np.ndarray:
        points = samplers.source(number, random)
        return points if number == checks else np.full_like(points, np.nan)

    broken = dataclasses.replace(samplers, source=poisoned)
    trained = train(broken, small(check_every=40))
    assert trained.outcome is Outcome.DIVERGED
    assert [row.step for row in trained.history] == [0]
    assert (trained.network.weights[0] != 0.0).any()


# --- files and options ------------------------------------------------------------------------


def test_history_round_trip(samplers: Samplers, tmp_path: Path) -> None:
    history = train(samplers, small(steps=20, check_every=10)).history
    file = tmp_path / "history.csv"
    write_history(file, history)
    assert [repr(row) for row in read_history(file)] == [repr(row) for row in history]
    assert file.read_text().startswith("step,seconds,objective,critic_loss,penalty,")


def test_checkpoints_of_others_are_refused(samplers: Samplers, tmp_path: Path) -> None:
    file = tmp_path / "critic.checkpoint.pt"
    options = small(steps=20, checkpoint_every=5)
    train(samplers, options, checkpoint=file, problem={"a": 1}, stop=iter([False, True]).__next__)
    for key, changed, problem in (
        ("width", {"width": 8}, {"a": 1}),
        ("method", {"method": "gp"}, {"a": 1}),
        ("strength", {"strength": 5.0}, {"a": 1}),
        ("resume", {}, {"a": 2}),
        ("steps", {"steps": 1}, {"a": 1}),
    ):
        with pytest.raises(InputError) as caught:
            other = dataclasses.replace(options, **changed)
            train(samplers, other, checkpoint=file, problem=problem, resume=True)
        assert caught.value.key == key
    for content in (b"", b"no such thing", None):
        if content is None:
            torch.save({"schema": 0}, file)
        else:
            file.write_bytes(content)
        with pytest.raises(InputError, match="allowed: a checkpoint of train") as caught:
            train(samplers, options, checkpoint=file, resume=True)
        assert caught.value.key == "resume"
    file.unlink()
    for path in (file, None):
        with pytest.raises(InputError, match="found no"):
            train(samplers, options, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "wgan"),
        ("steps", 0),
        ("batch", 1.5),
        ("width", -1),
        ("activation", "relu6"),
        ("learning_rate", math.nan),
        ("learning_rate", -1.0),
        ("schedule", "linear"),
        ("strength", 0.0),
        ("strength", math.nan),
        ("seed", -1),
        ("device", "tpu"),
        ("max_seconds", math.inf),
        ("stop_at", 0.0),
    ],
)
def test_wrong_options_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=r"found .*; allowed: ") as caught:
        Training(**{name: value})
    assert caught.value.key == name


def test_groups_divide_the_width() -> None:
    with pytest.raises(InputError, match="divides the width, 15") as caught:
        Training(method=Method.SORTING, width=15)
    assert caught.value.key == "group_size"


def test_stop_at_needs_a_solution(samplers: Samplers) -> None:
    with pytest.raises(InputError, match="without a solution") as caught:
        train(samplers, small(stop_at=0.1))
    assert caught.value.key == "stop_at"


# --- devices ----------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(samplers: Samplers) -> None:
    with pytest.raises(InputError, match='found "cuda", and PyTorch sees none') as caught:
        train(samplers, small(device="cuda"))
    assert caught.value.key == "device"
    assert train(samplers, small(device="auto", steps=2)).steps == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
@pytest.mark.parametrize("method", list(Method))
def test_cuda_learns_what_the_cpu_does(method: Method, samplers: Samplers, tmp_path: Path) -> None:
    there, here = (train(samplers, small(method=method, device=name)) for name in ("cuda", "cpu"))
    assert there.history[0].dual_value == pytest.approx(here.history[0].dual_value, abs=1e-5)
    assert there.best.dual_value == pytest.approx(here.best.dual_value, rel=0.05)
    # A checkpoint of one goes on with the other.
    file = tmp_path / "critic.checkpoint.pt"
    stopped = small(method=method, device="cuda", steps=40)
    train(samplers, stopped, checkpoint=file, stop=iter([False] * 5 + [True]).__next__)
    rest = dataclasses.replace(stopped, device="cpu")
    assert train(samplers, rest, checkpoint=file, resume=True).steps == 40


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"learning_rate": None}, "learning_rate"),
        ({"clip": None}, "clip"),
        ({"method": "spectral", "activation": "silu", "strength": np.inf}, "activation"),
    ],
)
def test_options_that_would_train_nothing(options: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        Training(**options)
    assert caught.value.key == key
