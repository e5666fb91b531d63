"""The command ``congested flow``: particles along the momentum of a solution, or of a critic."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congested import parallel, report
from congested.cli_common import (
    DONE,
    SIGNS,
    STOPPED,
    add_critic_flags,
    add_talk,
    critic_of_flags,
    integer,
    one_line,
    one_of,
    positive,
    prepare_directory,
)
from congested.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

# Flags that are options of the flow by their own names.
_OPTIONS = ("particles", "seed", "keep", "frames", "clock", "paths")
_CLOCKS = ("constant-speed", "dacorogna-moser")
_ANIMATIONS = ("gif", "mp4", "none")


def add_flow(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "flow",
        help="move particles along the momentum of a solution, and check that it is theirs",
        description="Move particles from the source to the target along the momentum of a "
        "solution: arrivals against the target, time-averaged momentum against the momentum, "
        "costs of paths against the cheapest ones. Writes flow.json, wardrop.json, pictures and "
        "files for ParaView and NumPy into the directory.",
    )
    parser.set_defaults(run=_flow)
    add = parser.add_argument
    add("directory", metavar="DIR", help="a directory that congested solve wrote")
    add("-o", "--output", metavar="DIR", help="where to write instead")
    add(
        "--critic",
        metavar="CRITIC",
        help="state dict or TorchScript module: its momentum moves the particles, into DIR/flow_"
        "NAME unless -o says otherwise",
    )
    add("--particles", type=integer(1), metavar="N", help="how many (100,000)")
    add("--seed", type=integer(0), metavar="N", help="seed of the random numbers (0)")
    add("--keep", type=integer(0), metavar="N", help="particles whose places are written (2,000)")
    add("--frames", type=integer(1), metavar="N", help="steps in time at which they are (40)")
    add("--paths", type=integer(0), metavar="N", help="whole paths that are written (300)")
    add(
        "--clock",
        type=one_of(_CLOCKS),
        metavar="CLOCK",
        help="constant-speed (default) or dacorogna-moser: density (1 - t) source + t target",
    )
    add(
        "--pictures",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to draw flow.png",
    )
    add(
        "--animation",
        type=one_of(_ANIMATIONS),
        default="gif",
        metavar="KIND",
        help="gif (default), mp4 (needs ffmpeg) or none",
    )
    add(
        "--equilibrium",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to compare paths with the cheapest ones (wardrop.json), most of the time",
    )
    add("--max-seconds", type=positive, metavar="S", help="draw no more particles after this time")
    add("--resume", action="store_true", help="go on with a flow that was stopped")
    add_critic_flags(parser)
    add_talk(parser)


def _flow(arguments: argparse.Namespace, comm: MPI.Comm) -> int:
    from congested.critics.reference import reference_from_directory
    from congested.flow_result import WRITING_STEPS, FlowOptions, check_writing
    from congested.io.files import on_root
    from congested.mass_flow import compute_flow, resumed_options, steps

    started = time.monotonic()
    _check_critic_flags(arguments)
    options = FlowOptions(**_given(arguments))
    try:
        check_writing(options, arguments.animation)
    except InputError as error:
        raise _of_flag(error) from error
    reference = reference_from_directory(arguments.directory, comm)
    critic = None
    if arguments.critic is not None:
        critic = critic_of_flags(Path(arguments.critic), arguments, reference.dimension)
    output = _output(arguments)
    begin = None
    if arguments.resume:
        try:
            options = resumed_options(output, comm, _given(arguments))
        except InputError as error:
            raise _of_flag(error) from error
    else:
        on_root(comm, lambda: prepare_directory(output))

        def begin() -> None:
            on_root(comm, lambda: _replace(output))

    request = parallel.StopRequest()

    def stop() -> str | None:
        number = request.requested(comm)
        if number:
            return f"{signal.Signals(number).name} asked to stop; --resume goes on"
        limit = arguments.max_seconds
        if limit is not None and comm.bcast(time.monotonic() - started) > limit:
            return f"--max-seconds {limit:g} have passed; --resume goes on"
        return None

    number = steps(options, critic=critic is not None) + WRITING_STEPS
    with request.install():
        with parallel.step_bar(comm, number, enabled=not arguments.quiet) as step:
            try:
                flow = compute_flow(
                    reference,
                    critic,
                    name=Path(arguments.critic or "").name,
                    sign=SIGNS[arguments.sign],
                    options=options,
                    progress=step,
                    stop=stop,
                    checkpoint=output,
                    resume=arguments.resume,
                    begin=begin,
                    equilibrium=arguments.equilibrium,
                )
            except InputError as error:
                raise _of_flag(error) from error
            flow.write(
                output,
                pictures=arguments.pictures,
                animation=arguments.animation,
                progress=step,
            )
        number = request.requested(comm)
    content = flow.result()
    if not arguments.quiet:
        on_root(comm, lambda: report.show(report.flow_table(content, flow.wardrop, output)))
    if flow.complete:
        return DONE
    if comm.rank == 0:
        sys.stderr.write(f"stopped: {one_line(content['reason'])}\n")
    return 128 + number if number else STOPPED


def _check_critic_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError if flags about a critic are given without one."""
    if arguments.critic is not None:
        return
    defaults = {"sign": "auto"}
    for name in ("activation", "group_size", "slope", "orthogonal_map", "sign"):
        if (value := getattr(arguments, name)) != defaults.get(name):
            raise InputError(
                f"found {value} without --critic; allowed: only with a critic",
                key=f"--{name.replace('_', '-')}",
            )


def _replace(output: Path) -> None:
    """Make room for a new flow (one rank)."""
    from congested.io.flow import CHECKPOINT, remove_flow_files

    if (output / CHECKPOINT).exists():
        parallel.logger.warning(
            "%s: a flow that could be resumed (--resume) is replaced by this one", output
        )
    remove_flow_files(output)


def _output(arguments: argparse.Namespace) -> Path:
    """Return the directory to write to."""
    if arguments.output is not None:
        return Path(arguments.output)
    directory = Path(arguments.directory)
    if arguments.critic is None:
        return directory
    return directory / f"flow_{Path(arguments.critic).stem}"


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that flags give."""
    values = {name: getattr(arguments, name) for name in _OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def _of_flag(error: InputError) -> InputError:
    """Return the error with the flag that is to blame, if it is one and not a file."""
    if error.key in ("critic", "animation", "resume", *_OPTIONS):
        return InputError(error.message, key=f"--{error.key}", file=error.file)
    return error
