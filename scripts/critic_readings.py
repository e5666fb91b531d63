"""Trained and published critics for the studies, and what is read off them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_bounds import Enclosure, Interval, reading_error

import congested as ct
from congested.critics.network import Network

if TYPE_CHECKING:
    from congested.critics.evaluate import Evaluation
    from congested.critics.sampling import Samplers

ROOT = Path(__file__).resolve().parents[1]
#: Folder of published data, which are no part of this repository.
VARIABLE, FOLDER = "CONGESTED_PUBLISHED", ROOT.parent / "shared" / "published"
PAIR, STRENGTH = "w1-benchmark-d2-n4", 10.0
METHODS = ("gp", "lp")


@dataclass(frozen=True)
class Effort:
    """How critics are trained: steps, points per step, entries of a hidden layer, first rate."""

    steps: int = 1000
    batch: int = 256
    width: int = 64
    learning_rate: float = 5e-3


@dataclass(frozen=True)
class Reading:
    """What is read off a critic, beside what it should be.

    Attributes
    ----------
    name, method, strength
        Who it is, "gp" or "lp", and its λ.
    critic_loss, penalty, penalty_two_sided, dual_value
        L_f, P_f, the penalty of GP, D_f.
    suboptimality
        Where D − D_f lies.
    momentum_l1
        L_f − 2P_f.
    momentum_l1_error
        Where (L_f − 2P_f) − ∫|m| lies, proved from the suboptimality.
    scaled, scaled_error
        The same two of the best multiple of the critic.
    wasserstein
        Where W₁ lies by the rule: the reading of the best multiple less its error and the bias.
    lipschitz
        L_f over the largest slope, a lower bound of W₁.
    """

    name: str
    method: str
    strength: float
    critic_loss: float
    penalty: float
    penalty_two_sided: float
    dual_value: float
    suboptimality: Interval
    momentum_l1: float
    momentum_l1_error: Interval
    scaled: float
    scaled_error: Interval
    wasserstein: Interval
    lipschitz: float


def training_is_possible() -> bool:
    """Return whether PyTorch is there."""
    return importlib.util.find_spec("torch") is not None


def train_critic(
    samplers: Samplers, method: str, strength: float, effort: Effort, seed: int = 0
) -> Network:
    """Train a critic of three hidden layers; the same one for the same arguments."""
    from congested.critics.training import train
    from congested.critics.training_options import Method, Training

    options = Training(
        method=Method(method),
        steps=effort.steps,
        batch=effort.batch,
        width=effort.width,
        strength=strength,
        seed=seed,
        learning_rate=effort.learning_rate,
        check_every=max(effort.steps // 10, 1),
    )
    return train(samplers, options).network


def published_folder() -> Path:
    """Return where published data would lie."""
    return Path(os.environ.get(VARIABLE, FOLDER))


def published_critics() -> Iterator[tuple[str, ct.Network]]:
    """Yield method and critic of the published pair, as far as they are there."""
    for method in METHODS:
        file = published_folder() / PAIR / "critics" / f"method_wgan-{method}.pt"
        if file.is_file():
            critic = ct.load_critic(file)
            assert isinstance(critic, Network)
            yield method, critic


def read_critic(
    name: str, method: str, evaluation: Evaluation, upper: float, enclosure: Enclosure
) -> Reading:
    """Read W₁ off a critic, with its error.

    Parameters
    ----------
    name, method
        What the reading is called.
    evaluation
        The critic against the solution for its λ.
    upper
        An upper bound of D for this λ.
    enclosure
        What is known for it.
    """
    one = evaluation
    lack = Interval(one.suboptimality[0], min(one.suboptimality[1], upper - one.dual_value))
    # D of the best multiple is c L − P.
    loss = one.factor * one.critic_loss
    penalty = max(loss - one.factor_dual_value, 0.0)
    scaled = loss - 2.0 * penalty
    scaled_error = reading_error(penalty, upper - one.factor_dual_value)
    largest = one.largest_gradient_norm
    return Reading(
        name=name,
        method=method,
        strength=enclosure.strength,
        critic_loss=one.critic_loss,
        penalty=one.penalty,
        penalty_two_sided=one.penalty_two_sided,
        dual_value=one.dual_value,
        suboptimality=lack,
        momentum_l1=one.critic_loss - 2.0 * one.penalty,
        momentum_l1_error=reading_error(one.penalty, lack.upper),
        scaled=scaled,
        scaled_error=scaled_error,
        wasserstein=Interval(
            scaled - scaled_error.upper - enclosure.bias.upper,
            scaled - scaled_error.lower - enclosure.bias.lower,
        ),
        lipschitz=one.critic_loss / largest if largest > 0.0 else 0.0,
    )
