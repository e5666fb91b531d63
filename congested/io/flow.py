"""The files of a particle flow: for ParaView, for NumPy, and for more particles than memory holds.

ParaView gets `flow_particles.pvd`, which plays one .vtp file of points per time out of the folder
`flow_particles`, and the polygons of `flow_paths.vtp`. All are written in a hidden folder and moved
when they are complete, the .pvd file last.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from congested.geometry import FloatArray, IntArray
from congested.io.arrays import save_npz
from congested.io.files import atomic_file, partial_name

FLOW = "flow.json"
WARDROP = "wardrop.json"
CHECKPOINT = "flow.checkpoint.npz"
CELLS = "flow_cells.vtu"
ARRAYS = "flow.npz"
STORE = "flow.h5"
PICTURE = "flow.png"
ANIMATION = "flow.gif"
FILM = "flow.mp4"
COLLECTION = "flow_particles.pvd"
FRAMES = "flow_particles"
PATHS = "flow_paths.vtp"

_STAGE = ".flow.partial"
# Exactly the names that this module gives, so that no user's file is ever removed.
_FRAME = re.compile(r"frame_\d{5}\.vtp")


class FrameArrays(Protocol):
    """n particles at f times, like `congested.flow.frames.Frames`."""

    @property
    def times(self) -> FloatArray:
        """Times (f,)."""

    @property
    def positions(self) -> FloatArray:
        """Places (n, f, d)."""

    @property
    def mass(self) -> FloatArray:
        """Masses (n,)."""

    @property
    def congestion(self) -> FloatArray:
        """Factors 1 + |m|/(2λσ) (n, f)."""


class PathArrays(Protocol):
    """The paths of n particles as polygons, like `congested.flow.particles.Paths`."""

    @property
    def offsets(self) -> IntArray:
        """Where each path begins (n + 1,), and the end of the last."""

    @property
    def points(self) -> FloatArray:
        """Points (k, d)."""

    @property
    def time(self) -> FloatArray:
        """Time at each point (k,)."""

    @property
    def cost(self) -> FloatArray:
        """Cost so far at each point (k,)."""

    @property
    def congestion(self) -> FloatArray:
        """Factor 1 + |m|/(2λσ) behind each point (k,)."""


def flow_files(directory: Path) -> list[Path]:
    """List what an earlier flow left in a directory, finished or not; folders after their files.

    The checkpoint is not among them. `flow.json`, which stands for all others, comes first.
    """
    names = (
        *(FLOW, WARDROP, COLLECTION, PATHS, ARRAYS, STORE, PICTURE, ANIMATION, FILM),
        *(CELLS, Path(CELLS).with_suffix(".pvd").name),
    )
    paths = [directory / name for name in names]
    paths += [partial_name(path) for path in paths]
    frames = directory / FRAMES
    if frames.is_dir() and not frames.is_symlink():
        paths += [path for path in sorted(frames.iterdir()) if _FRAME.fullmatch(path.name)]
        paths.append(frames)
    paths.append(directory / _STAGE)
    return [path for path in paths if path.exists() or path.is_symlink()]


def remove_flow_files(directory: Path, *, checkpoint: bool = True) -> None:
    """Remove what an earlier flow left in a directory, and nothing else (one rank).

    Parameters
    ----------
    directory
        A result directory.
    checkpoint
        Whether a flow that was stopped shall not go on.
    """
    for path in flow_files(directory):
        _remove(path)
    if checkpoint:
        for path in (directory / CHECKPOINT, partial_name(directory / CHECKPOINT)):
            path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.name == _STAGE:
        shutil.rmtree(path)
    elif path.name == FRAMES and path.is_dir():
        if not any(path.iterdir()):  # else there are files of the user's
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def save_frames(directory: Path, frames: FrameArrays, **more: Any) -> Path:
    """Write `flow.npz` (one rank).

    It holds ``times`` (f,), ``positions`` (n, f, d), ``mass`` (n,), ``congestion`` (n, f), and
    ``start`` and ``end`` (n, d), the first and the last positions.

    Parameters
    ----------
    directory
        Where.
    frames
        Particles: so few that their positions at all times fit into memory.
    more
        Further arrays by name.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then still there.
    """
    names = ("times", "positions", "mass", "congestion")
    arrays = {name: getattr(frames, name) for name in names}
    arrays["start"], arrays["end"] = frames.positions[:, 0], frames.positions[:, -1]
    save_npz(directory / ARRAYS, {**arrays, **more})
    return directory / ARRAYS


def write_particles(directory: Path, frames: FrameArrays) -> Path:
    """Write `flow_particles.pvd` with a .vtp file for each time in `flow_particles` (one rank).

    Points carry ``mass``, ``particle`` (a number, the same at all times) and ``congestion``. All
    numbers are in single precision: they are there to be looked at.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    names = [f"frame_{number:05d}.vtp" for number in range(len(frames.times))]
    with _stage(directory) as stage:
        for number, name in enumerate(names):
            data = {
                "mass": np.asarray(frames.mass, dtype=np.float32),
                "particle": np.arange(len(frames.mass), dtype=np.int32),
                "congestion": frames.congestion[:, number].astype(np.float32),
            }
            points = _in_space(frames.positions[:, number]).astype(np.float32)
            _save_points(stage / name, points, data)
        for path in flow_files(directory):
            if path.name == COLLECTION or path.parent == directory / FRAMES:
                _remove(path)
        folder = directory / FRAMES
        folder.mkdir(exist_ok=True)
        for name in names:
            (stage / name).replace(folder / name)
    rows = "".join(
        f'    <DataSet timestep="{time:.9g}" part="0" file="{FRAMES}/{name}"/>\n'
        for time, name in zip(frames.times, names, strict=True)
    )
    text = (
        '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1">\n'
        f"  <Collection>\n{rows}  </Collection>\n</VTKFile>\n"
    )
    with atomic_file(directory / COLLECTION) as file:
        file.write(text.encode())
    return directory / COLLECTION


def write_paths(directory: Path, paths: PathArrays) -> Path:
    """Write `flow_paths.vtp`: a polygon for each path (one rank).

    Points carry ``time``, ``cost`` (so far) and ``congestion`` (of the way behind them), lines
    ``particle`` (a number) and ``total_cost``.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    # Loading VTK takes longer than most of what a run without it does.
    import pyvista

    offsets, number = paths.offsets, len(paths.offsets) - 1
    data = pyvista.PolyData()
    if number:
        # VTK wants before the numbers of a line's points how many there are.
        points = np.arange(len(paths.points))
        lines = np.insert(points, offsets[:-1], np.diff(offsets))
        data = pyvista.PolyData(_in_space(paths.points), lines=lines)
    for name in ("time", "cost", "congestion"):
        data.point_data[name] = np.asarray(getattr(paths, name), dtype=np.float64)
    data.cell_data["particle"] = np.arange(number, dtype=np.int32)
    data.cell_data["total_cost"] = np.asarray(paths.cost)[offsets[1:] - 1]
    with _stage(directory) as stage:
        data.save(stage / PATHS)
        (stage / PATHS).replace(directory / PATHS)
    return directory / PATHS


def _in_space(points: FloatArray) -> FloatArray:
    """Give points of the plane the third coordinate that VTK wants."""
    return np.pad(points, ((0, 0), (0, 3 - points.shape[1])))


def _save_points(file: Path, points: Any, data: Mapping[str, Any]) -> None:
    import pyvista

    cloud = pyvista.PolyData(points) if len(points) else pyvista.PolyData()
    for name, values in data.items():
        cloud.point_data[name] = values
    cloud.save(file)


@contextmanager
def _stage(directory: Path) -> Iterator[Path]:
    """Make a hidden folder beside the files that will come out of it, and remove it at the end."""
    stage = directory / _STAGE
    if stage.exists():
        shutil.rmtree(stage)
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage)
