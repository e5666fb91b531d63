"""A mass flow with its numbers, its files and its pictures; `flow.json` stands for all of them."""

from __future__ import annotations

import importlib.util
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from congested.critics.reference import Reference
from congested.errors import InputError
from congested.flow.field import FlowField
from congested.flow.frames import Frames, frames_at_constant_speed
from congested.flow.particles import Particles, Paths, moments, trace
from congested.flow.simulate import Plan, Tally
from congested.flow.statistics import straight_rays, target_points
from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.io.fields import write_grid
from congested.io.files import finish_directory, on_root, write_text
from congested.io.flow import (
    ANIMATION,
    CELLS,
    CHECKPOINT,
    FILM,
    FLOW,
    PICTURE,
    STORE,
    WARDROP,
    remove_flow_files,
    save_frames,
    write_particles,
    write_paths,
)
from congested.io.result import json_text
from congested.plot_animation import animate_flow, can_animate
from congested.plot_flow import MOST_LINES, Group, plot_flow

#: What tells when a particle is where on its path.
CLOCKS = ("constant-speed", "dacorogna-moser")

#: What animations may end with.
ANIMATIONS = ("gif", "mp4", "none")

# Particles, and other things, of which more are a mistake.
_MOST = 10**12
_MOST_FRAMES = 10_000
# Particles in files that hold all of them at once; more go to flow.h5 as well.
_AT_ONCE = 10_000
# Places of such particles in time, all together.
_PLACES = 10_000_000
# Particles in an animation, and those whose paths and straight rays are drawn.
_ANIMATED, _DRAWN = 2_000, 2_000
# Groups of particles whose traffic is compared, particles in one, and the least that make one.
_GROUPS, _GROUP, _SMALL_GROUP = 16, 500, 20
_CHUNK = 4_096
# Columns of numbers about a particle: masses at both ends, ∫ ds, ∫ (1 + |m|/(2λσ)) ds, and the
# time at which it stopped, 1 if it arrived.
_NUMBERS = ("mass", "end_mass", "length", "cost", "time")


@dataclass(frozen=True)
class FlowOptions:
    """How a flow is computed and shown.

    Attributes
    ----------
    particles
        How many are drawn from the source.
    seed
        Seed of the random numbers.
    keep
        Particles whose places in time are written.
    frames
        Steps between time 0 and 1 at which they are.
    clock
        ``"constant-speed"``: each particle at its own; ``"dacorogna-moser"``: mass has the density
        (1 − t) μ + t ν at time t. Paths, ends and time-averaged momentum are the same.
    paths
        Particles whose whole paths are written, and the most that are drawn.
    """

    particles: int = 100_000
    seed: int = 0
    keep: int = 2_000
    frames: int = 40
    clock: str = "constant-speed"
    paths: int = 300

    def __post_init__(self) -> None:
        """Check the numbers, and make them plain integers."""
        limits = {
            "particles": (1, _MOST),
            "seed": (0, math.inf),
            "keep": (0, _MOST),
            "frames": (1, _MOST_FRAMES),
            "paths": (0, _MOST),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            try:
                number = operator.index(value)
            except TypeError:
                number = -1
            if not least <= number <= most:
                allowed = f"an integer from {least} to {most:g}"
                raise InputError(f"found {value!r}; allowed: {allowed}", key=name)
            object.__setattr__(self, name, number)
        if self.clock not in CLOCKS:
            allowed = " or ".join(f'"{clock}"' for clock in CLOCKS)
            raise InputError(f'found "{self.clock}"; allowed: {allowed}', key="clock")

    @property
    def at_once(self) -> int:
        """Particles that files hold which are made at once."""
        return max(min(_AT_ONCE, _PLACES // (self.frames + 1)), 1)


@dataclass(frozen=True, eq=False)
class MassFlow:
    """Particles that flow from source to target along a momentum.

    Attributes
    ----------
    reference
        The solution whose problem it is.
    options
        How it was computed.
    critic
        Name of the critic whose momentum moves the particles; None: the solution's does.
    field
        Momentum and densities on the whole mesh, on every rank.
    tally
        What the particles left behind; of use on rank 0.
    numbers
        Content of ``flow.json``.
    wardrop
        Content of ``wardrop.json``; None for a critic, after a stop, and where it was not wanted.
    complete
        Whether all particles have flown, and all that was wanted has been found out.
    """

    reference: Reference
    options: FlowOptions
    critic: str | None
    field: FlowField
    tally: Tally
    numbers: Mapping[str, Any]
    wardrop: Mapping[str, Any] | None
    complete: bool

    @property
    def plan(self) -> Plan:
        """Where the particles come from."""
        return Plan(self.options.particles, self.options.seed)

    def result(self) -> dict[str, Any]:
        """Return the content of ``flow.json``."""
        return dict(self.numbers)

    def write(
        self,
        directory: str | Path,
        *,
        pictures: bool = True,
        animation: str = "gif",
        progress: Callable[[str], None] | None = None,
    ) -> Path:
        """Write the flow into a directory, flow.json last (collective).

        Parameters
        ----------
        directory
            Made if it does not exist; an earlier flow in it is replaced.
        pictures
            Whether to draw flow.png.
        animation
            ``"gif"``, ``"mp4"`` (needs ffmpeg), or ``"none"``.
        progress
            Told the name of each step before it begins; at most `WRITING_STEPS` of them.

        Returns
        -------
        pathlib.Path
            The directory.

        Raises
        ------
        InputError
            If the directory cannot be written, or the animation cannot be made here.
        CongestedError
            If a picture failed, after everything else has been written.
        """
        check_writing(self.options, animation)
        directory = Path(directory)
        comm, tell = self.reference.comm, progress or (lambda step: None)
        arrays = self.reference.arrays
        content = self.result()
        tell("files")

        def write() -> tuple[Frames, Paths] | None:
            if arrays is None:
                return None
            directory.mkdir(parents=True, exist_ok=True)
            remove_flow_files(directory, checkpoint=False)
            return _write_data(self, directory)

        shown = on_root(comm, write)
        drawn: dict[Path, Callable[[Path], None]] = {}
        if shown is not None and arrays is not None:
            frames, paths = shown
            drawn = _pictures(self, arrays, frames, paths, directory, pictures, animation, tell)

        def write_last() -> None:
            if self.wardrop is not None:
                write_text(directory / WARDROP, json_text(self.wardrop))
            write_text(directory / FLOW, json_text(content))
            if self.complete:
                (directory / CHECKPOINT).unlink(missing_ok=True)

        finish_directory(comm, drawn, write_last)
        return directory


def check_writing(options: FlowOptions, kind: str) -> None:
    """Raise InputError unless so many particles, and animations of a kind, can be written here."""
    if options.keep > options.at_once and importlib.util.find_spec("h5py") is None:
        found = f"found {options.keep}, which needs the package h5py"
        raise InputError(f"{found}; allowed here: at most {options.at_once}", key="keep")
    if kind not in ANIMATIONS:
        allowed = " or ".join(ANIMATIONS)
        raise InputError(f'found "{kind}"; allowed: {allowed}', key="animation")
    if kind != "none" and not can_animate(f".{kind}"):
        found = f'found "{kind}", which needs the program ffmpeg'
        raise InputError(f"{found}; allowed here: gif or none", key="animation")


#: How many steps `MassFlow.write` tells its progress at most.
WRITING_STEPS = 3


def _pictures(
    flow: MassFlow,
    arrays: ResultArrays,
    frames: Frames,
    paths: Paths,
    directory: Path,
    pictures: bool,
    animation: str,
    tell: Callable[[str], None],
) -> dict[Path, Callable[[Path], None]]:
    """Return what draws the pictures, by where they go (on rank 0)."""
    words = {**flow.reference.result, "flow": flow.numbers}
    solved = None
    if flow.critic is not None:
        solved = arrays.momentum  # with which the critic's is compared
        means = flow.field.momentum / flow.field.volume[:, None]
        arrays = replace(arrays, momentum=means)
    drawn: dict[Path, Callable[[Path], None]] = {}
    if pictures:

        def draw(file: Path) -> None:
            tell("picture")
            lines = min(paths.number, MOST_LINES)
            plot_flow(arrays, words, ray_groups(flow), file, lines, solved=solved)

        drawn[directory / PICTURE] = draw
    if animation != "none" and frames.number:

        def animate(file: Path) -> None:
            tell("animation")
            animate_flow(arrays, words, _first(frames, _ANIMATED), file)

        drawn[directory / (ANIMATION if animation == "gif" else FILM)] = animate
    return drawn


def _first(frames: Frames, number: int) -> Frames:
    """Return the first particles."""
    return Frames(
        frames.times, frames.positions[:number], frames.mass[:number], frames.congestion[:number]
    )


def ray_groups(flow: MassFlow) -> list[Group]:
    """Return paths of the first particles, with the straight rays of W₁ between starts and ends.

    In the plane there are groups whose traffic is compared. Particles of a critic do not arrive as
    the target wants: points of the target stand for their ends.
    """
    starts, ends = flow.tally.sample()
    number, size = 1, min(starts.number, _DRAWN)
    if flow.critic is None and flow.field.dimension == 2:
        number = int(np.clip(starts.number // _SMALL_GROUP, 1, _GROUPS))
        size = min(starts.number // number, _GROUP)
    generator = np.random.default_rng([flow.options.seed, 1 << 32])
    groups = []
    for first in range(0, number * size, max(size, 1)):
        part = slice(first, first + size)
        begin, end = (side.part(part).points(flow.field) for side in (starts, ends))
        if flow.critic is not None:
            end = target_points(flow.field, size, generator)
        _, paths = trace(flow.field, starts.part(part))
        groups.append((paths, straight_rays(begin, end)))
    return groups


def _starts(flow: MassFlow) -> Iterator[Particles]:
    """Yield the particles that are kept, in the order in which they were drawn, some at a time."""
    left = min(flow.options.keep, flow.tally.particles)
    for batch in range(flow.tally.batches):
        drawn = flow.plan.draw(flow.field, batch)
        for begin in range(0, min(drawn.number, left), _CHUNK):
            yield drawn.part(slice(begin, min(begin + _CHUNK, left)))
        left -= min(drawn.number, left)
        if left == 0:
            return


def _rows(flow: MassFlow, starts: Particles) -> dict[str, FloatArray]:
    """Return a row for each particle, by the name of the column."""
    options = flow.options
    if options.clock == "constant-speed":
        ends, paths = trace(flow.field, starts)
        frames = frames_at_constant_speed(paths, starts.mass, options.frames)
        positions, congestion = frames.positions, frames.congestion
    else:
        times = np.arange(options.frames + 1) / options.frames
        ends, positions, congestion = moments(flow.field, starts, times)
    return {
        "positions": positions,
        "congestion": congestion,
        "mass": starts.mass,
        "end_mass": ends.mass,
        "length": ends.length,
        "cost": ends.cost,
        "time": ends.time,
    }


def _write_data(flow: MassFlow, directory: Path) -> tuple[Frames, Paths]:
    """Write everything but numbers and pictures; return what is drawn (on rank 0)."""
    field, options = flow.field, flow.options
    kept = min(options.keep, flow.tally.particles)
    times = np.arange(options.frames + 1) / options.frames
    shapes = {
        "positions": (options.frames + 1, field.dimension),
        "congestion": (options.frames + 1,),
    }
    columns: dict[str, tuple[int, ...]] = dict.fromkeys(_NUMBERS, ()) | shapes
    parts = [{name: np.zeros((0, *shape)) for name, shape in columns.items()}]
    attributes: dict[str, str | int | float] = {
        "frames": options.frames,
        "clock": options.clock,
        "seed": options.seed,
    }
    with ExitStack() as stack:
        store = None
        if kept > options.at_once:
            from congested.io.flow_store import flow_store  # which needs h5py

            store = stack.enter_context(flow_store(directory / STORE, columns, times, attributes))
        held = 0
        for starts in _starts(flow):
            rows = _rows(flow, starts)
            if store is not None:
                store.append(rows)
            if held < options.at_once:
                parts.append(
                    {name: values[: options.at_once - held] for name, values in rows.items()}
                )
                held += len(parts[-1]["mass"])
    rows = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    frames = Frames(times, rows["positions"], rows["mass"], rows["congestion"])
    save_frames(directory, frames, **{name: rows[name] for name in _NUMBERS if name != "mass"})
    write_particles(directory, frames)

    sample = flow.tally.sample()[0]
    _, paths = trace(field, sample.part(slice(0, options.paths)))
    write_paths(directory, paths)
    _write_cells(flow, directory / CELLS)
    return frames, paths


def _write_cells(flow: MassFlow, file: Path) -> None:
    """Write what particles leave in the cells, beside what they should."""
    field, tally = flow.field, flow.tally
    # Of a flow that was stopped, what all particles would leave.
    volume = field.volume * (tally.particles / flow.plan.particles)
    momentum = field.momentum / field.volume[:, None]
    data: dict[str, Any] = {
        "momentum": momentum,
        "particle_momentum": tally.displacement / volume[:, None],
        "congestion": field.congestion,
        "source": field.source,
        "target": field.target,
        "arrived": tally.arrived / volume,
    }
    if flow.critic is not None:
        data["created"] = tally.exchanged[:, 0] / volume
        data["lost"] = tally.exchanged[:, 1] / volume
        data["divergence_error"] = field.growth
    write_grid(file, field.vertices, field.cells, data)
