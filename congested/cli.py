"""The command line: ``congested solve``, ``weight``, ``compare``, ``flow``, ``train``, and more.

stdout carries the results, stderr the log, the progress bar and the errors. Modules that need
DOLFINx are imported when a command needs them, so that help and typing errors come at once.

Exit status: 0 done, 2 the input is wrong, 3 stopped before the gap was reached, 4 infeasible,
130 interrupted, 143 terminated. In the last four cases everything so far has been written, and in
all but "infeasible" ``congested solve --resume`` goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from rich.text import Text

from congested import parallel, report
from congested.cli_common import (
    DONE,
    STOPPED,
    WRONG_INPUT,
    add_talk,
    formats,
    integer,
    one_line,
    one_of,
    petsc_options,
    positive,
    positive_or_inf,
    prepare_directory,
    say_error,
)
from congested.cli_compare import add_compare
from congested.cli_flow import add_flow
from congested.cli_train import add_train
from congested.cli_weight import add_weight
from congested.errors import CongestedError, InfeasibleProblem, InputError
from congested.problem import FORMATS, LOWER_BOUNDS, METHODS, REFINEMENTS, SCOPES, Problem
from congested.version import __version__

if TYPE_CHECKING:
    from dolfinx.mesh import Mesh
    from mpi4py import MPI

# Flags of solve that a resumed run cannot, and can, be given.
_NOT_RESUMED = ("penalty", "method", "refine", "lower_bound", "scope")
_RESUMED = (
    "--relative-gap",
    "--max-cells",
    "--max-seconds",
    "--formats",
    "--overview",
    "--petsc",
    "-v",
    "-q",
)
# Set by the launchers of Open MPI, PMIx, MPICH and Intel MPI; without them there is one rank.
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the name of the program; by default those of the process.

    Returns
    -------
    int
        The exit status, the same on every rank.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no crash where ∫ cannot be encoded
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parse(words)
    except SystemExit as stop:
        return int(stop.code or 0)

    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    parallel.configure_logging(comm, arguments.level)
    try:
        return parallel.together(comm, lambda: int(arguments.run(arguments, comm)))
    except CongestedError as error:
        if comm.rank == 0:
            say_error(one_line(_located(error, arguments)))
        return error.exit_status
    except KeyboardInterrupt:
        return parallel.exit_status(KeyboardInterrupt())
    except Exception as error:
        if comm.size == 1:
            raise
        if comm.rank == 0:
            say_error(f"unexpected: {error}")
        return 1


def _located(error: CongestedError, arguments: argparse.Namespace) -> str:
    """Return the text of an error, with the problem file if a key of it is to blame."""
    file = getattr(arguments, "problem", None) or getattr(arguments, "resume", None)
    if isinstance(error, InputError) and error.file is None and error.key and file:
        if not error.key.startswith("-"):
            return f"{file}: {error}"
    return str(error)


# --- arguments ------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and under MPI only on rank 0."""

    def error(self, message: str) -> NoReturn:
        if _speaks():
            say_error(f"{message} ({self.prog} --help shows what is allowed)")
        raise SystemExit(WRONG_INPUT)

    def _print_message(self, message: str, file: TextIO | None = None) -> None:  # type: ignore[override]
        if _speaks():
            super()._print_message(message, file)


def _speaks() -> bool:
    if not any(variable in os.environ for variable in _RANK_VARIABLES):
        return True
    from mpi4py import MPI

    return bool(MPI.COMM_WORLD.rank == 0)


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse the arguments; what follows ``--petsc`` belongs to PETSc."""
    petsc: list[str] = []
    if "--petsc" in words:
        split = words.index("--petsc")
        words, petsc = words[:split], words[split + 1 :]
    parser = _parser()
    arguments = parser.parse_args(words)
    try:
        arguments.petsc = petsc_options(petsc)
    except InputError as error:
        parser.error(str(error))
    if arguments.run is _solve:
        _check_solve(arguments)
    arguments.level = logging.INFO
    if getattr(arguments, "quiet", False):
        arguments.level = logging.ERROR
    elif getattr(arguments, "verbose", False):
        arguments.level = logging.DEBUG
    return arguments


def _check_solve(arguments: argparse.Namespace) -> None:
    """Check what argparse cannot: what goes with --resume, and what is needed without."""
    parser: _Parser = arguments.parser
    if arguments.resume is None:
        needed = {"PROBLEM.toml": arguments.problem, "-o/--output": arguments.output}
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            parser.error(f"the following arguments are required: {', '.join(missing)}")
        return
    for name in ("problem", "output", *_NOT_RESUMED):
        if (value := getattr(arguments, name)) is not None:
            flag = "PROBLEM.toml" if name == "problem" else f"--{name.replace('_', '-')}"
            parser.error(
                f"{flag}: found {value} beside --resume, which goes on with the problem as it was "
                f"asked for, in the same directory; allowed: only {', '.join(_RESUMED)}"
            )


def _parser() -> _Parser:
    parser = _Parser(
        prog="congested",
        description="Certified congested optimal transport: what a WGAN-GP critic should learn.",
        epilog="Exit status: 0 done, 2 the input is wrong, 3 stopped before the gap was reached, "
        "4 infeasible, 130 interrupted, 143 terminated. With mpirun -n N it runs on N ranks.",
    )
    parser.add_argument("--version", action="version", version=f"congested {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    solve = commands.add_parser(
        "solve",
        help="solve a problem file and write the result directory",
        description="Solve a problem file; flags override what the file says. With --resume, go on "
        "with a run that was stopped or killed.",
        usage="%(prog)s PROBLEM.toml -o DIR [flags]\n       %(prog)s --resume DIR [flags]",
    )
    solve.set_defaults(run=_solve, parser=solve)
    add = solve.add_argument
    add("problem", metavar="PROBLEM.toml", nargs="?", help="the problem file")
    add("-o", "--output", metavar="DIR", help="directory for the results, and for checkpoints")
    add("--resume", metavar="DIR", help="go on with the run that writes to DIR")
    add("--relative-gap", type=positive, metavar="GAP", help="certified gap at which to stop")
    add("--penalty", type=positive_or_inf, metavar="STRENGTH", help="the λ of the penalty, or inf")
    add("--method", type=one_of(METHODS), metavar="METHOD", help=" or ".join(METHODS))
    add("--refine", type=one_of(REFINEMENTS), metavar="HOW", help=" or ".join(REFINEMENTS))
    add("--max-cells", type=integer(1), metavar="N", help="do not refine beyond so many cells")
    add("--max-seconds", type=positive, metavar="S", help="start nothing new after this time")
    add("--lower-bound", type=one_of(LOWER_BOUNDS), metavar="SPACE", help=" or ".join(LOWER_BOUNDS))
    add("--scope", type=one_of(SCOPES), metavar="WHAT", help=" or ".join(SCOPES))
    add("--formats", type=formats, metavar="LIST", help=f"field files: {','.join(FORMATS)}")
    add(
        "--overview",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether to draw overview.png",
    )
    add_talk(solve)
    add(
        "--petsc",
        nargs=argparse.REMAINDER,
        metavar="-OPTION",
        help="everything after it goes to PETSc: --petsc -ksp_rtol 1e-10 -pc_type gamg",
    )

    add_weight(commands)
    add_compare(commands)
    add_train(commands)
    add_flow(commands)

    plot = commands.add_parser(
        "plot", help="draw overview.png of a result directory again", description="Draw again."
    )
    plot.set_defaults(run=_plot)
    plot.add_argument("directory", metavar="DIR", help="a directory that congested solve wrote")

    info = commands.add_parser(
        "info", help="show versions, solvers and ranks", description="Show what this runs on."
    )
    info.set_defaults(run=_info)
    return parser


# --- solve ----------------------------------------------------------------------------------


def _override(problem: Problem, arguments: argparse.Namespace) -> Problem:
    """Return the problem as the flags change it."""
    names = ("relative_gap", "method", "refine", "max_cells", "max_seconds", "lower_bound", "scope")
    solver = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.petsc:
        solver["petsc"] = {**problem.solver.petsc, **arguments.petsc}
    output = {
        name: value
        for name in ("formats", "overview")
        if (value := getattr(arguments, name)) is not None
    }
    return dataclasses.replace(
        problem,
        strength=problem.strength if arguments.penalty is None else arguments.penalty,
        solver=dataclasses.replace(problem.solver, **solver),
        output=dataclasses.replace(problem.output, **output),
    )


def _solve(arguments: argparse.Namespace, comm: MPI.Comm) -> int:
    from congested.io.checkpoint import discard_checkpoint
    from congested.io.files import on_root
    from congested.io.result import read_result, write_result
    from congested.level_checkpoint import Checkpoint

    if arguments.resume is None:
        directory, file = Path(arguments.output), Path(arguments.problem)
        problem = _override(Problem.from_file(file), arguments)
        on_root(comm, lambda: _prepare(directory))
        checkpoint = Checkpoint(directory, file=file)
    else:
        from congested.resume import read_checkpoint, recorded_problem

        # The result of a run that was stopped stays until there is a new one.
        directory = Path(arguments.resume)
        record, checkpoint = read_checkpoint(directory, comm)
        problem = _override(recorded_problem(record, directory), arguments)

    from congested.io.fields import check_formats
    from congested.nested_iteration import solve
    from congested.solution import Status

    check_formats(problem.output.formats)
    text = _text_to_keep(problem, checkpoint.file, directory)
    watch, stop = parallel.Stopwatch(), parallel.StopRequest()
    goal = problem.solver.relative_gap
    with stop.install():
        try:
            with parallel.progress_bar(comm, goal, enabled=not arguments.quiet) as progress:
                solution = solve(
                    problem, comm=comm, progress=progress, stop=stop, checkpoint=checkpoint
                )
        except InfeasibleProblem as error:
            result = _infeasible_result(problem, str(error), watch, comm)
            write_result(
                directory,
                result=result,
                arrays=None,
                mesh=cast("Mesh", _WithoutMesh(comm)),  # only its communicator is used
                fields=None,
                problem_text=text,
            )
            on_root(comm, lambda: discard_checkpoint(directory))
            raise
        solution.write(directory, problem_text=text)
        signal = stop.requested(comm)
    if not arguments.quiet:
        on_root(comm, lambda: report.show(report.result_table(read_result(directory), directory)))
    if solution.status is Status.INFEASIBLE:
        raise InfeasibleProblem(solution.reason)
    if solution.status is Status.CONVERGED:
        return DONE
    if comm.rank == 0:
        sys.stderr.write(f"stopped: {one_line(solution.reason)}\n")
    return 128 + signal if signal else STOPPED


def _prepare(directory: Path) -> None:
    """Make the directory ready for a new run (on rank 0)."""
    from congested.io.checkpoint import has_checkpoint

    if has_checkpoint(directory):
        parallel.logger.warning(
            "%s: a run that could be resumed (--resume) is replaced by this one", directory
        )
    prepare_directory(directory, "result.json")


def _text_to_keep(problem: Problem, file: Path | None, directory: Path) -> str | None:
    """Return the effective problem for problem.toml, None where that is the user's own file."""
    from congested.problem_file import problem_text

    kept = directory / "problem.toml"
    own = file is not None and file.exists() and kept.exists() and kept.samefile(file)
    return None if own else problem_text(problem)


def _infeasible_result(
    problem: Problem, reason: str, watch: parallel.Stopwatch, comm: MPI.Comm
) -> dict[str, Any]:
    """Return result.json of a problem without a solution: all its keys, null for what is not."""
    from congested.io.result import SCHEMA
    from congested.solution import environment

    return {
        "schema": SCHEMA,
        "title": problem.title,
        "status": "infeasible",
        "reason": reason,
        "bounds": None,
        "values": dict.fromkeys(("cost", "critic_loss", "penalty", "momentum_l1")),
        "mesh": {"dimension": problem.source.dimension}
        | dict.fromkeys(("cells", "vertices", "levels")),
        "dofs": dict.fromkeys(("potential", "flux")),
        "conservation": {"max_divergence_residual": None},
        "solver": {"method": problem.solver.method}
        | dict.fromkeys(
            (
                "outer_iterations",
                "newton_iterations",
                "augmented_lagrangian_iterations",
                "linear_iterations",
            )
        ),
        "seconds": dict.fromkeys(("setup", "weight", "solve", "certify")) | {"total": watch.total},
        "peak_memory_bytes": parallel.peak_memory_bytes(comm),
        "environment": environment(comm.size),
        "problem": problem.description,
    }


@dataclasses.dataclass(frozen=True)
class _WithoutMesh:
    comm: MPI.Comm


# --- plot and info ------------------------------------------------------------------------


def _plot(arguments: argparse.Namespace, comm: MPI.Comm) -> int:
    from congested.io.files import on_root
    from congested.plot import plot_directory

    def draw() -> None:
        table = report.plain_table()
        table.add_row("picture", Text(str(plot_directory(arguments.directory))))
        report.show(table)

    on_root(comm, draw)
    return DONE


def _info(arguments: argparse.Namespace, comm: MPI.Comm) -> int:
    table = report.info_table(comm)  # on every rank: PETSc starts when it is imported
    if comm.rank == 0:
        report.show(table)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
