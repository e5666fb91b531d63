"""Critics held against a solution: the report, its table and its files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congested.critics.evaluate import Evaluation, Mean, evaluate
from congested.critics.network import Critic
from congested.critics.reference import Reference, reference_from_arrays
from congested.critics.relative import relative_suboptimality
from congested.errors import InputError
from congested.geometry import cells_of_mesh
from congested.io.arrays import ResultArrays, gather_arrays
from congested.io.files import finish_directory, on_root, write_text
from congested.io.result import COMPARISON, json_text, remove_comparison

if TYPE_CHECKING:
    from congested.solution import Solution

SCHEMA = 1

#: Draws a critic beside a solution: (arrays, report of the critic, evaluation, path).
DrawCritic = Callable[[ResultArrays, Mapping[str, Any], Evaluation, Path], None]


@dataclass(frozen=True, eq=False)
class CriticReport:
    """One critic held against a solution.

    Attributes
    ----------
    name
        Name of the critic: that of its file.
    architecture
        What it is, in words.
    evaluation
        What it is worth.
    seconds
        Wall seconds that it took.
    """

    name: str
    architecture: str
    evaluation: Evaluation
    seconds: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Critics held against one solution, the best first.

    Attributes
    ----------
    reference
        The solution.
    critics
        The reports, in the order of their suboptimality.
    """

    reference: Reference
    critics: tuple[CriticReport, ...]

    def result(self) -> dict[str, Any]:
        """Return the content of ``compare.json``."""
        bounds, result = self.reference.bounds, self.reference.result
        return {
            "schema": SCHEMA,
            "title": result.get("title"),
            "reference": {
                "lower": bounds.lower,
                "upper": bounds.upper,
                "scope": bounds.scope,
                "data_error": bounds.data_error,
                "strength": self.reference.strength,
                "momentum_l1": result["values"]["momentum_l1"],
                "critic_loss": result["values"]["critic_loss"],
                "penalty": result["values"]["penalty"],
            },
            "critics": {one.name: critic_result(one, self.reference) for one in self.critics},
        }

    def write(self, directory: str | Path, *, draw: DrawCritic | None = None) -> Path:
        """Write compare.json, and a picture for each critic (collective).

        Parameters
        ----------
        directory
            Made if it does not exist; an earlier comparison in it is replaced, with the pictures
            that its compare.json names.
        draw
            Draws ``compare_NAME.png``; None: no pictures.

        Returns
        -------
        pathlib.Path
            The directory.

        Raises
        ------
        InputError
            If the directory cannot be written.
        CongestedError
            If a picture failed, after everything else has been written.
        """
        directory = Path(directory)
        content = self.result()
        pictures = picture_names([one.name for one in self.critics])
        for name, critic in content["critics"].items():
            critic["picture"] = None if draw is None else pictures[name]

        def clear() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            remove_comparison(directory)

        drawn = {}
        if draw is not None and self.reference.arrays is not None:
            for one in self.critics:
                words = {"name": one.name, **content}
                drawn[directory / pictures[one.name]] = partial(
                    draw, self.reference.arrays, words, one.evaluation
                )
        on_root(self.reference.comm, clear)
        finish_directory(
            self.reference.comm,
            drawn,
            lambda: write_text(directory / COMPARISON, json_text(content)),
        )
        return directory


def picture_names(names: Sequence[str]) -> dict[str, str]:
    """Return the file names of critics' pictures, each another: compare_NAME.png."""
    short = {name: Path(name).stem for name in names}
    result: dict[str, str] = {}
    for name in names:
        # Two with one stem keep their endings and folders.
        alone = list(short.values()).count(short[name]) == 1
        text = short[name] if alone else re.sub(r"[/\\]+", "_", name.strip("./"))
        while f"compare_{text}.png" in result.values():
            text += "_"
        result[name] = f"compare_{text}.png"
    return result


def compare(
    solution: Solution | Reference,
    critics: Critic | Mapping[str, Critic],
    *,
    sign: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Hold critics against a solution (collective).

    Parameters
    ----------
    solution
        A solution, or one read by `reference_from_directory`.
    critics
        A critic, or several by their names.
    sign
        1 or −1, what critics are multiplied by to be high on the source; None: each has the sign
        that makes its critic loss positive.
    progress
        Told the name of each critic before it is evaluated.

    Returns
    -------
    Comparison
        The reports; the same on every rank, but for the fields.

    Raises
    ------
    InputError
        If a critic is none of the solution's dimension; the text names it.
    """
    reference = solution if isinstance(solution, Reference) else reference_of(solution)
    named = critics if isinstance(critics, Mapping) else {"critic": critics}
    reports = []
    for name, critic in named.items():
        if progress is not None:
            progress(name)
        started = time.perf_counter()
        try:
            evaluation = evaluate(reference, critic, sign=sign)
        except InputError as error:
            raise InputError(error.message, key=error.key, file=error.file or name) from error
        seconds = time.perf_counter() - started
        reports.append(CriticReport(name, architecture(critic), evaluation, seconds))
    reports.sort(key=lambda one: (one.evaluation.suboptimality[1], one.name))
    return Comparison(reference, tuple(reports))


def architecture(critic: Critic) -> str:
    """Return what a critic is, in words."""
    text = str(critic)
    return type(critic).__name__ if text.startswith(("<", type(critic).__name__)) else text


def reference_of(solution: Solution) -> Reference:
    """Return a solution as critics see it (collective).

    Parameters
    ----------
    solution
        A solution, on the ranks that share its mesh.
    """
    mesh = solution.mesh
    arrays = gather_arrays(mesh, solution.fields, cells_of_mesh(mesh).volume)
    return reference_from_arrays(arrays, mesh.comm.bcast(solution.result()), mesh.comm)


def critic_result(report: CriticReport, reference: Reference) -> dict[str, Any]:
    """Return the part of ``compare.json`` about one critic."""
    one = report.evaluation
    lower, upper = one.suboptimality
    bounds = reference.bounds
    least, most = relative_suboptimality(one.suboptimality, bounds.lower, bounds.upper)
    scaled = one.factor_dual_value
    return {
        "architecture": report.architecture,
        "sign": one.sign,
        "constant": one.constant,
        "critic_loss": one.critic_loss,
        "penalty": one.penalty,
        "penalty_two_sided": one.penalty_two_sided,
        "dual_value": one.dual_value,
        "dual_value_error": one.error,
        "suboptimality": {"lower": lower, "upper": upper},
        "relative_suboptimality": {"lower": least, "upper": most},
        "momentum_l1_reading": one.critic_loss - 2.0 * one.penalty,
        "best_multiple": {
            "factor": one.factor,
            "dual_value": scaled,
            "dual_value_error": one.factor_error,
            "suboptimality": {
                "lower": max(0.0, bounds.lower - scaled - one.factor_error),
                "upper": bounds.upper - scaled + one.factor_error,
            },
        },
        "cosine": _mean(one.cosine),
        "gradient_l2": _mean(one.gradient_l2),
        "mean_gradient_norm": {
            "critic": _mean(one.gradient_norm),
            "solution": _mean(one.solution_gradient_norm),
        },
        "largest_gradient_norm": one.largest_gradient_norm,
        "momentum_relative_l1": one.momentum_relative_l1,
        "momentum_relative_l1_error": one.momentum_relative_l1_error,
        "momentum_divergence_error": one.momentum_divergence_error,
        "integration": {
            "method": "exact pieces" if one.exact else "quadrature",
            "pieces": one.pieces,
        },
        "seconds": report.seconds,
    }


def _mean(mean: Mean) -> dict[str, float]:
    return {
        "source": mean.source,
        "weight": mean.weight,
        "momentum": mean.momentum,
        "error": mean.error,
    }
