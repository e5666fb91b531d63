"""A run that was stopped goes on with the same or another number of ranks. Run with any number."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box
from congested.errors import InputError
from congested.io.arrays import scatter_rows
from congested.measures.gaussian_mixture import GaussianMixture
from congested.nested_iteration import solve
from congested.parallel import StopRequest
from congested.problem import OutputOptions, Problem
from congested.resume import resume
from congested.solution import ProgressEvent, Solution, Status

WORLD, SERIAL = MPI.COMM_WORLD, MPI.COMM_SELF


def gaussian(mean: float, std: float) -> GaussianMixture:
    return GaussianMixture.from_stds(np.full((1, 2), mean), np.array([std]))


def make_problem() -> Problem:
    box = Box((0.0, 0.0), (1.0, 1.0), cells=4)
    output = OutputOptions(overview=False)
    return Problem(box, gaussian(0.35, 0.1), gaussian(0.65, 0.1), output=output)


def stop_at(level: int) -> dict[str, Any]:
    """Return arguments that stop a run in its first step on a mesh: on the last rank alone."""
    stop = StopRequest()

    def progress(event: ProgressEvent) -> None:
        if event.level == level and WORLD.rank == WORLD.size - 1:
            stop.signal = signal.SIGTERM

    return {"stop": stop, "progress": progress}


def sizes(solution: Solution) -> tuple[int, int]:
    mesh = solution.result()["mesh"]
    return mesh["cells"], mesh["vertices"]


def same(one: Solution, other: Solution, tolerance: float, mesh_tolerance: float = 0.0) -> None:
    assert one.status is other.status is Status.CONVERGED
    assert one.levels == other.levels
    assert sizes(one) == pytest.approx(sizes(other), rel=mesh_tolerance)
    assert one.bounds.lower == pytest.approx(other.bounds.lower, rel=tolerance)
    assert one.bounds.upper == pytest.approx(other.bounds.upper, rel=tolerance)
    assert max(s.conservation["max_divergence_residual"] for s in (one, other)) < 1e-14


@pytest.mark.parametrize(("refine", "level"), [("uniform", 1), ("adaptive", 1)])
def test_the_same_ranks_go_on_as_if_nothing_had_been(
    refine: str, level: int, shared_path: Path
) -> None:
    options: dict[str, Any] = {"refine": refine, "relative_gap": 5e-3, "comm": WORLD}
    undisturbed = solve(make_problem(), **options)
    assert undisturbed.levels > level
    stopped = solve(make_problem(), checkpoint=shared_path, **stop_at(level), **options)
    assert (stopped.status, stopped.levels) == (Status.STOPPED, level)
    resumed = resume(shared_path, comm=WORLD)
    same(resumed, undisturbed, 1e-9)
    # Not by chance: it is the same mesh, number by number.
    np.testing.assert_array_equal(resumed.mesh.geometry.x, undisturbed.mesh.geometry.x)
    assert len(resumed.history) == len(undisturbed.history)
    assert resumed.reason == undisturbed.reason


@pytest.mark.parametrize(
    ("refine", "tolerances"),
    # Linear solves end at other places, and equal indicators differ by rounding.
    [("uniform", (1e-6, 0.0)), ("adaptive", (1e-3, 0.05))],
)
def test_another_number_of_ranks_goes_on(
    refine: str, tolerances: tuple[float, float], shared_path: Path
) -> None:
    options: dict[str, Any] = {"refine": refine, "relative_gap": 5e-3}
    together, alone = shared_path / "together", shared_path / f"alone{WORLD.rank}"
    undisturbed = solve(make_problem(), comm=SERIAL, **options)
    # All write, and each goes on alone.
    solve(make_problem(), comm=WORLD, checkpoint=together, **stop_at(1), **options)
    shutil.copytree(together, alone)
    WORLD.Barrier()
    same(resume(alone, comm=SERIAL), undisturbed, *tolerances)
    # The first writes, and all go on.
    one = shared_path / "one"
    if WORLD.rank == 0:
        event_stop = StopRequest()

        def progress(event: ProgressEvent) -> None:
            if event.level == 2:
                event_stop.signal = signal.SIGTERM

        solve(
            make_problem(),
            comm=SERIAL,
            checkpoint=one,
            stop=event_stop,
            progress=progress,
            **options,
        )
    WORLD.Barrier()
    resumed = resume(one, comm=WORLD)
    same(resumed, undisturbed, *tolerances)
    resumed.write(one)
    assert WORLD.allreduce(len(list(one.glob("*checkpoint*"))) if WORLD.rank == 0 else 0) == 0


@pytest.mark.parametrize("damage", ["nothing there", "no archive", "no run"])
def test_all_ranks_refuse_what_one_cannot_read(damage: str, shared_path: Path) -> None:
    if damage != "nothing there":
        solve(make_problem(), relative_gap=5e-3, comm=WORLD, checkpoint=shared_path, **stop_at(1))
    if WORLD.rank == 0 and damage == "no archive":
        (shared_path / "checkpoint.npz").write_bytes(b"PK")
    if WORLD.rank == 0 and damage == "no run":
        (shared_path / "checkpoint.json").write_text("{", encoding="utf-8")
    WORLD.Barrier()
    with pytest.raises(InputError) as caught:
        resume(shared_path, comm=WORLD)
    assert len({*WORLD.allgather(str(caught.value))}) == 1


def test_a_failed_write_is_no_deadlock(shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("congested.io.arrays.atomic_file", full)
    solution = solve(make_problem(), relative_gap=5e-3, comm=WORLD, checkpoint=shared_path)
    assert solution.status is Status.CONVERGED
    assert not (shared_path / "checkpoint.npz").exists()


def test_scatter_rows() -> None:
    """Each rank wants other rows, in its own order, some twice; the last rank wants none."""
    number = 10
    table = np.arange(6.0 * number).reshape(number, 3, 2)
    wanted = np.array([WORLD.rank, 9, 4, 4]) if WORLD.rank < WORLD.size - 1 else np.empty(0, int)
    for rows in (table, table[:, 0, 0].astype(np.int64)):
        own = scatter_rows(WORLD, rows if WORLD.rank == 0 else None, wanted)
        assert own.dtype == rows.dtype
        np.testing.assert_array_equal(own, rows[wanted])
