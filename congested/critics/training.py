"""Training a critic from samples: the loop, the checks on the way, and going on after a stop.

All samples of a training are functions of its seed and of the step, and so are its steps: a
training that goes on after a stop gives, on the CPU, the same critic as one that was left alone.
"""

from __future__ import annotations

import enum
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from congested.critics import objectives
from congested.critics.network import Network
from congested.critics.objectives import Method
from congested.critics.sampled import SampledDual, best_factor, sampled_dual
from congested.critics.sampling import Samplers
from congested.critics.torch_network import (
    TorchCritic,
    effective_network,
    network_of_state,
    seeded_critic,
    state_of_network,
    torch,
)
from congested.critics.training_history import Certified, Certifier, Row, row_of
from congested.critics.training_options import RENEWABLE, Training
from congested.errors import InputError
from congested.io.files import atomic_file

Tensor = Any

# Steps whose samples are drawn together; a step's samples depend on this number.
_STEPS_PER_DRAW = 32
# Second entry of the seeds of the samples, after that of the training.
_BATCHES, _CHECKS, _FRESH = 1, 2, 3
# Decay of Adam's two means: the measures stand still, so that a long memory does no harm.
_BETAS = (0.9, 0.99)
_SCHEMA = 1


class Outcome(enum.StrEnum):
    """Why a training ended; the text tells what to do next where there is something to do."""

    FINISHED = "all steps are done"
    REACHED = "the suboptimality asked for is reached"
    MISSED = "all steps are done, the suboptimality asked for is not reached: more steps, or width"
    OUT_OF_TIME = "the time is up: resume, or allow more seconds"
    INTERRUPTED = "interrupted: resume"
    DIVERGED = "the critic is not finite any more: a smaller learning rate"

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self in (Outcome.FINISHED, Outcome.REACHED)


@dataclass(frozen=True)
class Progress:
    """State of a running training: steps that are done, steps in all, and the history so far."""

    step: int
    steps: int
    history: Sequence[Row]


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gave.

    Attributes
    ----------
    network
        The best critic of all checks: by certified suboptimality if there is a solution to compare
        with, else by the sampled dual value.
    best
        Its row of the history.
    history
        All rows.
    steps
        Steps that were done.
    outcome
        Why it ended.
    training
        The options.
    """

    network: Network
    best: Row
    history: tuple[Row, ...]
    steps: int
    outcome: Outcome
    training: Training

    def fresh_dual(self, samplers: Samplers, samples: int = 1 << 17) -> SampledDual:
        """Estimate the dual value on samples that have had no part in training or choice.

        Parameters
        ----------
        samplers, samples
            As for `sampled_dual`.
        """
        training = self.training
        seed = (training.seed, _FRESH)
        return sampled_dual(self.network, samplers, training.strength, samples=samples, seed=seed)


class Stop(Protocol):
    """Says whether somebody wants the training to end."""

    def __call__(self) -> bool:
        """Return whether to end now."""


def train(
    samplers: Samplers,
    training: Training,
    *,
    certifier: Certifier | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Stop | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    problem: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a critic.

    Parameters
    ----------
    samplers
        Draw from source, target and weight.
    training
        The options.
    certifier
        Compares the critic of each check with a solution.
    progress
        Called before each step, and in the end.
    stop
        Asked before each step.
    checkpoint
        File that keeps what is needed to go on, written every `Training.checkpoint_every` steps and
        in the end, and removed if nothing is left to do.
    resume
        Go on from `checkpoint`. Options other than those of `RENEWABLE` must be the same.
    problem
        Description of the problem, kept in the checkpoint; that of a resumed training must be
        the same.

    Raises
    ------
    InputError
        If the device is not there, `Training.stop_at` has no solution to compare with, or there is
        no training to resume, or another one.
    """
    device = check_training(training, certifier)
    run = _Run(samplers, training, certifier, device)
    if resume:
        if checkpoint is None:
            raise InputError("found no checkpoint; allowed: the file of one", key="resume")
        run.restore(read_checkpoint(checkpoint), problem)
    outcome = run.go(progress or (lambda _: None), stop or (lambda: False), checkpoint, problem)
    assert run.best is not None
    assert run.best_network is not None
    if checkpoint is not None and outcome.done:
        checkpoint.unlink(missing_ok=True)
    history = tuple(run.history)
    return Trained(run.best_network, run.best, history, run.step, outcome, training)


def check_training(training: Training, certifier: Certifier | None) -> torch.device:
    """Return the device to train on, or find out that options ask for what is not there.

    Raises
    ------
    InputError
        As `train`.
    """
    if training.stop_at is not None and certifier is None:
        found = f"found {training.stop_at:g} without a solution to compare with"
        raise InputError(f"{found}; allowed: only with one (--against)", key="stop_at")
    name, available = training.device, torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError('found "cuda", and PyTorch sees none; allowed here: cpu', key="device")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@dataclass
class _Run:
    """A training as it goes on."""

    samplers: Samplers
    training: Training
    certifier: Certifier | None
    device: Any
    step: int = 0
    best: Row | None = None
    best_network: Network | None = None
    history: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.training
        number = 2 if options.method is Method.LSOT else 1
        self.critics = [
            seeded_critic(
                options.seed + part,
                dimension=self.samplers.dimension,
                width=options.width,
                depth=options.depth,
                activation=options.activation,
                slope=options.slope,
                group_size=options.group_size,
                method=options.method,
            ).to(self.device)
            for part in range(number)
        ]
        parameters = [entry for critic in self.critics for entry in critic.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=options.learning_rate, betas=_BETAS)
        self.seconds_before = 0.0
        self.draw: tuple[int, dict[str, Tensor]] | None = None
        self.objective_sum = torch.zeros((), device=self.device)
        self.objective_steps = 0

    @property
    def critic(self) -> TorchCritic:
        """The critic; of two potentials, that of the source."""
        return self.critics[0]

    # --- steps --------------------------------------------------------------------------------

    def go(
        self,
        progress: Callable[[Progress], None],
        stop: Stop,
        checkpoint: Path | None,
        problem: Mapping[str, Any] | None,
    ) -> Outcome:
        """Do the steps that are left, with their checks and checkpoints."""
        options = self.training
        self.started = time.perf_counter()
        outcome = Outcome.FINISHED if options.stop_at is None else Outcome.MISSED
        if not self.history:
            self.check()
        while self.step < options.steps:
            progress(Progress(self.step, options.steps, self.history))
            if self.reached:
                return Outcome.REACHED
            if stop():
                outcome = Outcome.INTERRUPTED
                break
            seconds = time.perf_counter() - self.started
            if options.max_seconds is not None and seconds > options.max_seconds:
                outcome = Outcome.OUT_OF_TIME
                break
            self.advance()
            if self.step % options.check_every == 0 or self.step == options.steps:
                if not self.check():
                    return Outcome.DIVERGED
            if checkpoint is not None and self.step % options.checkpoint_every == 0:
                self.save(checkpoint, problem)
        progress(Progress(self.step, options.steps, self.history))
        if self.reached:
            return Outcome.REACHED
        if checkpoint is not None and not outcome.done:
            self.save(checkpoint, problem)
        if self.history[-1].step < self.step:
            # What was learned since the last check shall not be lost. The row is not one of an
            # undisturbed training, so that the checkpoint does not have it.
            self.check()
        return outcome

    @property
    def reached(self) -> bool:
        """Whether the last row has the suboptimality asked for."""
        goal = self.training.stop_at
        return goal is not None and self.history[-1].suboptimality_upper <= goal

    def advance(self) -> None:
        """Do one step."""
        options, method = self.training, self.training.method
        for group in self.optimizer.param_groups:
            group["lr"] = options.rate(self.step)
        batch = self.batch()
        self.optimizer.zero_grad(set_to_none=True)
        # A parametrised matrix is computed once in a step, not at each of its uses.
        cached = torch.nn.utils.parametrize.cached() if method is Method.SPECTRAL else nullcontext()
        with cached:
            objective = self.objective(batch)
            (-objective).backward()
        if method is Method.SORTING:
            self.critic.keep_tangential()
        self.optimizer.step()
        if method is Method.CLIPPING:
            self.critic.clip(options.clip)
        elif method is Method.SORTING:
            self.critic.orthonormalise()
        self.objective_sum += objective.detach()
        self.objective_steps += 1
        self.step += 1

    def objective(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the method maximises, on a batch."""
        method, strength = self.training.method, self.training.strength
        starts, ends = batch["source"], batch["target"]
        # One call for both: half the overhead, and one update of an estimated spectral norm.
        source, target = self.critic(torch.cat([starts, ends])).split(len(starts))
        if method.uses_slopes:
            slopes = self.critic.slopes(batch["weight"])
            two_sided = method is Method.GP
            penalty = objectives.gradient_penalty if two_sided else objectives.one_sided_penalty
            loss = objectives.critic_loss(source, target)
            return loss - strength * penalty(slopes, batch["factors"])
        if not method.uses_distances:
            return objectives.critic_loss(source, target)
        distances = torch.cdist(ends, starts)
        match method:
            case Method.LSOT:
                second = self.critics[1](ends)
                pairs = objectives.pair_penalty(source, second, distances)
                return source.mean() + second.mean() - strength * pairs
            case Method.QP:
                return objectives.transformed_loss(source, distances)
            case _:
                return objectives.smallest_loss(source, target, distances)

    def batch(self) -> dict[str, Tensor]:
        """Return the samples of the step: they depend on the seed and on its number."""
        number, place = divmod(self.step, _STEPS_PER_DRAW)
        if self.draw is None or self.draw[0] != number:
            options, samplers = self.training, self.samplers
            streams = np.random.default_rng((options.seed, _BATCHES, number)).spawn(3)
            many = options.batch * _STEPS_PER_DRAW
            arrays = {
                "source": samplers.source(many, streams[0]),
                "target": samplers.target(many, streams[1]),
            }
            if options.method.uses_slopes:
                arrays["weight"], arrays["factors"] = samplers.weight(many, streams[2])
            tensors = {
                name: torch.tensor(array, dtype=torch.float32).to(self.device)
                for name, array in arrays.items()
            }
            self.draw = number, tensors
        chosen = slice(place * self.training.batch, (place + 1) * self.training.batch)
        return {name: tensor[chosen] for name, tensor in self.draw[1].items()}

    # --- checks -------------------------------------------------------------------------------

    def check(self) -> bool:
        """Add a row to the history, remember the best critic; False if it is not finite."""
        options = self.training
        try:
            network = effective_network(self.critic)
        except InputError:
            return False
        seed = (options.seed, _CHECKS)
        samples, strength = options.check_samples, options.strength
        if options.method.scale_free:
            factor = best_factor(network, self.samplers, strength, samples=samples, seed=seed)
            network = network.scaled(factor)
        dual = sampled_dual(network, self.samplers, strength, samples=samples, seed=seed)
        certified = Certified(math.nan, math.nan, math.nan)
        if self.certifier is not None:
            certified = self.certifier(network)
        mean = (
            float(self.objective_sum) / self.objective_steps if self.objective_steps else math.nan
        )
        row = Row(
            step=self.step,
            seconds=self.seconds,
            objective=mean,
            critic_loss=dual.critic_loss.value,
            penalty=dual.penalty.value,
            penalty_two_sided=dual.penalty_two_sided.value,
            dual_value=dual.dual_value.value,
            standard_error=dual.dual_value.standard_error,
            certified_dual_value=certified.dual_value,
            suboptimality_lower=certified.lower,
            suboptimality_upper=certified.upper,
        )
        self.objective_sum.zero_()
        self.objective_steps = 0
        self.history.append(row)
        if self.best is None or row.score > self.best.score:
            self.best, self.best_network = row, network
        return True

    @property
    def seconds(self) -> float:
        """Wall seconds of the training, earlier runs included."""
        return self.seconds_before + time.perf_counter() - self.started

    # --- checkpoints --------------------------------------------------------------------------

    def save(self, path: Path, problem: Mapping[str, Any] | None) -> None:
        """Write the checkpoint, in one step."""
        assert self.best is not None
        assert self.best_network is not None
        content = {
            "schema": _SCHEMA,
            "training": self.training.description(),
            "problem": json.dumps(problem, sort_keys=True),
            "step": self.step,
            "seconds": self.seconds,
            "objective_sum": float(self.objective_sum),
            "objective_steps": self.objective_steps,
            "critics": [critic.state_dict() for critic in self.critics],
            "optimizer": self.optimizer.state_dict(),
            "history": [vars(row) for row in self.history],
            "best": vars(self.best),
            "best_network": state_of_network(self.best_network),
        }
        with atomic_file(path) as file:
            torch.save(content, file)

    def restore(self, content: Mapping[str, Any], problem: Mapping[str, Any] | None) -> None:
        """Take over the state that a checkpoint holds."""
        kept, asked = content["training"], self.training.description()
        for name, value in asked.items():
            if name not in RENEWABLE and value != kept[name]:
                found = f"found {value} for a training that was begun with {kept[name]}"
                raise InputError(f"{found}; allowed: the same", key=name)
        if content["problem"] != json.dumps(problem, sort_keys=True):
            found = "found another problem than that of the training"
            raise InputError(f"{found}; allowed: the same", key="resume")
        if self.training.steps <= content["step"]:
            found = f"found {self.training.steps} for a training that has done {content['step']}"
            raise InputError(f"{found}; allowed: more", key="steps")
        for critic, state in zip(self.critics, content["critics"], strict=True):
            critic.load_state_dict(state)
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]
        self.seconds_before = content["seconds"]
        self.objective_sum.fill_(content["objective_sum"])
        self.objective_steps = content["objective_steps"]
        self.history = [row_of(row) for row in content["history"]]
        self.best = row_of(content["best"])
        self.best_network = network_of_state(content["best_network"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `train`.

    Raises
    ------
    InputError
        If there is none, or it is no such file.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        found = f'found no file "{path}"'
        allowed = "allowed: after a training that was stopped"
        raise InputError(f"{found}; {allowed}", key="resume") from error
    except Exception as error:  # whatever a damaged file makes the reader do
        found = f'found "{path}", which cannot be read'
        raise InputError(f"{found}; allowed: a checkpoint of train", key="resume") from error
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        found = f'found "{path}", which is no checkpoint of this version'
        raise InputError(f"{found}; allowed: a checkpoint of train", key="resume")
    return content
