"""The solution that critics are held against: from memory, from files, and from damaged ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import congested as ct
from congested.certificate import cell_integrals
from congested.errors import InputError
from tests.critics.references import reference, solution

KINDS = ("plane", "p2", "w1", "w1, p2", "closed", "cube, p2")


@pytest.mark.parametrize("name", KINDS)
def test_bounds_and_fields_are_those_of_the_solution(name: str) -> None:
    found, fields = reference(name), solution(name).fields
    bounds = solution(name).bounds
    assert (found.bounds.lower, found.bounds.upper) == pytest.approx(
        (bounds.lower, bounds.upper), rel=1e-13
    )
    assert found.bounds.data_error == bounds.data_error
    assert found.dimension == solution(name).mesh.topology.dim
    assert found.volume.sum() == pytest.approx(1.0, rel=1e-13)
    np.testing.assert_allclose(found.momentum.mean(axis=1), fields.momentum, atol=1e-12)
    np.testing.assert_allclose(found.gradient.mean(axis=1), fields.gradient, atol=1e-12)
    assert (found.potential_edges is None) == (fields.potential_edges is None)
    assert found.strength == (math.inf if name.startswith("w1") else 10.0)
    assert np.isinf(found.capacity).all() == name.startswith("w1")


def test_bounds_of_continuum_results_are_computed_for_the_cells() -> None:
    found, stated = reference("continuum"), solution("continuum").bounds
    assert (found.bounds.scope, stated.scope) == ("cell-data", "continuum")
    assert found.bounds.upper < stated.upper
    integrals = cell_integrals(
        found.simplices, found.potential, found.flux, found.source, found.target, found.weight, 10.0
    )
    assert found.bounds.upper == pytest.approx(integrals.transport_cost.sum(), rel=1e-13)
    # The error of these cells' data is not that of the result.
    assert (found.bounds.data_error, stated.data_error) == (None, 0.0)


@pytest.mark.parametrize("name", KINDS)
def test_files_hold_the_same(name: str, tmp_path: Path) -> None:
    solution(name).write(tmp_path)
    read, found = ct.reference_from_directory(tmp_path), reference(name)
    for part in ("simplices", "source", "target", "weight", "flux", "potential", "gradient"):
        np.testing.assert_array_equal(getattr(read, part), getattr(found, part))
    assert read.bounds == found.bounds
    assert read.strength == found.strength


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("result")
    solution("p2").write(path)
    return path


def change_result(path: Path, **changes: Any) -> None:
    file = path / "result.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def test_results_that_are_none(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"result.json: no result here; allowed: a directory"):
        ct.reference_from_directory(tmp_path)
    path = tmp_path / "copy"
    shutil.copytree(directory, path)
    bounds = json.loads((path / "result.json").read_text())["bounds"]
    change_result(path, bounds=bounds | {"lower": bounds["lower"] * 1.0001})
    with pytest.raises(InputError, match=r"as the lower bound that solution.npz gives.*one run"):
        ct.reference_from_directory(path)
    change_result(path, status="infeasible")
    with pytest.raises(InputError, match=r"copy: found an infeasible problem.*allowed: a solution"):
        ct.reference_from_directory(path)
    (path / "result.json").write_text("{")
    with pytest.raises(InputError, match="not a readable result"):
        ct.reference_from_directory(path)
    change = json.loads((directory / "result.json").read_text())
    for key, text in (
        ("bounds", r"result.json: bounds\.lower: found None; allowed: a number"),
        ("problem", r"result.json: problem\.penalty\.strength: found None"),
        ("values", r"result.json: values\.critic_loss: found None"),
    ):
        part = {name: value for name, value in change.items() if name != key}
        (path / "result.json").write_text(json.dumps(part))
        with pytest.raises(InputError, match=text):
            ct.reference_from_directory(path)


def test_solutions_that_are_damaged(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(directory, path)
    file = path / "solution.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"solution.npz: not a readable"):
        ct.reference_from_directory(path)
    file.unlink()
    with pytest.raises(InputError, match=r"solution.npz: no such file"):
        ct.reference_from_directory(path)
    with np.load(directory / "solution.npz") as stored:
        arrays = dict(stored)
    for name, wrong, text in (
        ("edges", arrays["edges"][:, ::-1], "array edges lacks an edge of a cell"),
        ("edges", arrays["edges"] + 1, "found vertices 1 to 85 in edges; allowed: 0 to 84"),
        ("cells", arrays["cells"] - 1, "found vertices -1 to 83 in cells; allowed: 0 to 84"),
        ("potential", arrays["potential"] * np.nan, "lower bound"),
    ):
        np.savez(file, **(arrays | {name: wrong}))
        with pytest.raises(InputError, match=text):
            ct.reference_from_directory(path)
    # The edges may come in any order.
    order = np.random.default_rng(0).permutation(len(arrays["edges"]))
    changed = {name: arrays[name][order] for name in ("edges", "potential_edges")}
    np.savez(file, **(arrays | changed))
    read = ct.reference_from_directory(path)
    assert read.bounds.lower == pytest.approx(reference("p2").bounds.lower, rel=1e-13)
    assert math.isfinite(read.bounds.upper)
