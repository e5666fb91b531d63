"""The result directory: complete or without result.json, strict JSON, mistakes named."""

from __future__ import annotations

import csv
import enum
import errno
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.errors import CongestedError, InputError
from congested.io import result as result_module
from congested.io.arrays import ResultArrays, gather_arrays, load_arrays
from congested.io.result import plain, read_result, write_result

HISTORY = (
    {"iteration": 0, "lower": np.float64(0.1), "upper": math.inf},
    {"iteration": 1, "lower": 0.25, "upper": 0.5},
)
PROBLEM = 'title = "Zwei Gauß, λ"\r\n[domain]\n'


class Status(enum.Enum):
    CONVERGED = "converged"


def some_result(**changes: object) -> dict[str, Any]:
    return {
        "schema": 1,
        "title": "λ",
        "status": Status.CONVERGED,
        "bounds": {"lower": np.float64(0.5), "upper": math.inf, "gap": math.nan},
        "seconds": {"solve": 2.0, "total": 3.0},
        **changes,
    }


def draw_dot(arrays: ResultArrays, result: Mapping[str, Any], path: Path) -> None:
    path.write_text(f"{len(arrays.cells)} cells of {result['title']}")


def write(sample: Any, directory: Path, **changes: Any) -> Path:
    options = {
        "result": some_result(),
        "arrays": gather_arrays(sample.mesh, sample.fields, sample.cells.volume),
        "mesh": sample.mesh,
        "fields": sample.fields,
        "history": HISTORY,
        "problem_text": PROBLEM,
        "draw": draw_dot,
        **changes,
    }
    return write_result(directory, **options)


def refuse_constants(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def test_everything_is_there(make_sample: Callable[..., Any], tmp_path: Path) -> None:
    directory = write(make_sample(2), tmp_path / "results" / "two")
    assert {path.name for path in directory.iterdir()} == {
        "result.json",
        "problem.toml",
        "history.csv",
        "overview.png",
        "solution.npz",
        "solution.pvd",
        "solution.vtu",
    }
    assert (directory / "problem.toml").read_bytes() == PROBLEM.encode()
    assert (directory / "overview.png").read_text() == "36 cells of λ"
    assert len(load_arrays(directory / "solution.npz").cells) == 36
    with (directory / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"iteration": "0", "lower": "0.1", "upper": "inf"},
        {"iteration": "1", "lower": "0.25", "upper": "0.5"},
    ]
    text = (directory / "result.json").read_text(encoding="utf-8")
    result = json.loads(text, parse_constant=refuse_constants)
    assert result["bounds"] == {"lower": 0.5, "upper": "inf", "gap": None}
    assert result["status"] == "converged"
    assert 0.0 < result["seconds"]["write"] < 60.0
    assert result["seconds"]["total"] == pytest.approx(3.0 + result["seconds"]["write"])
    assert read_result(directory) == result


def test_a_second_run_replaces_the_first(make_sample: Callable[..., Any], tmp_path: Path) -> None:
    write(make_sample(2, 3), tmp_path)
    for name in (".result.json.partial", ".solution.npz.partial"):
        (tmp_path / name).write_text("killed while writing")
    (tmp_path / "notes.txt").write_text("mine")
    write(make_sample(2, 2), tmp_path, draw=None, history=(), problem_text=None)
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt",
        "problem.toml",  # perhaps what the user started from: never removed
        "result.json",
        "solution.npz",
        "solution.pvd",
        "solution.vtu",
    }
    assert len(load_arrays(tmp_path / "solution.npz").cells) == 16


def test_infeasible_leaves_nothing_of_an_earlier_solution(
    make_sample: Callable[..., Any], tmp_path: Path
) -> None:
    write(make_sample(2), tmp_path)
    write_result(
        tmp_path,
        result=some_result(status="infeasible", bounds=None),
        arrays=None,
        mesh=None,
        fields=None,
        comm=MPI.COMM_SELF,
        draw=draw_dot,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"problem.toml", "result.json"}
    assert read_result(tmp_path)["bounds"] is None


@pytest.mark.parametrize("step", ["save_arrays", "write_vtu", "write_fields", "_history_text"])
def test_no_result_after_a_failure_in_the_middle(
    make_sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write(make_sample(2), tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "disk")

    monkeypatch.setattr(result_module, step, full)
    with pytest.raises((CongestedError, OSError), match="No space left on device"):
        write(make_sample(2), tmp_path)
    assert not (tmp_path / "result.json").exists()
    with pytest.raises(InputError, match=r"result\.json: no result here"):
        read_result(tmp_path)


def test_result_is_the_last_file(
    make_sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    write_text = result_module.write_text

    def spy(path: Path, text: str) -> None:
        if path.name == "result.json":
            seen.append({path.name for path in tmp_path.iterdir()})
        write_text(path, text)

    monkeypatch.setattr(result_module, "write_text", spy)
    write(make_sample(2), tmp_path)
    assert len(seen) == 1
    assert seen[0] == {path.name for path in tmp_path.iterdir()} - {"result.json"}


def test_a_failed_picture_costs_nothing_else(
    make_sample: Callable[..., Any], tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no OpenGL here")

    with pytest.raises(CongestedError, match=r"everything but overview\.png .*no OpenGL here"):
        write(make_sample(2), tmp_path, draw=broken)
    assert read_result(tmp_path)["title"] == "λ"
    assert (tmp_path / "solution.pvd").exists()


def test_an_impossible_directory_is_an_input_error(
    make_sample: Callable[..., Any], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for directory in (blocked, blocked / "below"):
        with pytest.raises(InputError, match=r"file.*: cannot write"):
            write(make_sample(2), directory)
    assert blocked.read_text() == "in the way"


def test_formats_are_checked_before_anything_is_removed(
    make_sample: Callable[..., Any], tmp_path: Path
) -> None:
    write(make_sample(2), tmp_path)
    with pytest.raises(InputError, match=r"output\.formats"):
        write(make_sample(2), tmp_path, formats=("vtk",))
    assert read_result(tmp_path)["title"] == "λ"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1', "not a readable result"),
        ("\xff\xfe", "schema|not a readable result"),
        ("[1]", "found a list; allowed: a table"),
        ('{"schema": 2}', "schema: found 2; allowed: 1"),
        ("{}", "schema: found None; allowed: 1"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "result.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=rf"result\.json: .*({message})"):
        read_result(tmp_path)


def test_plain_values() -> None:
    value = {
        "a": (np.int64(1), np.bool_(True), np.float32(0.5)),
        2: [-math.inf, math.inf, math.nan, None],
        "array": np.array([[1.0, math.nan]]),
        "path": Path("a/b"),
        "state": Status.CONVERGED,
    }
    assert plain(value) == {
        "a": [1, True, 0.5],
        "2": ["-inf", "inf", None, None],
        "array": [[1.0, None]],
        "path": "a/b",
        "state": "converged",
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)
    with pytest.raises(TypeError, match=r"result\.a\[1\]: a complex has no JSON form"):
        plain({"a": [1, 1j]})
