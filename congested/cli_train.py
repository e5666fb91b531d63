"""The command ``congested train``: a critic for a problem file, by one of the known methods."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from congested import parallel, report
from congested.cli_common import (
    DONE,
    STOPPED,
    add_talk,
    integer,
    one_of,
    positive,
    positive_or_inf,
    prepare_directory,
)
from congested.critics.network import Activation
from congested.critics.objectives import Method
from congested.critics.training_options import DEVICES, SCHEDULES, Training
from congested.errors import InputError
from congested.problem import Problem
from congested.version import __version__

if TYPE_CHECKING:
    from mpi4py import MPI

    from congested.critics import training
    from congested.critics.sampled import SampledDual
    from congested.critics.training_history import Certifier, Row

# Names of options that are not those of the flags.
_FLAGS = {"strength": "penalty"}
# What PyTorch's files end with, for whoever reads the critic.
_ENDINGS = (".pt", ".pth", ".ckpt", ".bin")
# Probability of the interval and of the lower bound that are printed.
_CONFIDENCE = 0.95


def add_train(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a critic on a problem file and write it",
        description="Train a critic on samples of a problem, and estimate its dual value, a lower "
        "bound of the cost, on fresh ones. With --resume, go on with a training that was stopped.",
        epilog="Beside CRITIC.pt: CRITIC.history.csv, and CRITIC.checkpoint.pt while there is "
        "something left to do.",
    )
    parser.set_defaults(run=_train)
    add = parser.add_argument
    add("problem", metavar="PROBLEM.toml", help="the problem file")
    add("-o", "--output", metavar="CRITIC.pt", required=True, help="file for the critic")
    add("--resume", action="store_true", help="go on from CRITIC.checkpoint.pt")
    add("--method", type=one_of(list(Method)), metavar="METHOD", help=" or ".join(Method))
    add("--penalty", type=positive_or_inf, metavar="STRENGTH", help="the λ, instead of the file's")
    add("--steps", type=integer(1), metavar="N", help=f"steps in all ({Training.steps})")
    add("--batch", type=integer(2), metavar="N", help=f"points per step ({Training.batch})")
    add("--width", type=integer(1), metavar="N", help=f"of the hidden layers ({Training.width})")
    add("--depth", type=integer(1), metavar="N", help=f"hidden layers ({Training.depth})")
    words = list(Activation)
    add("--activation", type=one_of(words), metavar="NAME", help=" or ".join(words))
    add("--group-size", type=integer(2), metavar="N", help="of group-sort (2)")
    rate = Training.learning_rate
    add("--learning-rate", type=positive, metavar="RATE", help=f"of Adam ({rate:g})")
    add("--schedule", type=one_of(SCHEDULES), metavar="HOW", help=" or ".join(SCHEDULES))
    add("--clip", type=positive, metavar="BOUND", help=f"with clipping ({Training.clip:g})")
    add("--seed", type=integer(0), metavar="N", help="seed of start and samples (0)")
    add("--device", type=one_of(DEVICES), metavar="WHERE", help=" or ".join(DEVICES))
    add("--against", metavar="DIR", help="a directory that congested solve wrote: certify each row")
    add("--stop-at", type=positive, metavar="S", help="relative suboptimality, with --against")
    add("--check-every", type=integer(1), metavar="N", help="steps between rows of the history")
    add("--checkpoint-every", type=integer(1), metavar="N", help="steps between checkpoints")
    add("--max-seconds", type=positive, metavar="S", help="stop after this time")
    add("--samples", type=integer(2), default=1 << 17, metavar="N", help="for the final estimate")
    add_talk(parser)


def history_path(critic: Path) -> Path:
    """Return where the history of a critic lies."""
    return critic.with_name(f"{critic.stem}.history.csv")


def checkpoint_path(critic: Path) -> Path:
    """Return where the checkpoint of a critic lies."""
    return critic.with_name(f"{critic.stem}.checkpoint.pt")


def _train(arguments: argparse.Namespace, comm: MPI.Comm) -> int:
    if comm.size > 1:
        found = f"found {comm.size} ranks"
        raise InputError(f"{found}; allowed: 1, as training uses threads instead", key="-n")
    problem = Problem.from_file(arguments.problem)
    critic = Path(arguments.output)
    _check_name(critic)

    # Slow, or not installed.
    from congested.critics.problem_sampling import problem_samplers
    from congested.critics.torch_network import write_critic
    from congested.critics.training import Outcome, check_training, train
    from congested.critics.training_history import write_history

    try:
        options = _options(arguments, problem, critic)
        certifier = _certifier(arguments.against, problem, options, comm)
        samplers = problem_samplers(problem)
        check_training(options, certifier)
        if not arguments.resume:
            _replace(critic)
        stop = parallel.StopRequest()
        with stop.install(), _shown_and_kept(history_path(critic), not arguments.quiet) as progress:
            trained = train(
                samplers,
                options,
                certifier=certifier,
                progress=progress,
                stop=lambda: stop.signal is not None,
                checkpoint=checkpoint_path(critic),
                resume=arguments.resume,
                problem=what_counts(problem.description),
            )
    except InputError as error:
        raise _of_flag(error, arguments) from error
    dual = trained.fresh_dual(samplers, arguments.samples)
    write_history(history_path(critic), trained.history)
    write_critic(critic, trained.network, _metadata(problem, trained, dual))
    if not arguments.quiet:
        report.show(_table(problem, trained, dual, critic))
    if trained.outcome.done:
        return DONE
    parallel.error_console().print(Text(f"stopped: {trained.outcome}"), soft_wrap=True)
    if trained.outcome is Outcome.INTERRUPTED:
        return 128 + int(stop.signal or 0)
    return STOPPED


def _check_name(critic: Path) -> None:
    """Find out before the work starts that the critic will be read again."""
    if critic.is_dir():
        found = f'found "{critic}", which is a directory'
        raise InputError(f"{found}; allowed: a file that can be written", key="--output")
    if critic.suffix.lower() not in _ENDINGS:
        allowed = f"a name that ends with {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}"
        raise InputError(f'found "{critic}"; allowed: {allowed}', key="--output")


def _replace(critic: Path) -> None:
    """Make room for a new critic, when all else is known to be good."""
    prepare_directory(critic.parent, critic.name)
    checkpoint = checkpoint_path(critic)
    if checkpoint.exists():
        parallel.logger.warning(
            "%s: a training that could be resumed (--resume) is replaced by this one", checkpoint
        )
        checkpoint.unlink()


def _options(arguments: argparse.Namespace, problem: Problem, critic: Path) -> Training:
    """Return the options: flags, then what the training began with, then defaults."""
    from congested.critics.training import read_checkpoint

    names = [entry.name for entry in dataclasses.fields(Training)]
    values: dict[str, Any] = {"strength": problem.strength}
    if arguments.resume:
        values = dict(read_checkpoint(checkpoint_path(critic))["training"])
    for name in names:
        value = getattr(arguments, _FLAGS.get(name, name), None)
        if value is not None:
            values[name] = value
    return Training(**values)


def _of_flag(error: InputError, arguments: argparse.Namespace) -> InputError:
    """Return the error with the flag that is to blame, if it is one and not the file."""
    key = error.key or ""
    if key == "strength" and arguments.penalty is None:
        return InputError(f"{error.message} (--penalty)", key="penalty.strength")
    if key in ("resume", "against") or key in {
        entry.name for entry in dataclasses.fields(Training)
    }:
        flag = _FLAGS.get(key, key).replace("_", "-")
        return InputError(error.message, key=f"--{flag}", file=error.file)
    return error


def what_counts(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a problem a critic knows: not the mesh, and not how σ is integrated."""
    domain = {name: value for name, value in description["domain"].items() if name != "cells"}
    return {
        "domain": domain,
        "source": description["source"],
        "target": description["target"],
        "weight": _without_integration(description["weight"]),
    }


def _without_integration(weight: Mapping[str, Any]) -> dict[str, Any]:
    """Return a weight without what tells how its cell masses are found."""
    kept = {k: v for k, v in weight.items() if k not in ("rule", "samples", "seed", "tolerance")}
    if "parts" in kept:
        kept["parts"] = [_without_integration(part) for part in kept["parts"]]
    return kept


def _certifier(
    directory: str | None, problem: Problem, options: Training, comm: MPI.Comm
) -> Certifier | None:
    """Return what compares critics with the solution in a directory."""
    if directory is None:
        return None
    from congested.critics.certify import certifier
    from congested.critics.reference import reference_from_directory

    try:
        reference = reference_from_directory(directory, comm)
    except InputError as error:
        raise InputError(str(error), key="--against") from error
    solved, asked = what_counts(reference.result["problem"]), what_counts(problem.description)
    for name, value in asked.items():
        if solved[name] != value:
            found = f"found the solution of a problem with another {name}"
            raise InputError(f"{found}; allowed: one of this problem", key="--against")
    if reference.strength != options.strength:
        parallel.logger.warning(
            "the penalty of the training is %g, that of the solution %g: suboptimality is that for "
            "the latter",
            options.strength,
            reference.strength,
        )
    return certifier(reference)


@contextmanager
def _shown_and_kept(history: Path, enabled: bool) -> Iterator[Callable[[training.Progress], None]]:
    """Show the steps and the last row while the body runs, and write the history as it grows."""
    from congested.critics.training_history import write_history

    console = parallel.error_console()
    rows = 0
    status = TextColumn("{task.fields[status]}")
    shown = enabled and console.is_terminal
    with parallel.labelled_bar(status, console, shown=shown) as bar:
        task = bar.add_task("training", total=1.0, status="")

        def show(state: training.Progress) -> None:
            nonlocal rows
            if len(state.history) > rows:
                rows = len(state.history)
                write_history(history, state.history)
            row = state.history[-1]
            text = f"step {state.step:,} of {state.steps:,}, {progress_text(row)}"
            bar.update(task, completed=state.step / state.steps, status=text)

        yield show


def progress_text(row: Row) -> str:
    """Return a row of the history in words."""
    text = f"dual value {row.dual_value:.5g} ± {row.standard_error:.1e}"
    if not math.isnan(row.suboptimality_upper):
        text += f", suboptimality <= {100 * row.suboptimality_upper:.3g} %"
    return text


def _metadata(problem: Problem, trained: training.Trained, dual: SampledDual) -> dict[str, Any]:
    """Return what the file of the critic says besides the network."""
    options = trained.training
    return {
        "title": problem.title,
        "method": str(options.method),
        "strength": options.strength,
        "seed": options.seed,
        "steps": trained.steps,
        "best_step": trained.best.step,
        "outcome": str(trained.outcome),
        "training": options.description(),
        "estimate": dataclasses.asdict(dual),
        "congested": __version__,
    }


def _table(problem: Problem, trained: training.Trained, dual: SampledDual, critic: Path) -> Table:
    """Return the short table of results."""
    options, best = trained.training, trained.best
    table = report.plain_table(problem.title)

    def add(name: str, text: str) -> None:
        table.add_row(name, Text(text))

    add("method", f"{options.method}, penalty {options.strength:g}")
    add("network", str(trained.network))
    add("steps", f"{trained.steps:,} (the best critic is that of step {best.step:,})")
    add("critic loss", f"{dual.critic_loss.value:.6g} ± {dual.critic_loss.standard_error:.1e}")
    add("penalty", f"{dual.penalty.value:.4g} (two-sided {dual.penalty_two_sided.value:.4g})")
    value = dual.dual_value
    add("dual value", f"{value.value:.6g} ± {value.standard_error:.1e}")
    bound = f"{value.lower(_CONFIDENCE):.6g}"
    add(
        "cost is at least",
        f"{bound} ({100 * _CONFIDENCE:g} % by the central limit theorem; "
        f"{dual.samples:,} fresh samples)",
    )
    if not math.isnan(best.suboptimality_upper):
        lower, upper = 100 * best.suboptimality_lower, 100 * best.suboptimality_upper
        add("suboptimality", f"{lower:.3g} % to {upper:.3g} % (certified)")
    add("largest slope", f"{dual.largest_slope:.4g}")
    add("seconds", f"{trained.history[-1].seconds:.1f}")
    add("files", f"{critic}, {history_path(critic).name}")
    return table
