"""The files of a checkpoint: what goes in comes out, and what is no checkpoint is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import refine_uniformly
from congested.errors import InputError
from congested.geometry import cells_of_mesh
from congested.io.checkpoint import (
    LEVEL,
    RUN,
    LevelState,
    RunRecord,
    discard_checkpoint,
    distribute_level,
    gather_level,
    load_level,
    read_run,
    save_level,
    write_run,
)
from congested.io.files import partial_name
from congested.io.result import json_text
from congested.solvers.iteration import Trust

SERIAL = MPI.COMM_SELF
STATE = LevelState(
    ranks=1,
    levels=2,
    history=[
        {"level": 0, "space": "p1", "lower": math.nan, "discrete_cost": 0.1 + 0.2},
        {"level": 1, "space": "cr", "lower": 1 / 3, "discrete_cost": math.inf},
    ],
    seconds={"solve": 0.7},
    total_seconds=1.25,
    linear={"iterations": 5, "solves": 2, "direct_solves": 0},
    lower=1 / 3,
    upper=math.inf,
    load_change=None,
    hidden_cost=0.0,
    fruitless=1,
    unevenness=0.25,
    lower_bound_from="p2",
    dofs={"potential": 9, "flux": 30},
    gains={"cr": 1.5},
    first_gap=0.02,
    trust={"cr": Trust.ROUGH},
    unfinished=[],
    failure=None,
    smoothing=1e-5,
    penalty=None,
)


@pytest.fixture(params=[2, 3])
def level(request: pytest.FixtureRequest, make_sample: Callable[..., Any]) -> tuple[Any, Any]:
    """A mesh that DOLFINx has numbered anew twice, and values that tell where they belong."""
    mesh, _ = refine_uniformly(make_sample(request.param).mesh)
    corners = cells_of_mesh(mesh).simplices
    return mesh, {
        "potential": corners.sum(axis=2),
        "potential_edges": corners.sum(axis=2)
        @ np.ones((request.param + 1, 3 * request.param - 3)),
        "flux": corners[..., 0],
        "iterate_flux": corners[:, :1],
        "iterate_gradient": corners[:, 1:2],
        "unresolved": corners[:, 0, 1],
    }


@pytest.fixture
def saved(level: tuple[Any, Any], tmp_path: Path) -> Path:
    """A directory with a whole checkpoint."""
    write_run(tmp_path, RunRecord('title = "π"\n', "/place/problem.toml"))
    save_level(tmp_path, gather_level(*level), STATE)
    return tmp_path


def changed(directory: Path, **changes: Any) -> None:
    """Write the level again with other arrays; None: without one."""
    with np.load(directory / LEVEL) as stored:
        arrays = dict(stored) | changes
    np.savez(directory / LEVEL, **{name: a for name, a in arrays.items() if a is not None})


def state_bytes(**changes: Any) -> np.ndarray:
    content = {"format": "congested checkpoint", "version": 1, **STATE.model_dump()} | changes
    content = {name: value for name, value in content.items() if value is not ...}
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def test_a_level_comes_back_with_every_number_in_its_place(level: Any, saved: Path) -> None:
    mesh, values = level
    again, restored, state = distribute_level(SERIAL, load_level(saved))
    # Not only the same cells: the same numbers of cells, vertices and corners.
    np.testing.assert_array_equal(again.geometry.x, mesh.geometry.x)
    np.testing.assert_array_equal(again.geometry.dofmap, mesh.geometry.dofmap)
    assert restored.keys() == values.keys()
    for name in values:
        np.testing.assert_array_equal(restored[name], values[name])
    # NaN is equal to nothing, so as text.
    assert repr(state) == repr(STATE)
    assert read_run(saved) == RunRecord('title = "π"\n', "/place/problem.toml")


def test_another_number_of_ranks_gets_the_same_cells(level: Any, saved: Path) -> None:
    # Written by two ranks: now one has all, numbered as DOLFINx likes.
    stored = load_level(saved)
    changed(
        saved,
        owner=np.arange(len(stored.cells)) % 2,
        state=state_bytes(ranks=2),
    )
    mesh, values, _ = distribute_level(SERIAL, load_level(saved))
    corners = cells_of_mesh(mesh).simplices
    np.testing.assert_array_equal(values["flux"], corners[..., 0])
    np.testing.assert_array_equal(values["iterate_flux"], corners[:, :1])
    assert len(corners) == len(level[1]["flux"])


def test_without_a_finished_mesh_there_is_no_level(tmp_path: Path) -> None:
    write_run(tmp_path, RunRecord("title = 1"))
    assert load_level(tmp_path) is None
    assert read_run(tmp_path).file is None


def test_what_a_killed_process_left_is_no_checkpoint(saved: Path) -> None:
    for name in (RUN, LEVEL):
        (saved / name).rename(partial_name(saved / name))
    assert load_level(saved) is None
    with pytest.raises(InputError, match="found no checkpoint"):
        read_run(saved)
    discard_checkpoint(saved)
    assert list(saved.iterdir()) == []


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_level_is_refused(saved: Path, part: float) -> None:
    file = saved / LEVEL
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=r"checkpoint\.npz: not a readable checkpoint"):
        load_level(saved)


def test_flipped_byte_is_noticed(saved: Path) -> None:
    file = saved / LEVEL
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_level(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": state_bytes(version=2)}, "version: found 2; allowed: 1"),
        ({"state": state_bytes(version=...)}, "version: found None; allowed: 1"),
        ({"state": state_bytes(format="other")}, "format: found 'other'; allowed: 'congested"),
        ({"state": state_bytes(lower="low")}, "lower: found something else: "),
        ({"state": state_bytes(levels=0)}, "levels: found something else: "),
        ({"state": state_bytes(dofs=...)}, "dofs: found something else: Field required"),
        ({"state": state_bytes(frob=1)}, "frob: found something else: Extra"),
        ({"state": np.frombuffer(b"{", np.uint8)}, "not a readable checkpoint: "),
        ({"state": np.frombuffer(b"[]", np.uint8)}, "found no state of a run"),
        ({"state": np.zeros(3)}, "found no state of a run; allowed: a checkpoint"),
        ({"state": None}, "found no state of a run; allowed: a checkpoint"),
        ({"flux": None}, "array missing: flux; found: "),
        ({"owner": None}, "array missing: owner; found: "),
        ({"frob": np.zeros(3)}, "array unknown: frob; found: "),
        ({"points": np.zeros(3)}, r"array points has shape \(3,\); allowed: \(V, 2\) or \(V, 3\)"),
        ({"flux": np.zeros((3, 3))}, r"array flux has shape \(3, 3\) of float64; allowed here: "),
        ({"unresolved": np.zeros(1, np.float32)}, "array unresolved has shape .* of float32"),
        # An array of objects is a pickle, which could run anything.
        ({"flux": np.array([print, None])}, "not a readable checkpoint: Object arrays cannot be"),
        ({"state": np.array({"version": 1})}, "not a readable checkpoint: Object arrays cannot"),
    ],
)
def test_wrong_level_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    changed(saved, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_level(saved)
    assert str(caught.value).startswith(f"{saved / LEVEL}: ")


@pytest.mark.parametrize(("name", "value"), [("cells", -1), ("cells", 10**6), ("owner", 1)])
def test_numbers_out_of_range_are_refused(saved: Path, name: str, value: int) -> None:
    # A cell of a rank that there was not would be nobody's, and be lost without a word.
    array = getattr(load_level(saved), name).copy()
    array.flat[5] = value
    changed(saved, **{name: array})
    with pytest.raises(InputError, match=f"array {name} has numbers outside 0 to "):
        load_level(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable checkpoint: "),
        ("[]", "found a list; allowed: a table"),
        (json_text({"schema": 1}), "format: found None; allowed: 'congested checkpoint'"),
        (
            json_text({"format": "congested checkpoint", "version": 2, "problem": ""}),
            "version: found 2; allowed: 1",
        ),
        (
            json_text({"format": "congested checkpoint", "version": 1, "problem": 3}),
            "problem: found no text of a problem file",
        ),
    ],
)
def test_wrong_run_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / RUN).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_run(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / RUN}: ")


@pytest.mark.parametrize("status", ["converged", "infeasible"])
def test_a_run_that_has_ended_is_not_gone_on_with(saved: Path, status: str) -> None:
    """Killed after its result was complete, before the checkpoint was removed: it is now."""
    result = {"schema": 1, "status": status, "reason": "so it is"}
    (saved / "result.json").write_text(json_text(result), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(InputError, match=rf"the run has ended \({status}: so it is\)"):
            read_run(saved)
        assert [file.name for file in saved.iterdir()] == ["result.json"]


def test_a_run_that_was_stopped_is_gone_on_with(saved: Path) -> None:
    result = json_text({"schema": 1, "status": "stopped", "reason": "no time"})
    (saved / "result.json").write_text(result, encoding="utf-8")
    assert read_run(saved).problem == 'title = "π"\n'
