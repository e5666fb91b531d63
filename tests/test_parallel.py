"""One voice, one clock, one end: what many ranks do as one."""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from mpi4py import MPI
from rich.console import Console

from congested import parallel
from congested.errors import InfeasibleProblem, InputError
from congested.parallel import (
    StopRequest,
    Stopwatch,
    configure_logging,
    gap_fraction,
    logger,
    peak_memory_bytes,
    progress_bar,
    progress_text,
    together,
)
from congested.solution import ProgressEvent

SELF = MPI.COMM_SELF


def event(gap: float, **changes: object) -> ProgressEvent:
    values: dict[str, object] = {
        "level": 2,
        "cells": 16384,
        "iteration": 7,
        "stage": "newton",
        "lower": 0.47,
        "upper": 0.48,
        "relative_gap": gap,
        "seconds": 1.5,
    }
    return ProgressEvent(**(values | changes))  # type: ignore[arg-type]


def on_ranks(number: int, script: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a script on ranks of its own; a deadlock fails the test."""
    command = ["mpirun", "-n", str(number), sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


# --- log ------------------------------------------------------------------------------------


@pytest.fixture
def restored_logger() -> Iterator[None]:
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.mark.usefixtures("restored_logger")
def test_log_goes_to_stderr_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(SELF)
    configure_logging(SELF)
    logger.info("level %d: [bold] %s", 3, "x" * 200)
    logger.debug("a detail")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"level 3: [bold] {'x' * 200}\n"


@pytest.mark.usefixtures("restored_logger")
def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(SimpleNamespace(rank=1), logging.DEBUG)  # type: ignore[arg-type]
    logger.error("nobody hears this")
    assert capsys.readouterr() == ("", "")


# --- progress -------------------------------------------------------------------------------


def test_gap_fraction_is_logarithmic() -> None:
    assert gap_fraction(1e-1, 1e-1, 1e-3) == 0.0
    assert gap_fraction(1e-2, 1e-1, 1e-3) == pytest.approx(0.5, abs=1e-15)
    assert gap_fraction(1e-3, 1e-1, 1e-3) == 1.0
    assert gap_fraction(1e-9, 1e-1, 1e-3) == 1.0
    assert gap_fraction(0.0, 1e-1, 1e-3) == 1.0
    assert gap_fraction(3.0, 1e-1, 1e-3) == 0.0
    assert gap_fraction(math.inf, 1e-1, 1e-3) == 0.0
    assert gap_fraction(math.nan, 1e-1, 1e-3) == 0.0
    assert gap_fraction(1e-3, 1e-3, 1e-3) == 1.0  # starts where it should end


def test_progress_text() -> None:
    text = progress_text(event(2.1e-2), 1e-3)
    assert text == "level 2, 16,384 cells, 0.47 <= cost <= 0.48, gap 2.1e-02 -> 1.0e-03"
    unknown = event(math.nan, lower=math.nan, upper=math.inf)
    assert "? <= cost <= ?, gap ? -> 1.0e-03" in progress_text(unknown, 1e-3)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_progress_bar_on_a_terminal() -> None:
    console = terminal()
    with progress_bar(SELF, 1e-3, console=console) as progress:
        progress(event(math.nan))
        progress(event(1e-1))
        progress(event(1e-2, stage="certify"))
        task = progress._progress.tasks[0]  # type: ignore[attr-defined]
        assert task.completed == pytest.approx(0.5, abs=1e-12)
        progress(event(5e-2))  # a finer mesh starts worse: the bar stays
        assert task.completed == pytest.approx(0.5, abs=1e-12)
        progress(event(1e-4))
        assert task.completed == 1.0
    assert "16,384 cells" in shown(console)


def test_progress_bar_is_closed_after_an_error() -> None:
    console = terminal()
    with pytest.raises(InputError), progress_bar(SELF, 1e-3, console=console) as progress:
        progress(event(1e-1))
        raise InputError("wrong")
    text = shown(console)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor comes back


def test_no_progress_bar_in_a_pipe_on_other_ranks_or_when_disabled() -> None:
    pipe = Console(file=io.StringIO(), force_terminal=False)
    with progress_bar(SELF, 1e-3, console=pipe) as progress:
        progress(event(1e-1))
    assert shown(pipe) == ""
    for comm, enabled in ((SimpleNamespace(rank=1), True), (SELF, False)):
        console = terminal()
        with progress_bar(comm, 1e-3, enabled=enabled, console=console) as progress:  # type: ignore[arg-type]
            progress(event(1e-1))
        assert shown(console) == ""


# --- time and memory ------------------------------------------------------------------------


def test_stopwatch_sums_and_survives_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 10.0, 14.0, 20.0, 20.5, 50.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    stopwatch = Stopwatch()
    with stopwatch("solve"):
        pass
    with stopwatch("solve"):
        pass
    with pytest.raises(InputError), stopwatch("write"):
        raise InputError("wrong")
    stopwatch.add("write", 2.0)
    assert stopwatch.seconds == {"solve": 6.0, "write": 2.5}
    assert stopwatch.total == 50.0


def test_peak_memory_is_that_of_the_process() -> None:
    megabyte = 2**20
    block = bytearray(b"x") * (300 * megabyte)
    peak = peak_memory_bytes(SELF)
    assert 300 * megabyte < peak < 100_000 * megabyte
    assert len(block) == 300 * megabyte


# --- signals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGUSR1, signal.SIGTERM),
        (signal.SIGUSR2, signal.SIGINT),
    ],
)
def test_first_signal_is_remembered(number: signal.Signals, meaning: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopRequest()
    with stop.install() as same:
        assert same is stop
        assert stop.requested(SELF) == 0
        os.kill(os.getpid(), number)
        assert stop.signal == meaning
        assert stop.requested(SELF) == meaning
    assert signal.getsignal(number) == before
    assert stop.signal == meaning


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_kills(number: signal.Signals) -> None:
    script = f"""
    import os
    from congested.parallel import StopRequest
    with StopRequest().install():
        os.kill(os.getpid(), {int(number)})
        print("still here", flush=True)
        os.kill(os.getpid(), {int(number)})
        print("too long", flush=True)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (-number, "still here\n")


def test_petsc_leaves_the_handlers_alone() -> None:
    script = """
    import os, signal
    from congested.parallel import StopRequest
    stop = StopRequest()
    with stop.install():
        from petsc4py import PETSc
        os.kill(os.getpid(), signal.SIGTERM)
        print(stop.signal)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "15\n")


def test_signal_of_one_rank_is_known_to_all() -> None:
    run = on_ranks(
        3,
        """
        from mpi4py import MPI
        from congested.parallel import StopRequest
        comm, stop = MPI.COMM_WORLD, StopRequest()
        if comm.rank == 1:
            stop.signal = 15
        if comm.rank == 2:
            stop.signal = 2
        found = comm.gather(stop.requested(comm))
        if comm.rank == 0:
            print(found)
        """,
    )
    assert run.stdout == "[15, 15, 15]\n", run.stderr


# --- failure --------------------------------------------------------------------------------


def test_together_on_one_rank_is_the_action() -> None:
    assert together(SELF, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        together(SELF, lambda: 1 // 0)


def test_exit_status() -> None:
    assert parallel.exit_status(InputError("x")) == 2
    assert parallel.exit_status(InfeasibleProblem("x")) == 4
    assert parallel.exit_status(KeyboardInterrupt()) == 130
    assert parallel.exit_status(ValueError("x")) == 1


def test_together_shares_values_and_failures() -> None:
    """Failures of some ranks reach all, with type, text and key; successes return own values."""
    run = on_ranks(
        3,
        """
        from mpi4py import MPI
        from congested.errors import InputError
        from congested.parallel import together
        comm = MPI.COMM_WORLD
        def fail():
            if comm.rank == 1:
                raise InputError("found 3", key="source.kind", file="p.toml")
            if comm.rank == 2:
                raise ValueError("later")
        texts = []
        texts.append(str(together(comm, lambda: comm.rank)))
        for action in (fail, lambda: 1 // (comm.rank - 2)):
            try:
                together(comm, action)
            except Exception as error:
                texts.append(f"{type(error).__name__} {getattr(error, 'key', '')} " +
                             str(error).splitlines()[0])
        texts = comm.gather(texts)
        if comm.rank == 0:
            for text in texts:
                print(" | ".join(text))
        """,
    )
    input_error = "InputError source.kind p.toml: source.kind: found 3"
    other = "RuntimeError  ZeroDivisionError: integer division or modulo by zero"
    assert run.stdout.splitlines() == [f"{rank} | {input_error} | {other}" for rank in range(3)], (
        run.stderr
    )


def test_together_aborts_ranks_that_wait_for_a_failed_one() -> None:
    """The last resort: others are in a collective that the failed rank never reaches."""
    started = time.monotonic()
    run = on_ranks(
        2,
        """
        from mpi4py import MPI
        from congested.errors import InputError
        from congested.parallel import together
        comm = MPI.COMM_WORLD
        def action():
            if comm.rank == 1:
                raise InputError("only here")
            comm.barrier()
        together(comm, action, patience=0.5)
        """,
    )
    assert run.returncode == 2
    assert "error: only here (on rank 1 alone: all ranks are aborted)" in run.stderr
    assert time.monotonic() - started < 50.0
