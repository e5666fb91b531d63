"""The command ``congested compare``: critics held against a solution."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congested import parallel, report
from congested.cli_common import (
    DONE,
    SIGNS,
    add_critic_flags,
    add_talk,
    critic_of_flags,
    prepare_directory,
)
from congested.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

    from congested.critics.network import Critic


def add_compare(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="hold trained critics against the solution in a result directory",
        description="Hold critics against the solution in a result directory: how far each is "
        "from the best there is, certified, and where. Writes compare.json and a picture for "
        "each critic into the directory.",
    )
    parser.set_defaults(run=_compare)
    add = parser.add_argument
    add("directory", metavar="DIR", help="a directory that congested solve wrote")
    add(
        "critics",
        metavar="CRITIC",
        nargs="+",
        help="state dict (.pt, .safetensors, .npz) or TorchScript module of a critic",
    )
    add("-o", "--output", metavar="DIR", help="where to write instead")
    add_critic_flags(parser)
    add(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to draw compare_NAME.png for each critic",
    )
    add_talk(parser)


def _compare(arguments: argparse.Namespace, comm: MPI.Comm) -> int:
    from congested.comparison import compare
    from congested.critics.reference import reference_from_directory
    from congested.io.files import on_root
    from congested.io.result import COMPARISON, remove_comparison

    output = Path(arguments.output or arguments.directory)
    reference = reference_from_directory(arguments.directory, comm)
    critics = _load(arguments, reference.dimension)

    def prepare() -> None:
        if output.is_dir():
            remove_comparison(output)
        prepare_directory(output, COMPARISON)

    on_root(comm, prepare)
    with parallel.step_bar(comm, len(critics), enabled=not arguments.quiet) as step:
        comparison = compare(reference, critics, sign=SIGNS[arguments.sign], progress=step)
    draw = None
    if arguments.pictures:
        from congested.plot_critic import plot_critic

        draw = plot_critic
    comparison.write(output, draw=draw)
    if not arguments.quiet:
        content = comparison.result()
        on_root(comm, lambda: report.show(report.compare_table(content, output)))
    return DONE


def _load(arguments: argparse.Namespace, dimension: int) -> dict[str, Critic]:
    """Read the critics, on every rank; two of one name keep their folders in it."""
    paths = [Path(word) for word in arguments.critics]
    names = [path.name for path in paths]
    critics: dict[str, Critic] = {}
    for path in paths:
        name = path.name if names.count(path.name) == 1 else str(path)
        if name in critics:
            raise InputError("found the same critic twice; allowed: once", key=str(path))
        critics[name] = critic_of_flags(path, arguments, dimension)
    return critics
