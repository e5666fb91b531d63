"""`compute_flow`: numbers, files, stops, and flows of critics."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import pyvista
from mpi4py import MPI

import congested as ct
from congested.critics.network import FunctionCritic
from congested.errors import CongestedError, InputError
from congested.geometry import FloatArray
from congested.io.flow import CHECKPOINT
from congested.mass_flow import steps
from tests.critics.references import own_potential, reference, solution

#: All that a flow of a solution writes.
FILES = {
    "flow.json",
    "wardrop.json",
    "flow.npz",
    "flow.png",
    "flow.gif",
    "flow_cells.vtu",
    "flow_cells.pvd",
    "flow_particles",
    "flow_particles.pvd",
    "flow_paths.vtp",
}
FEW = ct.FlowOptions(particles=4_000, keep=50, frames=4, paths=20)


@pytest.mark.parametrize("name", ["plane", "p2", "w1", "closed", "cube"])
def test_numbers_of_a_solution(name: str) -> None:
    told: list[str] = []
    flow = ct.compute_flow(reference(name), options=FEW, progress=told.append)
    content = flow.result()
    assert content["status"] == "done" and content["particles"] == content["planned"] == 4_000
    assert 0.0 < content["momentum_relative_l1"] < 0.25
    assert 0.0 < content["momentum_relative_l1_error"] < 0.4 * content["momentum_relative_l1"]
    assert 0.0 < content["pushforward_relative_l1"] < 0.25
    values = reference(name).result["values"]
    # The file has an upper bound of ∫|m|.
    assert content["momentum_l1"] == pytest.approx(values["momentum_l1"], rel=0.02)
    length = content["mean_path_length"]
    assert abs(length["value"] - content["momentum_l1"]) < 4.0 * length["standard_error"]
    assert content["mass"]["end"] == pytest.approx(1.0, abs=1e-10)
    assert content["mass"]["lost"] == content["mass"]["created"] == 0.0
    assert content["critic"] is None and "imbalance" not in content
    assert flow.wardrop is not None and flow.wardrop["pairs"] > 100
    assert len(told) == steps(FEW, critic=False)
    json.dumps(content, allow_nan=False)
    json.dumps(flow.wardrop, allow_nan=False)


def test_equal_measures_do_not_flow(tmp_path: Path) -> None:
    flow = ct.compute_flow(reference("same"), options=FEW)
    content = flow.result()
    assert content["momentum_l1"] == 0.0 and content["crossings"]["most"] == 0
    assert math.isnan(content["momentum_relative_l1"])
    flow.write(tmp_path)
    stored = json.loads((tmp_path / "flow.json").read_text(encoding="utf-8"))
    assert stored["momentum_relative_l1"] is None


def test_the_files_hold_what_the_flow_is(tmp_path: Path) -> None:
    flow = ct.compute_flow(solution("plane"), options=FEW)
    assert flow.write(tmp_path) == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == FILES
    with np.load(tmp_path / "flow.npz") as stored:
        positions, mass, cost = stored["positions"], stored["mass"], stored["cost"]
        np.testing.assert_allclose(stored["times"], [0.0, 0.25, 0.5, 0.75, 1.0])
        np.testing.assert_array_equal(stored["time"], 1.0)
    assert positions.shape == (50, 5, 2)
    starts, ends = flow.tally.sample()
    np.testing.assert_allclose(positions[:, 0], starts.points(flow.field)[:50], atol=1e-14)
    np.testing.assert_allclose(positions[:, -1], ends.points(flow.field)[:50], atol=1e-14)
    np.testing.assert_allclose(mass, 1.0 / 4_000)
    np.testing.assert_array_equal(cost, ends.cost[:50])
    # At constant speed all steps of a particle are as long, but for corners that they cut.
    step = np.linalg.norm(np.diff(positions, axis=1), axis=2)
    assert (step.max(axis=1) < 1.2 * step.min(axis=1) + 1e-3).all()

    cells = pyvista.read(tmp_path / "flow_cells.vtu")
    volume = flow.field.volume
    np.testing.assert_allclose(
        cells.cell_data["particle_momentum"][:, :2] * volume[:, None], flow.tally.displacement
    )
    assert cells.cell_data["arrived"] @ volume == pytest.approx(1.0)
    assert "lost" not in cells.cell_data
    content = json.loads((tmp_path / "flow.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(flow.result()))
    assert pyvista.read(tmp_path / "flow_paths.vtp").n_lines == 20


def test_the_other_clock_has_the_density_between_source_and_target() -> None:
    options = ct.FlowOptions(particles=40_000, keep=20_000, frames=2, clock="dacorogna-moser")
    flow = ct.compute_flow(reference("plane"), options=options)
    from congested.flow.particles import moments

    starts = flow.tally.sample()[0].part(slice(0, 20_000))
    _, positions, congestion = moments(flow.field, starts, np.array([0.0, 0.5, 1.0]))
    assert congestion.min() >= 1.0 and congestion.max() > 1.02
    middle = positions[:, 1]
    expected = [
        flow.field.volume
        @ (0.5 * (flow.field.source + flow.field.target) * _midpoints(flow)[:, axis])
        for axis in range(2)
    ]
    np.testing.assert_allclose(middle.mean(axis=0), expected, atol=0.006)
    # Half has left, half has arrived: nothing in between, where both densities vanish.
    along = (positions[:, 1] - [0.35, 0.4]) @ [0.3, 0.2] / 0.13
    share = [(along < 0.5).mean(), (along > 0.5).mean()]
    np.testing.assert_allclose(share, 0.5, atol=0.02)


def _midpoints(flow: ct.MassFlow) -> FloatArray:
    return flow.field.vertices[flow.field.cells].mean(axis=1)


def test_more_particles_than_fit_go_to_one_more_file(tmp_path: Path) -> None:
    import h5py

    options = ct.FlowOptions(particles=30_000, keep=12_345, frames=2, paths=3)
    flow = ct.compute_flow(reference("plane"), options=options)
    flow.write(tmp_path, pictures=False, animation="none")
    with h5py.File(tmp_path / "flow.h5") as stored:
        positions = stored["positions"][:]
        assert stored.attrs["clock"] == "constant-speed"
        assert stored["mass"].shape == (12_345,)
        np.testing.assert_array_equal(stored["times"], [0.0, 0.5, 1.0])
    assert positions.shape == (12_345, 3, 2)
    starts, ends = flow.tally.sample()
    np.testing.assert_allclose(positions[:, 0], starts.points(flow.field)[:12_345], atol=1e-14)
    np.testing.assert_allclose(positions[:, -1], ends.points(flow.field)[:12_345], atol=1e-14)
    with np.load(tmp_path / "flow.npz") as some:
        np.testing.assert_array_equal(some["positions"], positions[:10_000])
    assert not (tmp_path / "flow.png").exists() and not (tmp_path / "flow.gif").exists()
    # A smaller flow leaves nothing of the larger one.
    ct.compute_flow(reference("plane"), options=FEW).write(tmp_path, animation="none")
    assert not (tmp_path / "flow.h5").exists()


def test_a_stop_keeps_what_has_flown_and_the_rest_follows(tmp_path: Path) -> None:
    whole = ct.compute_flow(reference("plane"), options=FEW)
    asked: list[int] = []

    def stop() -> str | None:
        asked.append(1)
        return "enough" if len(asked) == 3 else None

    part = ct.compute_flow(reference("plane"), options=FEW, stop=stop, checkpoint=tmp_path)
    assert not part.complete and (tmp_path / CHECKPOINT).exists()
    content = part.result()
    assert (content["status"], content["reason"]) == ("stopped", "enough")
    assert content["particles"] == 750
    assert content["momentum_relative_l1"] > whole.result()["momentum_relative_l1"]
    part.write(tmp_path, pictures=False, animation="none")
    assert part.wardrop is None and not (tmp_path / "wardrop.json").exists()
    cells = pyvista.read(tmp_path / "flow_cells.vtu")
    # What all particles would leave.
    assert cells.cell_data["arrived"] @ part.field.volume == pytest.approx(1.0)
    mean = part.field.volume @ cells.cell_data["particle_momentum"]
    np.testing.assert_allclose(mean[:2], part.field.momentum.sum(axis=0), rtol=0.05)
    assert (tmp_path / CHECKPOINT).exists() and (tmp_path / "flow.json").exists()

    told: list[str] = []
    rest = ct.compute_flow(
        reference("plane"), checkpoint=tmp_path, resume=True, progress=told.append
    )
    assert rest.options == FEW
    assert rest.complete and len(told) == steps(FEW, critic=False)
    again, expected = rest.result(), whole.result()
    del again["seconds"], expected["seconds"]
    assert again == expected
    assert rest.wardrop == whole.wardrop
    rest.write(tmp_path, pictures=False, animation="none")
    assert not (tmp_path / CHECKPOINT).exists()
    with pytest.raises(InputError, match="a flow that is complete leaves none"):
        ct.compute_flow(reference("plane"), options=FEW, checkpoint=tmp_path, resume=True)
    with pytest.raises(InputError, match="resume without checkpoint"):
        ct.compute_flow(reference("plane"), options=FEW, resume=True)


def test_checkpoints_come_while_particles_fly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    for every in (0.0, 1e9):
        monkeypatch.setattr("congested.mass_flow._CHECKPOINT_EVERY", every)

        def look() -> None:
            seen.append((tmp_path / CHECKPOINT).exists())

        ct.compute_flow(
            reference("plane"),
            options=FEW,
            stop=look,
            checkpoint=tmp_path,
            begin=lambda: (tmp_path / CHECKPOINT).unlink(missing_ok=True),
        )
    assert seen[:16] == [True] * 16 and seen[16:] == [False] * 16


def test_nothing_begins_before_the_input_is_known_to_be_good() -> None:
    begun: list[str] = []
    plane = FunctionCritic(2, lambda points: points[:, 0], np.ones_like)
    with pytest.raises(InputError, match="finite λ"):
        ct.compute_flow(reference("w1"), plane, options=FEW, begin=lambda: begun.append("w1"))
    assert begun == []
    flow = ct.compute_flow(
        reference("plane"), options=FEW, begin=lambda: begun.append("plane"), equilibrium=False
    )
    assert begun == ["plane"] and flow.wardrop is None


def test_a_stop_before_the_check_leaves_it_to_the_next_run(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop() -> str | None:
        asked.append(1)
        return "late" if len(asked) == 16 else None

    place = tmp_path / "new" / "one"
    part = ct.compute_flow(reference("plane"), options=FEW, stop=stop, checkpoint=place)
    content = part.result()
    assert content["particles"] == 4_000 and part.wardrop is None
    assert (content["status"], content["reason"]) == ("stopped", "late")
    part.write(place, pictures=False, animation="none")
    rest = ct.compute_flow(reference("plane"), checkpoint=place, resume=True)
    assert rest.complete and rest.wardrop is not None
    rest.write(place, pictures=False, animation="none")
    assert not (place / CHECKPOINT).exists()


@pytest.mark.parametrize("slope", [20.0, 1000.0])
def test_a_critic_whose_sinks_swallow_everything(slope: float, tmp_path: Path) -> None:
    steep = ct.critic_from_functions(
        lambda points: -slope * points[:, 0],
        lambda points: np.tile([-slope, 0.0], (len(points), 1)),
        dimension=2,
    )
    flow = ct.compute_flow(reference("plane"), steep, name="steep", options=FEW)
    content = flow.result()
    assert content["pushforward_wasserstein1"] is None
    assert content["imbalance"]["critic"]["lost"][0] > 10.0
    assert content["masses_kept"]["pushforward_wasserstein1"]["value"] > 0.1
    flow.write(tmp_path, pictures=False, animation="none")
    assert (tmp_path / "flow.json").exists()


def test_a_directory_may_have_the_name_of_the_frames(tmp_path: Path) -> None:
    flow = ct.compute_flow(reference("plane"), options=FEW, equilibrium=False)
    place = tmp_path / "flow_particles"
    for _ in range(2):
        flow.write(place, pictures=False, animation="none")
        assert len(list((place / "flow_particles").iterdir())) == 5


def test_the_flow_of_the_solutions_own_potential(tmp_path: Path) -> None:
    """A critic that is nearly optimal moves nearly all; one of half its size nothing."""
    found = reference("plane")
    flow = ct.compute_flow(found, own_potential(found), name="own", options=FEW)
    content = flow.result()
    assert content["critic"] == "own" and flow.wardrop is None
    table = content["imbalance"]
    # At the scale of the domain less is missing than at that of the cells.
    assert table["critic"]["lost"][-1] < 0.8 * table["critic"]["lost"][0]
    assert table["solution"]["lost"][0] < table["critic"]["lost"][0]
    mass = content["mass"]
    balance = mass["start"] + mass["created"] - mass["lost"]
    assert mass["end"] == pytest.approx(balance, abs=1e-9)
    assert content["masses_kept"]["pushforward_wasserstein1"]["value"] < 0.2

    still = ct.compute_flow(found, own_potential(found, 0.5), name="half", options=FEW).result()
    assert still["crossings"]["most"] == 0
    overlap = 0.5 * np.abs(flow.field.volume * (flow.field.source - flow.field.target)).sum()
    assert still["imbalance"]["critic"]["lost"][0] == pytest.approx(overlap, rel=1e-6)
    assert still["mass"]["lost"] == pytest.approx(overlap, rel=0.1)
    kept = still["masses_kept"]["pushforward_wasserstein1"]["value"]
    assert kept == pytest.approx(0.36, abs=0.05)

    flow.write(tmp_path, animation="none")
    cells = pyvista.read(tmp_path / "flow_cells.vtu")
    lost = cells.cell_data["lost"] @ flow.field.volume
    assert lost == pytest.approx(mass["lost"])
    assert not (tmp_path / "wardrop.json").exists()


def test_mistakes_are_named() -> None:
    for name, value in (
        ("particles", 0),
        ("particles", 10**13),
        ("particles", 2.5),
        ("keep", "many"),
        ("frames", 10**5),
        ("seed", -1),
        ("frames", 0),
        ("clock", "sundial"),
    ):
        with pytest.raises(InputError, match=f"{name}.*allowed"):
            ct.FlowOptions(**{name: value})
    assert vars(ct.FlowOptions(np.int64(7)))["particles"].__class__ is int  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"solution: found str; allowed: a Solution"):
        ct.compute_flow("results/two_gaussians", options=FEW)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"critic: found function; allowed: .*from_functions"):
        ct.compute_flow(reference("plane"), lambda points: points, options=FEW)  # type: ignore[arg-type]
    wide = FunctionCritic(3, lambda points: points[:, 0], np.ones_like)
    with pytest.raises(InputError, match=r"wide.*3 coordinates"):
        ct.compute_flow(reference("plane"), wide, name="wide", options=FEW)
    plane = FunctionCritic(2, lambda points: points[:, 0], np.ones_like)
    with pytest.raises(InputError, match="finite λ"):
        ct.compute_flow(reference("w1"), plane, options=FEW)
    flow = ct.compute_flow(reference("plane"), options=FEW)
    with pytest.raises(InputError, match="gif or mp4 or none"):
        flow.write("nowhere", animation="flip-book")
    assert not Path("nowhere").exists()


def test_a_picture_that_fails_leaves_all_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no paint")

    monkeypatch.setattr("congested.flow_result.plot_flow", fails)
    flow = ct.compute_flow(reference("plane"), options=FEW)
    with pytest.raises(CongestedError, match=r"everything but flow\.png is written.*no paint"):
        flow.write(tmp_path, animation="none")
    assert (tmp_path / "flow.json").exists() and (tmp_path / "wardrop.json").exists()


def test_a_new_solution_removes_the_flow_of_the_old_one(tmp_path: Path) -> None:
    solution("plane").write(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    read = ct.reference_from_directory(tmp_path, MPI.COMM_SELF)
    ct.compute_flow(read, options=FEW).write(tmp_path, animation="none")
    assert {path.name for path in tmp_path.iterdir()} > before
    (tmp_path / "flow_particles" / "mine.txt").touch()
    solution("plane").write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before | {"flow_particles"}
    assert [path.name for path in (tmp_path / "flow_particles").iterdir()] == ["mine.txt"]
