"""The command ``congested weight``: the weight of a problem alone."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congested import report
from congested.cli_common import DONE, add_talk, integer, one_of, prepare_directory
from congested.errors import InputError
from congested.problem import Problem
from congested.weights.kinds import (
    ENDS,
    RULES,
    SMALLEST_TOLERANCE,
    Interpolates,
    MixtureWeight,
    Weight,
)

if TYPE_CHECKING:
    from mpi4py import MPI

_SETTINGS = ("rule", "samples", "tolerance", "seed")


def add_weight(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "weight",
        help="compute the weight of a problem file alone and write its directory",
        description="Compute the weight of a problem file on its first mesh; flags override the "
        "file.",
    )
    parser.set_defaults(run=_weight)
    add = parser.add_argument
    add("problem", metavar="PROBLEM.toml", help="the problem file")
    add("-o", "--output", metavar="DIR", required=True, help="directory for the weight")
    add("--cells", type=integer(1), metavar="N", help="squares along the longest side of a box")
    add("--refine", type=integer(0), default=0, metavar="K", help="refine the mesh K times")
    add("--rule", type=one_of(RULES), metavar="RULE", help=" or ".join(RULES))
    add("--samples", type=integer(1), metavar="N", help="number of segments, where it is sampled")
    add("--tolerance", type=_tolerance, metavar="E", help="relative error of the cell masses")
    add("--seed", type=integer(0), metavar="N", help="seed of the sampling")
    add(
        "--overview",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether to draw weight.png",
    )
    add_talk(parser)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not SMALLEST_TOLERANCE <= value < 1.0:
        allowed = f"a number from {SMALLEST_TOLERANCE:g} to 1"
        raise argparse.ArgumentTypeError(f'found "{text}"; allowed: {allowed}')
    return value


def _override(problem: Problem, arguments: argparse.Namespace) -> Problem:
    """Return the problem as the flags change it."""
    if arguments.cells is not None:
        from congested.domain import Box  # which waits for DOLFINx

        if not isinstance(problem.domain, Box):
            found = f"found {arguments.cells} for a domain that is a mesh file"
            raise InputError(f"{found}; allowed: only for boxes, see --refine", key="--cells")
        problem = dataclasses.replace(
            problem, domain=dataclasses.replace(problem.domain, cells=arguments.cells)
        )
    given = {name: value for name in _SETTINGS if (value := getattr(arguments, name)) is not None}
    if given:
        weight = _with_settings(problem.weight, given)
        if weight is problem.weight:
            name, value = next(iter(given.items()))
            message = f"found {value} for a weight without lines from source to target"
            raise InputError(f"{message}; allowed: nothing here", key=f"--{name}")
        problem = dataclasses.replace(problem, weight=weight)
    if arguments.overview is not None:
        output = dataclasses.replace(problem.output, overview=arguments.overview)
        problem = dataclasses.replace(problem, output=output)
    return problem


def _with_settings(weight: Weight, settings: Mapping[str, Any]) -> Weight:
    """Return the weight with other settings of its lines; itself, if it has none."""
    if isinstance(weight, MixtureWeight):
        parts = tuple(_with_settings(part, settings) for part in weight.parts)
        same = all(new is old for new, old in zip(parts, weight.parts, strict=True))
        return weight if same else dataclasses.replace(weight, parts=parts)
    if isinstance(weight, Interpolates) and weight.coupling not in ENDS:
        return dataclasses.replace(weight, **settings)
    return weight


def _weight(arguments: argparse.Namespace, comm: MPI.Comm) -> int:
    from congested.io.files import on_root

    problem = _override(Problem.from_file(arguments.problem), arguments)
    directory = Path(arguments.output)
    on_root(comm, lambda: prepare_directory(directory, "weight.json"))

    from congested.weight_result import compute_weight

    try:
        result = compute_weight(problem, refine=arguments.refine, comm=comm)
    except InputError as error:
        raise _of_flag(error, arguments) from error
    result.write(directory)
    if not arguments.quiet:
        content = result.result()
        on_root(comm, lambda: report.show(report.weight_table(content, directory)))
    return DONE


def _of_flag(error: InputError, arguments: argparse.Namespace) -> InputError:
    """Return the error with the flag that is to blame, if it is one and not the file."""
    name = (error.key or "").split(".")[-1]
    if name in ("refine", *_SETTINGS) and getattr(arguments, name) is not None:
        return InputError(error.message, key=f"--{name}", file=error.file)
    return error
