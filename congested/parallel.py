"""What many ranks have to do as one: speak with one voice, time, stop on a signal, and fail.

Only rank 0 writes to the terminal, but every rank calls these functions. An error of one rank
reaches all of them; if the others are caught in a collective call that the failed rank will never
reach, the communicator is aborted with a message instead of waiting for ever.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from congested.errors import CongestedError

if TYPE_CHECKING:
    from mpi4py import MPI

    from congested.solution import ProgressEvent

Value = TypeVar("Value")

logger = logging.getLogger("congested")

# Width of tables where there is no terminal to ask.
PIPE_WIDTH = 100


@lru_cache(maxsize=1)
def error_console() -> Console:
    """Return the console on stderr that the log and the progress bar share."""
    return Console(stderr=True)


def output_console() -> Console:
    """Return a console on stdout for plain text, at least 80 columns wide.

    Without styles even on a terminal: mpirun gives rank 0 a terminal and may itself write to a
    pipe, where escape codes would be rubbish.
    """
    console = Console(color_system=None)
    return Console(
        color_system=None, width=max(80, console.width if console.is_terminal else PIPE_WIDTH)
    )


# --- log ------------------------------------------------------------------------------------


class _ConsoleHandler(logging.Handler):
    """Writes records above the progress bar, one line each however wide the terminal is."""

    _styles: ClassVar[dict[int, str]] = {
        logging.WARNING: "yellow",
        logging.ERROR: "red",
        logging.CRITICAL: "red",
    }

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            text = Text(self.format(record), style=self._styles.get(record.levelno, ""))
            error_console().print(text, soft_wrap=True)
        except Exception:  # as every handler: logging prints it to stderr and goes on
            self.handleError(record)


def configure_logging(comm: MPI.Comm, level: int = logging.INFO) -> None:
    """Send the log of the package to stderr on rank 0 and nowhere on the other ranks.

    Parameters
    ----------
    comm
        Communicator of the run.
    level
        Least level that is shown, for example ``logging.DEBUG``.
    """
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = False
    logger.setLevel(level)
    logger.addHandler(_ConsoleHandler() if comm.rank == 0 else logging.NullHandler())


# --- progress -------------------------------------------------------------------------------


def gap_fraction(gap: float, first: float, goal: float) -> float:
    """Return how far the gap has closed from ``first`` to ``goal`` on a log scale, in [0, 1]."""
    if gap <= goal:
        return 1.0
    if math.isnan(gap) or gap >= first:
        return 0.0
    return math.log(first / gap) / math.log(first / goal)


class _GapBar:
    """Turns events into the state of a progress bar that never runs backwards."""

    def __init__(self, progress: Progress, goal: float) -> None:
        self._progress = progress
        self._goal = goal
        self._first: float | None = None
        self._fraction = 0.0
        self._task = progress.add_task("starting", total=1.0, status="")

    def __call__(self, event: ProgressEvent) -> None:
        gap = event.relative_gap
        if math.isfinite(gap):
            if self._first is None:
                self._first = gap
            # A finer mesh can start with a larger gap again; what was reached stays reached.
            self._fraction = max(self._fraction, gap_fraction(gap, self._first, self._goal))
        self._progress.update(
            self._task,
            completed=self._fraction,
            description=event.stage,
            status=progress_text(event, self._goal),
        )


def _known(value: float, spelling: str) -> str:
    return format(value, spelling) if math.isfinite(value) else "?"


def progress_text(event: ProgressEvent, goal: float) -> str:
    """Return an event in words: level, cells, bounds and the gap with its goal."""
    return (
        f"level {event.level}, {event.cells:,} cells, "
        f"{_known(event.lower, '.5g')} <= cost <= {_known(event.upper, '.5g')}, "
        f"gap {_known(event.relative_gap, '.1e')} -> {goal:.1e}"
    )


def _ignore(event: ProgressEvent) -> None:
    """Show nothing."""


@contextmanager
def labelled_bar(
    middle: ProgressColumn, console: Console, *, shown: bool = True
) -> Iterator[Progress]:
    """Show tasks, or not, with their description, a bar, something of their own, and the time."""
    label, bar = TextColumn("{task.description}"), BarColumn(bar_width=None)
    columns = (label, bar, middle, TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, expand=True, disable=not shown
    ) as progress:
        yield progress


@contextmanager
def progress_bar(
    comm: MPI.Comm, goal: float, *, enabled: bool = True, console: Console | None = None
) -> Iterator[Callable[[ProgressEvent], None]]:
    """Show the gap closing while the body runs.

    Parameters
    ----------
    comm
        Communicator of the run; only rank 0 shows something.
    goal
        Relative gap at which the bar is full.
    enabled
        False: show nothing.
    console
        Where to show it; by default stderr. Nothing is shown where that is no terminal.

    Yields
    ------
    Callable
        To be called with each `ProgressEvent` on every rank; it does not communicate.
    """
    console = error_console() if console is None else console
    if comm.rank != 0 or not enabled or not console.is_terminal:
        yield _ignore
        return
    with labelled_bar(TextColumn("{task.fields[status]}"), console) as progress:
        yield _GapBar(progress, goal)


@contextmanager
def step_bar(
    comm: MPI.Comm, steps: int, *, enabled: bool = True, console: Console | None = None
) -> Iterator[Callable[[str], None]]:
    """Show how many of some named steps are done while the body runs.

    Parameters
    ----------
    comm
        Communicator of the run; only rank 0 shows something.
    steps
        How many there are.
    enabled, console
        As in `progress_bar`.

    Yields
    ------
    Callable
        To be called with the name of each step when it begins; it does not communicate.
    """
    console = error_console() if console is None else console
    if comm.rank != 0 or not enabled or not console.is_terminal:
        yield lambda name: None
        return
    with labelled_bar(MofNCompleteColumn(), console) as progress:
        task = progress.add_task("", total=steps, completed=-1)

        def step(name: str) -> None:
            progress.update(task, advance=1, description=name)

        yield step


# --- time and memory ------------------------------------------------------------------------


class Stopwatch:
    """Seconds of named stages, summed over repetitions.

    ``with stopwatch("weight"): …`` adds to ``stopwatch.seconds["weight"]``.

    Attributes
    ----------
    seconds
        Wall seconds by name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._created = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the body of a ``with`` statement, also if it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a name."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def total(self) -> float:
        """Wall seconds since the stopwatch was made."""
        return time.perf_counter() - self._created


def peak_memory_bytes(comm: MPI.Comm) -> int:
    """Return the peak resident memory of the processes, summed over ranks (collective)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return int(comm.allreduce(peak * unit))


# --- signals --------------------------------------------------------------------------------


# Signals that ask to stop, with the one that each stands for. mpirun passes the last two on to
# the ranks, while it answers an interrupt itself by killing them within half a second.
_STOP_SIGNALS = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGTERM,
    signal.SIGUSR2: signal.SIGINT,
}


class StopRequest:
    """A wish to stop, expressed by a signal and polled where stopping is safe.

    The first signal is remembered; a second one ends the process at once. SIGINT and SIGTERM ask
    a single process to stop. Under mpirun send SIGUSR1 (like SIGTERM) or SIGUSR2 (like SIGINT) to
    mpirun itself; batch systems can send SIGUSR1 before the time is up.

    Attributes
    ----------
    signal
        SIGINT or SIGTERM if this rank was asked to stop, else None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def install(self) -> Iterator[StopRequest]:
        """Catch the signals while the body runs; only in the main thread."""
        previous = {number: signal.signal(number, self._receive) for number in _STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = _STOP_SIGNALS[signal.Signals(number)]

    def requested(self, comm: MPI.Comm) -> int:
        """Return the largest signal number that any rank received, 0 for none (collective)."""
        received = np.array([self.signal or 0], dtype=np.int32)
        largest = np.zeros_like(received)
        comm.Allreduce(received, largest, op=_maximum())
        return int(largest[0])


def _maximum() -> MPI.Op:
    from mpi4py import MPI

    return MPI.MAX


# --- failure --------------------------------------------------------------------------------


def exit_status(error: BaseException) -> int:
    """Return the exit status that belongs to an exception."""
    if isinstance(error, CongestedError):
        return error.exit_status
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def together(comm: MPI.Comm, action: Callable[[], Value], *, patience: float = 20.0) -> Value:
    """Run an action on every rank; if it fails on any, all ranks fail alike (collective).

    Parameters
    ----------
    comm
        Communicator whose ranks all call this.
    action
        What to run; it may communicate.
    patience
        Seconds that a failed rank waits for the others to come out of the action as well. If they
        do not, they wait in it for the failed rank, and the communicator is aborted: the last
        resort, with a message on stderr and the exit status of the error.

    Returns
    -------
    object
        What the action returned on this rank.

    Raises
    ------
    BaseException
        On every rank, the failure of the lowest rank that failed.
    """
    if comm.size == 1:
        return action()
    private = comm.Dup()  # so that no message of the action can meet those of this function
    failure: BaseException | None = None
    value: Value | None = None
    try:
        value = action()
    except BaseException as error:
        failure = error
    outcomes = _exchange_outcomes(private, failure, patience)
    if not outcomes.any():
        private.Free()
        return value  # type: ignore[return-value]
    lowest = int(np.flatnonzero(outcomes)[0])
    failure = private.bcast(_portable(failure) if private.rank == lowest else None, root=lowest)
    private.Free()
    raise failure


def _exchange_outcomes(
    private: MPI.Comm, failure: BaseException | None, patience: float
) -> np.ndarray:
    """Return for every rank whether it failed; a failed rank does not wait for ever."""
    failed = np.array([failure is not None], dtype=np.int32)
    outcomes = np.zeros(private.size, dtype=np.int32)
    request = private.Iallgather(failed, outcomes)
    deadline = time.monotonic() + patience
    while not request.Test():
        if failure is not None and time.monotonic() > deadline:
            _abort(private, failure)
        time.sleep(0.005)
    return outcomes


def _abort(comm: MPI.Comm, failure: BaseException) -> None:
    if not isinstance(failure, CongestedError):
        traceback.print_exception(failure)
    sys.stderr.write(f"error: {failure} (on rank {comm.rank} alone: all ranks are aborted)\n")
    sys.stderr.flush()
    comm.Abort(exit_status(failure))


def _portable(failure: BaseException | None) -> BaseException:
    """Return the failure as something that another rank can unpickle, with its traceback."""
    if isinstance(failure, (CongestedError, KeyboardInterrupt)):
        return failure.with_traceback(None)
    text = "".join(traceback.format_exception(failure))
    return RuntimeError(f"{type(failure).__name__}: {failure}\n{text}")
