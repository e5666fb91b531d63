"""The files of a flow: what ParaView and NumPy find in them, and that they appear whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import pyvista

from congested.flow.frames import Frames
from congested.flow.particles import Paths
from congested.io.files import partial_name
from congested.io.flow import (
    CHECKPOINT,
    COLLECTION,
    FRAMES,
    PATHS,
    flow_files,
    remove_flow_files,
    save_frames,
    write_particles,
    write_paths,
)
from congested.io.flow_store import flow_store

NUMBERS = np.random.default_rng(3)
TIMES = np.array([0.0, 0.5, 1.0])
COLUMNS: dict[str, tuple[int, ...]] = {"start": (2,), "mass": ()}


def frames(number: int = 7, times: int = 5, dimension: int = 2) -> Frames:
    return Frames(
        np.linspace(0.0, 1.0, times),
        NUMBERS.random((number, times, dimension)),
        NUMBERS.random(number),
        1.0 + NUMBERS.random((number, times)),
    )


def paths(dimension: int) -> Paths:
    offsets = np.array([0, 2, 5, 9])
    points = NUMBERS.random((9, dimension))
    return Paths(offsets, points, np.arange(9.0), np.arange(9.0) ** 2, 1.0 + NUMBERS.random(9))


def rows(number: int) -> dict[str, np.ndarray]:
    return {"start": NUMBERS.random((number, 2)), "mass": NUMBERS.random(number)}


@pytest.mark.parametrize("dimension", [2, 3])
def test_particles_play_in_vtk(tmp_path: Path, dimension: int) -> None:
    given = frames(dimension=dimension)
    assert write_particles(tmp_path, given) == tmp_path / COLLECTION
    assert {path.name for path in tmp_path.iterdir()} == {COLLECTION, FRAMES}
    reader: Any = pyvista.PVDReader(str(tmp_path / COLLECTION))
    np.testing.assert_allclose(reader.time_values, given.times)
    for number, time in enumerate(reader.time_values):
        reader.set_active_time_value(time)
        (cloud,) = reader.read()
        assert cloud.n_points == cloud.n_verts == 7
        places = np.pad(given.positions[:, number], ((0, 0), (0, 3 - dimension)))
        np.testing.assert_allclose(cloud.points, places, rtol=1e-6)
        assert set(cloud.array_names) == {"mass", "particle", "congestion"}
        np.testing.assert_allclose(cloud["mass"], given.mass, rtol=1e-6)
        np.testing.assert_array_equal(cloud["particle"], np.arange(7))
        np.testing.assert_allclose(cloud["congestion"], given.congestion[:, number], rtol=1e-6)
    text = (tmp_path / FRAMES / "frame_00000.vtp").read_text(errors="replace")
    assert "vtkZLibDataCompressor" in text


def test_a_shorter_run_leaves_no_old_frames(tmp_path: Path) -> None:
    write_particles(tmp_path, frames(times=6))
    (tmp_path / FRAMES / "notes.txt").write_text("the user's")
    write_particles(tmp_path, frames(times=3))
    names = {path.name for path in (tmp_path / FRAMES).iterdir()}
    assert names == {"notes.txt", *(f"frame_{number:05d}.vtp" for number in range(3))}
    assert len(pyvista.PVDReader(str(tmp_path / COLLECTION)).time_values) == 3
    remove_flow_files(tmp_path)
    assert [path.name for path in (tmp_path / FRAMES).iterdir()] == ["notes.txt"]


def test_frames_that_cannot_be_written_leave_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_particles(tmp_path, frames(times=2))
    before = {path: path.read_bytes() for path in (tmp_path / FRAMES).iterdir()}

    def full(self: object, file: Path, *_: object, **__: object) -> None:
        if "00001" in str(file):
            raise OSError(28, "No space left on device", str(file))
        Path(file).write_text("new")

    monkeypatch.setattr(pyvista.PolyData, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_particles(tmp_path, frames(times=2))
    assert {path: path.read_bytes() for path in (tmp_path / FRAMES).iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {COLLECTION, FRAMES}


@pytest.mark.parametrize("dimension", [2, 3])
def test_paths_are_polygons(tmp_path: Path, dimension: int) -> None:
    given = paths(dimension)
    write_paths(tmp_path, given)
    assert [path.name for path in tmp_path.iterdir()] == [PATHS]
    read = pyvista.read(tmp_path / PATHS)
    assert isinstance(read, pyvista.PolyData)
    assert (read.n_points, read.n_lines, read.n_verts) == (9, 3, 0)
    np.testing.assert_array_equal(read.points, np.pad(given.points, ((0, 0), (0, 3 - dimension))))
    np.testing.assert_array_equal(read.lines, [2, 0, 1, 3, 2, 3, 4, 4, 5, 6, 7, 8])
    for name in ("time", "cost", "congestion"):
        np.testing.assert_array_equal(read.point_data[name], getattr(given, name))
    np.testing.assert_array_equal(read.cell_data["particle"], [0, 1, 2])
    np.testing.assert_array_equal(read.cell_data["total_cost"], [1.0, 16.0, 64.0])


def test_nothing_at_all_can_be_written(tmp_path: Path) -> None:
    write_particles(tmp_path, frames(number=0, times=2))
    empty = np.zeros(0)
    write_paths(tmp_path, Paths(np.zeros(1, int), np.zeros((0, 2)), empty, empty, empty))
    assert pyvista.read(tmp_path / PATHS).n_cells == 0
    assert pyvista.read(tmp_path / FRAMES / "frame_00001.vtp").n_points == 0


def test_numpy_file(tmp_path: Path) -> None:
    given = frames()
    file = save_frames(tmp_path, given, cost=given.mass)
    with np.load(file, allow_pickle=False) as stored:
        for name in ("times", "positions", "mass", "congestion"):
            np.testing.assert_array_equal(stored[name], getattr(given, name))
        np.testing.assert_array_equal(stored["start"], given.positions[:, 0])
        np.testing.assert_array_equal(stored["end"], given.positions[:, -1])
        np.testing.assert_array_equal(stored["cost"], given.mass)


def test_only_our_own_old_files_are_removed(tmp_path: Path) -> None:
    write_particles(tmp_path, frames())
    write_paths(tmp_path, paths(2))
    save_frames(tmp_path, frames())
    store = partial_name(tmp_path / "flow.h5")
    numbers = ("flow.json", "wardrop.json", "flow_cells.vtu", "flow_cells.pvd")
    pictures = ("flow.png", "flow.gif", ".flow.gif.partial", "flow.mp4")
    for name in (*numbers, *pictures, "flow.h5", store.name, CHECKPOINT):
        (tmp_path / name).write_text("of an earlier run")
    (tmp_path / ".flow.partial").mkdir()
    (tmp_path / ".flow.partial" / "frame_00000.vtp").write_text("of one that was stopped")
    kept = {"solution.npz", "flow_notes.txt", "flow_paths.vtp.old", "my_flow.png"}
    for name in kept:
        (tmp_path / name).write_text("stays")
    assert store in flow_files(tmp_path) and flow_files(tmp_path)[0].name == "flow.json"
    remove_flow_files(tmp_path, checkpoint=False)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, CHECKPOINT}
    remove_flow_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


# --- particles by the million ---------------------------------------------------------------


def test_a_store_appears_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "flow.h5"
    batches = [rows(number) for number in (100_000, 1, 30_000)]
    with flow_store(file, COLUMNS, TIMES, {"seed": 7, "title": "λ"}) as store:
        for batch in batches:
            store.append(batch)
        assert store.number == 130_001 and not file.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["flow.h5"]
    with h5py.File(file) as stored:
        assert stored["start"].chunks[0] < 100_000
        assert dict(stored.attrs) == {"seed": 7, "title": "λ"}
        assert set(stored) == {*COLUMNS, "times"}
        np.testing.assert_array_equal(stored["times"], TIMES)
        for name in COLUMNS:
            np.testing.assert_array_equal(
                stored[name][:], np.concatenate([batch[name] for batch in batches])
            )


def test_an_interrupted_store_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "flow.h5"
    file.write_text("an older one")
    with pytest.raises(KeyboardInterrupt), flow_store(file, COLUMNS, TIMES) as store:
        store.append(rows(50))
        raise KeyboardInterrupt
    assert file.read_text() == "an older one"
    assert not partial_name(file).exists()


def test_rows_must_fit(tmp_path: Path) -> None:
    with flow_store(tmp_path / "flow.h5", COLUMNS, TIMES) as store:
        good = rows(3)
        with pytest.raises(ValueError, match="found columns"):
            store.append({"mass": good["mass"]})
        with pytest.raises(ValueError, match=r"column mass has shape \(2,\); allowed: \(3,\)"):
            store.append({**good, "mass": good["mass"][:2]})
        store.append(good)
        store.append(rows(0))
        assert store.number == 3


def test_any_object_with_these_arrays_will_do(tmp_path: Path) -> None:
    given = frames()
    plain = SimpleNamespace(**vars(given))
    write_particles(tmp_path, plain)
    assert (tmp_path / COLLECTION).exists()
