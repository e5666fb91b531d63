"""The peers of the benchmark solve the same problems, and say so where they are missing."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import congested as ct
from congested.solvers.newton import Newton
from tests.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmark")


@pytest.fixture(scope="module")
def freefem(script: ModuleType) -> ModuleType:
    return sys.modules["peer_freefem"]


@pytest.fixture(scope="module")
def wasserstein(script: ModuleType) -> ModuleType:
    return sys.modules["wasserstein"]


@pytest.fixture(scope="module")
def pot(script: ModuleType) -> ModuleType:
    return sys.modules["peer_pot"]


@pytest.fixture(scope="module")
def coarse(script: ModuleType) -> ct.Solution:
    """Return the two Gaussians on 16 × 16 crossed squares."""
    # Its lower bound is to be the optimum over P1, and not just as near as the mesh deserves.
    method = Newton(unsolved_share=0.0)
    solution: ct.Solution = script.nested_solve(16, 1e-9, method=method)[0]
    return solution


def published() -> ct.Problem:
    name = "ray_monotone_d2_n4"
    return dataclasses.replace(load_script("benchmark").load(name), strength=np.inf)


# --- FreeFem++ ------------------------------------------------------------------------------------


def test_freefem_is_not_needed(
    freefem: ModuleType, coarse: ct.Solution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = freefem.freefem_cost(coarse, freefem.TWO_GAUSSIANS)
    assert found == {"solver": "FreeFem++: not installed"}


def test_a_failing_freefem_says_so(
    freefem: ModuleType, coarse: ct.Solution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    found = freefem.freefem_cost(coarse, freefem.TWO_GAUSSIANS)
    assert found == {"solver": "FreeFem++: failed: no message"}


@pytest.mark.skipif(shutil.which("FreeFem++") is None, reason="FreeFem++ is not installed")
@pytest.mark.parametrize(("variant", "share"), [("textbook", 2e-4), ("weighted", 1e-5)])
def test_freefem_solves_the_same_problem(
    freefem: ModuleType, coarse: ct.Solution, variant: str, share: float
) -> None:
    # Its discrete problem is that of the lower bound, over the same P1 functions.
    wanted = coarse.bounds.lower
    found = freefem.freefem_cost(coarse, 1.0, variant, limit=600)
    assert found["iterations"] == 600
    assert found["cost"] < wanted * (1.0 + 1e-9)
    assert found["cost"] == pytest.approx(wanted, rel=share)
    assert found["flux_cost"] == pytest.approx(wanted, rel=share)
    assert found["vertex_violation"] < 1e-2
    assert found["process_seconds"] > 0.0
    # 1 is far from the cost: no tolerance was met.
    assert "seconds_0.001" not in found


def test_violations_of_a_known_flux(freefem: ModuleType, coarse: ct.Solution) -> None:
    cells, fields = freefem.cells_of_mesh(coarse.mesh), coarse.fields
    lever = cells.midpoint[:, None] - cells.simplices
    momentum = np.einsum("nid,ni->nd", lever, fields.flux) / (2.0 * cells.volume[:, None])
    # The means of a conservative flux balance every hat function, and the cells up to O(h).
    assert freefem.vertex_violation(coarse, -momentum) < 1e-12
    assert freefem.cell_violation(coarse, -momentum) < 0.1
    # No flux misses everything.
    assert freefem.cell_violation(coarse, 0.0 * momentum) == pytest.approx(1.0)


def test_section_beside_freefem(script: ModuleType, freefem: ModuleType) -> None:
    records = freefem.beside_freefem([16], Console(quiet=True), script.nested_solve, [5e-2])
    solvers = [record["solver"] for record in records]
    assert solvers[-2:] == ["Clarabel", "ours, adaptive, gap 0.05"]
    assert all(name.startswith("FreeFem++") for name in solvers[:-2])
    # All of them lie around the known value, as near as 16 squares allow.
    assert all(record["error"] < 2e-2 for record in records if "error" in record)
    assert records[-1]["cell_violation"] < 1e-12
    assert script.table_of("freefem", records).row_count == len(records)


# --- Wasserstein-1 --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_exact_distances_by_samples(number: int) -> None:
    # W₁ is the mean length of the rays of T, the optimal map.
    problem = load_script("benchmark").load(f"ray_monotone_d2_n{number}")
    pair = problem.source.pair
    assert len(pair.funnels.centers) == number
    points = pair.half_width * np.random.default_rng(number).uniform(-1.0, 1.0, (100_000, 2))
    lengths = np.linalg.norm(points - pair.transport(points), axis=1)
    standard_error = lengths.std() / np.sqrt(len(lengths))
    assert abs(lengths.mean() - pair.wasserstein1()) < 4.0 * standard_error


def test_pot_on_a_coarse_grid(wasserstein: ModuleType, pot: ModuleType) -> None:
    problem = published()
    exact = problem.source.pair.wasserstein1()
    points = wasserstein.grid_points(problem, 16)
    assert points["source_masses"].sum() == pytest.approx(points["target_masses"].sum())
    found = pot.point_cost(points, "emd")
    assert found["cost"] == pytest.approx(exact, rel=0.05)
    # The entropy costs something, and the less the smaller its factor.
    costs = [pot.point_cost(points, "sinkhorn", length)["cost"] for length in (0.3, 0.1)]
    assert found["cost"] * (1.0 - 1e-6) < costs[1] < costs[0]


def test_limits_and_missing_peers(pot: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    size = 3000
    points: dict[str, Any] = {name: random.random((size, 2)) for name in ("source", "target")}
    points |= {f"{name}_masses": np.full(size, 1.0 / size) for name in ("source", "target")}
    assert pot.point_cost(points, "emd", gibibytes=0.1) == {"missing": "more than 0.1 GiB"}
    # The matrices fit, the network does not.
    assert pot.point_cost(points, "emd", gibibytes=0.2) == {"missing": "more than 0.2 GiB"}
    assert pot.point_cost(points, "sinkhorn", 1e-3, seconds=1) == {"missing": "more than 1 s"}
    monkeypatch.setattr(pot.importlib.util, "find_spec", lambda name: None)
    assert pot.point_cost(points, "emd") == {"missing": "POT: not installed"}
    assert pot.point_cost(points, "geomloss") == {"missing": "GeomLoss: not installed"}


def test_section_of_distances(
    script: ModuleType, wasserstein: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("_SAMPLES", (200,)),
        ("_SQUARES", (8,)),
        ("_SINKHORN_SQUARES", {"sinkhorn": (8,), "geomloss": ()}),
        ("_REGULARISATIONS", (0.1,)),
        ("_GAPS", (0.2,)),
    ):
        monkeypatch.setattr(wasserstein, name, value)
    records = wasserstein.w1_by_solver(Console(quiet=True), ("ray_monotone_d2_n1",))
    assert [record["solver"] for record in records] == [
        "POT emd2, samples",
        "POT emd2, grid",
        "POT sinkhorn2, grid, 0.1",
        "ours, newton, gap 0.2",
        "ours, augmented-lagrangian, gap 0.2",
        "W₁ on voxels",
    ]
    for record in records[:-1]:
        assert record["exact"] == pytest.approx(0.84674, abs=1e-5)
        assert record["error"] < 0.2
    for record in records[3:5]:
        assert record["relative_gap"] <= 0.2
        slack = record["data_error"]
        assert record["lower"] - slack < record["exact"] < record["upper"] + slack
    assert script.table_of("w1", records).row_count == len(records)
