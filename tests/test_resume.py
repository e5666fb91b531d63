"""Runs that are stopped and go on: the same numbers as without a stop, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box
from congested.errors import InputError
from congested.io.files import atomic_file
from congested.level_checkpoint import Checkpoint, RunState, restored_level
from congested.level_solution import Level
from congested.measures.density import DensityMeasure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.nested_iteration import solve
from congested.parallel import StopRequest, Stopwatch
from congested.problem import OutputOptions, Problem
from congested.problem_file import read_problem
from congested.resume import resume
from congested.solution import ProgressEvent, Solution, Status
from congested.solvers.iteration import Trust
from congested.weights.kinds import ConstantWeight

SERIAL = MPI.COMM_SELF


def gaussian(mean: tuple[float, ...], std: float) -> GaussianMixture:
    return GaussianMixture.from_stds(np.array([mean]), np.array([std]))


def two_gaussians(**changes: Any) -> Problem:
    problem = Problem(
        domain=Box((0.0, 0.0), (1.0, 1.0), cells=6),
        source=gaussian((0.35, 0.4), 0.1),
        target=gaussian((0.65, 0.6), 0.1),
        output=OutputOptions(overview=False),
    )
    return dataclasses.replace(problem, **changes)


def stop_at(level: int, space: str = "p1") -> dict[str, Any]:
    """Return arguments that stop a run in its first step on a mesh."""
    stop = StopRequest()

    def progress(event: ProgressEvent) -> None:
        if event.level == level and event.stage == space:
            stop.signal = signal.SIGTERM

    return {"stop": stop, "progress": progress}


def numbers(solution: Solution) -> dict[str, Any]:
    """Everything in the result that does not depend on time."""
    result = solution.result()
    for name in ("seconds", "peak_memory_bytes"):
        del result[name]
    rows = [{**row, "seconds": 0.0} for row in solution.history]
    return {**result, "history": repr(rows)}  # as text: NaN is equal to nothing


class Killed(Exception):
    """Ends a run without a chance to write anything."""


def kill_at(level: int) -> Callable[[ProgressEvent], None]:
    def progress(event: ProgressEvent) -> None:
        if event.level == level:
            raise Killed

    return progress


@pytest.mark.parametrize(
    "arguments",
    [
        {"relative_gap": 2e-3},
        {"relative_gap": 1e-3, "refine": "adaptive"},
        {"relative_gap": 5e-3, "scope": "continuum"},
        {"relative_gap": 5e-3, "lower_bound": "p2"},
        {"relative_gap": 1e-2, "method": "augmented-lagrangian"},
        # Begins in P2, whose iterate has several points in each cell.
        {"relative_gap": 1e-2, "strength": math.inf},
        # What starts were worth decides on the next mesh.
        {"relative_gap": 1e-2, "strength": 1e3},
        # Ends at the limit, with a last mesh that knows it is the last.
        {"relative_gap": 1e-9, "max_cells": 2500},
    ],
)
def test_a_stop_changes_no_number(arguments: dict[str, Any], tmp_path: Path) -> None:
    arguments = dict(arguments)
    problem = two_gaussians(strength=arguments.pop("strength", 10.0))
    undisturbed = solve(problem, comm=SERIAL, **arguments)
    assert undisturbed.levels >= 2
    for level in range(1, undisturbed.levels):
        with pytest.raises(Killed):
            solve(
                problem,
                comm=SERIAL,
                checkpoint=tmp_path,
                progress=kill_at(level),
                **arguments,
            )
        resumed = resume(tmp_path, comm=SERIAL)
        assert numbers(resumed) == numbers(undisturbed)
        np.testing.assert_array_equal(resumed.fields.flux, undisturbed.fields.flux)
        np.testing.assert_array_equal(resumed.mesh.geometry.x, undisturbed.mesh.geometry.x)


def test_everything_that_is_known_of_a_mesh_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what few problems have: starts that were worth little, refinements that did not help."""
    levels: list[Level] = []

    def keep(self: Checkpoint, level: Level, run: RunState) -> None:
        result = dataclasses.replace(
            level.result,
            trust={"p1": Trust.NONE, "crouzeix-raviart": Trust.ROUGH},
            unfinished=("p2",),
            gains={"crouzeix-raviart": 1.5, "p2": 1.25},
            failure="no luck",
            iterate=dataclasses.replace(level.result.iterate, smoothing=1e-3, penalty=2.0),
        )
        changes = {"load_change": 0.2, "hidden_cost": 0.3, "fruitless": 1, "unevenness": 0.4}
        levels.append(dataclasses.replace(level, result=result, **changes))
        self._write(levels[-1], run)

    monkeypatch.setattr(Checkpoint, "keep", keep)
    solve(two_gaussians(), comm=SERIAL, relative_gap=0.1, refine="adaptive", checkpoint=tmp_path)
    (level,) = levels
    kept = Checkpoint(tmp_path, resuming=True).begin(two_gaussians(), SERIAL)
    assert kept is not None
    again = restored_level(kept, two_gaussians(), Stopwatch())
    for name in ("load_change", "hidden_cost", "fruitless", "unevenness"):
        assert getattr(again, name) == getattr(level, name)
    np.testing.assert_array_equal(again.unresolved, level.unresolved)
    np.testing.assert_array_equal(again.weight.masses, level.weight.masses)
    for name in ("bounds", "totals", "lower_bound_from", "dofs"):
        assert getattr(again.result, name) == getattr(level.result, name)
    for name in ("trust", "unfinished", "gains", "first_gap", "failure"):
        assert getattr(again.result, name) == getattr(level.result, name)
    for name, value in vars(level.result.iterate).items():
        np.testing.assert_array_equal(getattr(again.result.iterate, name), value)
    for name, value in vars(level.result.fields).items():
        np.testing.assert_array_equal(getattr(again.result.fields, name), value)


def test_in_space_after_two_stops(tmp_path: Path) -> None:
    problem = two_gaussians(
        domain=Box((0.0,) * 3, (1.0,) * 3, cells=1),
        source=gaussian((0.35,) * 3, 0.12),
        target=gaussian((0.6,) * 3, 0.12),
        weight=ConstantWeight(),
    )
    arguments = {"relative_gap": 5e-2, "max_cells": 400, "lower_bound": "p1"}
    undisturbed = solve(problem, comm=SERIAL, **arguments)
    assert undisturbed.levels > 2
    first = solve(problem, comm=SERIAL, checkpoint=tmp_path, **stop_at(1), **arguments)
    assert (first.status, first.levels) == (Status.STOPPED, 1)
    second = resume(tmp_path, comm=SERIAL, **stop_at(2))
    assert (second.status, second.levels) == (Status.STOPPED, 2)
    assert numbers(resume(tmp_path, comm=SERIAL)) == numbers(undisturbed)


def test_time_and_history_are_those_of_the_whole_run(tmp_path: Path) -> None:
    first = solve(
        two_gaussians(), relative_gap=2e-3, comm=SERIAL, checkpoint=tmp_path, **stop_at(2)
    )
    resumed = resume(tmp_path, comm=SERIAL)
    seconds = [row["seconds"] for row in resumed.history]
    assert seconds == sorted(seconds)
    before = sum(row["level"] < 2 for row in resumed.history)
    assert [row["seconds"] for row in first.history[:before]] == seconds[:before]
    assert resumed.seconds["total"] > resumed.history[before - 1]["seconds"]
    assert resumed.seconds["solve"] > 0.0
    assert 0.0 < resumed.seconds["checkpoint"] < resumed.seconds["total"]


def test_limits_of_time_are_for_one_sitting(tmp_path: Path) -> None:
    solve(two_gaussians(), relative_gap=2e-3, comm=SERIAL, checkpoint=tmp_path, **stop_at(1))
    with np.load(tmp_path / "checkpoint.npz") as stored:
        arrays = dict(stored)
    state = json.loads(arrays["state"].tobytes()) | {"total_seconds": 1e6}
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    resumed = resume(tmp_path, comm=SERIAL, max_seconds=1000.0)
    assert resumed.status is Status.CONVERGED
    assert resumed.history[-1]["seconds"] > 1e6
    assert 1e6 < resumed.seconds["total"] < 1e6 + 1000.0


def test_killed_before_the_first_mesh_was_finished(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"relative_gap": 5e-3, "comm": SERIAL}
    with pytest.raises(Killed):
        solve(two_gaussians(), checkpoint=tmp_path, progress=kill_at(0), **arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.json"]
    assert numbers(resume(tmp_path, comm=SERIAL)) == numbers(solve(two_gaussians(), **arguments))


def test_a_mesh_that_was_cut_short_is_solved_on_again(tmp_path: Path) -> None:
    # The second mesh is the last, and is solved on in better spaces than P1.
    arguments: dict[str, Any] = {"relative_gap": 1e-9, "max_cells": 600, "comm": SERIAL}
    undisturbed = solve(two_gaussians(), **arguments)
    # Its bounds may be better than those of the mesh before, and are then the result.
    stopped = solve(two_gaussians(), checkpoint=tmp_path, **stop_at(1, space="stream"), **arguments)
    assert "stopped by SIGTERM" in stopped.reason
    assert stopped.levels == undisturbed.levels == 2
    assert stopped.bounds.relative_gap > undisturbed.bounds.relative_gap
    assert numbers(resume(tmp_path, comm=SERIAL)) == numbers(undisturbed)


def test_killed_before_the_result_was_written(tmp_path: Path) -> None:
    undisturbed = solve(two_gaussians(), relative_gap=5e-3, comm=SERIAL, checkpoint=tmp_path)
    assert undisturbed.status is Status.CONVERGED

    def none(event: ProgressEvent) -> None:
        raise AssertionError("nothing is left to be solved")

    again = resume(tmp_path, comm=SERIAL, progress=none)
    assert numbers(again) == numbers(undisturbed)
    again.write(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert "result.json" in names
    assert not [name for name in names if "checkpoint" in name]
    with pytest.raises(InputError, match=r"the run has ended \(converged: "):
        resume(tmp_path, comm=SERIAL)


def test_a_stopped_result_keeps_its_checkpoint(tmp_path: Path) -> None:
    stopped = solve(
        two_gaussians(), relative_gap=2e-3, comm=SERIAL, checkpoint=tmp_path, **stop_at(1)
    )
    stopped.write(tmp_path)
    # Another goal than was asked for, and lasting: a second stop does not bring back the first.
    further = resume(tmp_path, comm=SERIAL, relative_gap=1e-9, max_cells=2500, **stop_at(2))
    assert (further.status, further.levels) == (Status.STOPPED, 2)
    last = resume(tmp_path, comm=SERIAL)
    assert last.problem.solver.relative_gap == 1e-9
    expected = solve(two_gaussians(), relative_gap=1e-9, max_cells=2500, comm=SERIAL)
    assert last.levels == expected.levels == 3
    # The first two meshes were solved on for a larger gap.
    assert last.bounds.lower == pytest.approx(expected.bounds.lower, rel=1e-6)
    assert last.bounds.upper == pytest.approx(expected.bounds.upper, rel=1e-6)
    assert "max_cells (now 2500)" in last.reason


def test_a_new_run_removes_what_an_older_one_left(tmp_path: Path) -> None:
    solve(two_gaussians(), relative_gap=2e-3, comm=SERIAL, checkpoint=tmp_path, **stop_at(2)).write(
        tmp_path
    )
    other = two_gaussians(strength=3.0)
    with pytest.raises(Killed):
        solve(other, comm=SERIAL, checkpoint=tmp_path, progress=kill_at(0))
    assert not (tmp_path / "checkpoint.npz").exists()
    assert not (tmp_path / "result.json").exists()
    assert resume(tmp_path, comm=SERIAL, max_cells=1).problem.strength == 3.0


def test_leftover_of_a_killed_process_does_no_harm(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"relative_gap": 2e-3, "comm": SERIAL}
    solve(two_gaussians(), checkpoint=tmp_path, **stop_at(1), **arguments)
    for name in (".checkpoint.npz.partial", ".checkpoint.json.partial"):
        (tmp_path / name).write_bytes(b"half a file")
    resumed = resume(tmp_path, comm=SERIAL)
    assert numbers(resumed) == numbers(solve(two_gaussians(), **arguments))
    resumed.write(tmp_path)
    assert not list(tmp_path.glob("*checkpoint*")) + list(tmp_path.glob(".*checkpoint*"))


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    levels = []

    def full(path: Path) -> Any:
        levels.append(path)
        if len(levels) == 2:
            raise OSError(28, "No space left on device", str(path))
        return atomic_file(path)

    monkeypatch.setattr("congested.io.arrays.atomic_file", full)
    arguments: dict[str, Any] = {"relative_gap": 2e-3, "comm": SERIAL}
    with caplog.at_level(logging.WARNING, "congested"):
        solve(two_gaussians(), checkpoint=tmp_path, **stop_at(2), **arguments)
    assert [record.getMessage() for record in caplog.records] == [
        f"no checkpoint after level 1: {tmp_path / 'checkpoint.npz'}: "
        "cannot write: No space left on device"
    ]
    # The level before is still there.
    resumed = resume(tmp_path, comm=SERIAL)
    assert len(levels) == 4
    assert numbers(resumed) == numbers(solve(two_gaussians(), **arguments))


def ramp(points: np.ndarray) -> np.ndarray:
    return 0.5 + points[:, 0]


def test_a_problem_made_in_python_is_given_again(tmp_path: Path) -> None:
    problem = two_gaussians(
        source=DensityMeasure(ramp, np.zeros(2), np.ones(2)),
        target=gaussian((0.5, 0.5), 0.1),
        weight=ConstantWeight(),
    )
    arguments: dict[str, Any] = {"relative_gap": 3e-2, "comm": SERIAL, "max_cells": 3000}
    undisturbed = solve(problem, **arguments)
    assert undisturbed.levels == 2
    solve(problem, checkpoint=tmp_path, **stop_at(1), **arguments)
    with pytest.raises(InputError, match=r"checkpoint\.json: source\.kind: found "):
        resume(tmp_path, comm=SERIAL)
    resumed = resume(tmp_path, problem=problem, **arguments)
    assert resumed.bounds == undisturbed.bounds


PROBLEM = """
[domain]
kind = "box"
lower = [0, 0]
upper = [1, 1]
cells = 4
[source]
kind = "points"
file = "points.npy"
[target]
kind = "gaussian-mixture"
means = [[0.6, 0.6]]
stds = 0.1
[weight]
kind = "constant"
[solver]
relative_gap = 1e-3
max_cells = 300
"""


@pytest.mark.parametrize(
    "change", ["moved", "moved far", "other weight", "other dimension", "removed"]
)
def test_changed_data_are_refused(change: str, tmp_path: Path) -> None:
    (tmp_path / "problem.toml").write_text(PROBLEM, encoding="utf-8")
    np.save(tmp_path / "points.npy", np.array([[0.3, 0.3], [0.4, 0.3]]))
    out = tmp_path / "out"
    problem = read_problem(tmp_path / "problem.toml")
    assert solve(problem, comm=SERIAL, checkpoint=out).levels == 2
    assert resume(out, comm=SERIAL).levels == 2
    given: Problem | None = None
    if change == "moved":  # by so little that each point stays in its cell's neighbour
        np.save(tmp_path / "points.npy", np.array([[0.3, 0.3], [0.4, 0.36]]))
    if change == "moved far":
        np.save(tmp_path / "points.npy", np.array([[0.3, 0.3], [0.9, 0.9]]))
    if change == "other weight":
        given = dataclasses.replace(problem, strength=10.1)
    if change == "other dimension":
        given = two_gaussians(
            domain=Box((0.0,) * 3, (1.0,) * 3, cells=2),
            source=gaussian((0.4,) * 3, 0.1),
            target=gaussian((0.5,) * 3, 0.1),
        )
    if change == "removed":
        (tmp_path / "points.npy").unlink()
    with pytest.raises(InputError) as caught:
        resume(out, problem=given, comm=SERIAL)
    expected = {
        "other dimension": "found dimension 3; allowed: 2",
        "removed": f"no such file: {tmp_path / 'points.npy'}; allowed: an existing file",
    }
    text = expected.get(change, "not a checkpoint of the problem with its data as they are now")
    assert text in str(caught.value)
    # Nothing is lost: with the right data it goes on.
    np.save(tmp_path / "points.npy", np.array([[0.3, 0.3], [0.4, 0.3]]))
    assert resume(out, problem=problem, comm=SERIAL).levels == 2


def test_bounds_do_not_rest_on_the_file(tmp_path: Path) -> None:
    """A flux that is not quite conservative is corrected; bounds that change are refused."""
    arguments: dict[str, Any] = {"relative_gap": 0.1, "comm": SERIAL, "checkpoint": tmp_path}
    solution = solve(two_gaussians(), **arguments)
    with np.load(tmp_path / "checkpoint.npz") as stored:
        arrays = dict(stored)
    off = arrays["flux"].copy()
    off[70, 1] += 1e-8
    np.savez(tmp_path / "checkpoint.npz", **arrays | {"flux": off})
    corrected = resume(tmp_path, comm=SERIAL)
    assert corrected.conservation["max_divergence_residual"] < 1e-15
    assert corrected.bounds.upper == pytest.approx(solution.bounds.upper, rel=1e-6)
    spoiled = {
        "flux": (0.5 * arrays["flux"], np.full_like(off, math.nan)),
        "potential": (0.5 * arrays["potential"], np.full_like(off, math.nan)),
    }
    for name, cases in spoiled.items():
        for array in cases:
            np.savez(tmp_path / "checkpoint.npz", **arrays | {name: array})
            with pytest.raises(InputError, match="not a checkpoint of the problem"):
                resume(tmp_path, comm=SERIAL)


def test_there_is_no_checkpoint_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    solve(two_gaussians(), relative_gap=0.1, comm=SERIAL)
    assert list(tmp_path.iterdir()) == []
    for directory in (tmp_path, tmp_path / "not there"):
        with pytest.raises(InputError, match=f"{directory}: found no checkpoint; allowed: "):
            resume(directory, comm=SERIAL)
