"""Particles that are drawn from the source and walk along a momentum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from congested.flow.field import FlowField
from congested.flow.kernels import walk
from congested.geometry import BoolArray, FloatArray, IntArray

# Facets that a particle may cross: this, and this many times the cells along one side.
_CROSSINGS = 2000, 100


@dataclass(frozen=True, eq=False)
class Particles:
    """n particles at some time of their way.

    Attributes
    ----------
    cell
        The cell of each (n,).
    barycentric
        Its barycentric coordinates there (n, d+1).
    time
        Its time (n,), between 0 and 1.
    mass
        Its mass (n,).
    length, cost
        ∫ ds and ∫ (1 + |m|/(2λσ)) ds along its way so far (n,).
    work
        The same integrals (n, 2) of its mass times ds: where masses change, these are what
        ∫|m| and ∫ (1 + |m|/(2λσ)) |m| are the sums of.
    crossings
        Facets that it has crossed (n,).
    """

    cell: IntArray
    barycentric: FloatArray
    time: FloatArray
    mass: FloatArray
    length: FloatArray
    cost: FloatArray
    work: FloatArray
    crossings: IntArray

    @property
    def number(self) -> int:
        """Number n of particles."""
        return len(self.cell)

    def part(self, some: slice) -> Particles:
        """Return some of the particles."""
        return Particles(**{name: values[some] for name, values in vars(self).items()})

    def points(self, field: FlowField) -> FloatArray:
        """Return where the particles are (n, d)."""
        corners = field.vertices[field.cells[self.cell]]
        return np.einsum("ni,nid->nd", self.barycentric, corners)

    def arrived(self) -> BoolArray:
        """Return which particles (n,) have got to the end: all but those lost on the way.

        A momentum without rest can turn in circles through cells in which there is hardly mass.
        """
        return np.asarray(self.time >= 1.0)


@dataclass(frozen=True, eq=False)
class Paths:
    """The ways of particles as polygons: on streamlines of RT0 the points are where cells change.

    Attributes
    ----------
    offsets
        Where each path begins (n + 1,), and the end of the last.
    points
        Its points (k, d).
    time, cost
        Time and ∫ (1 + |m|/(2λσ)) ds at each point (k,).
    congestion
        The factor 1 + |m|/(2λσ) behind each point (k,).
    """

    offsets: IntArray
    points: FloatArray
    time: FloatArray
    cost: FloatArray
    congestion: FloatArray

    @property
    def number(self) -> int:
        """Number n of paths."""
        return len(self.offsets) - 1


@dataclass(frozen=True, eq=False)
class Deposits:
    """What walking particles leave in the C cells.

    Attributes
    ----------
    displacement
        Sum (C, d) of mass times displacement: an estimate of the integrals of the momentum.
    exchanged
        Mass (C, 2) that particles gained and lost.
    """

    displacement: FloatArray
    exchanged: FloatArray


def no_deposits(field: FlowField) -> Deposits:
    """Return zeros."""
    cells = len(field.cells)
    return Deposits(np.zeros((cells, field.dimension)), np.zeros((cells, 2)))


def draw_particles(
    field: FlowField, number: int, generator: np.random.Generator, mass: float = 1.0
) -> Particles:
    """Draw particles from the source: cells by their masses, evenly within each.

    Parameters
    ----------
    field
        The flow.
    number
        How many.
    generator
        Where d + 1 numbers for each come from.
    mass
        What they have together.
    """
    dimension = field.dimension
    numbers = generator.random((number, dimension + 1))
    sums = np.cumsum(field.volume * field.source)
    # Not the last sum but all below it, so that a cell without mass gets no particle.
    cell = np.searchsorted(sums, numbers[:, 0] * sums[-1], side="right")
    last = np.searchsorted(sums, sums[-1])
    cell = np.minimum(cell, last).astype(np.int64)
    # Spacings of sorted uniform numbers are even in a simplex.
    sides = np.sort(numbers[:, 1:], axis=1)
    ends = np.pad(sides, ((0, 0), (1, 1)), constant_values=((0.0, 0.0), (0.0, 1.0)))
    return particles_at(cell, np.diff(ends, axis=1), np.full(number, mass / max(number, 1)))


def particles_at(cell: IntArray, barycentric: FloatArray, mass: FloatArray) -> Particles:
    """Return particles at time 0 in given cells (n,), with barycentric coordinates (n, d+1)."""
    number = len(cell)
    return Particles(
        cell=cell,
        barycentric=barycentric,
        time=np.zeros(number),
        mass=mass,
        length=np.zeros(number),
        cost=np.zeros(number),
        work=np.zeros((number, 2)),
        crossings=np.zeros(number, dtype=np.int64),
    )


def move(
    field: FlowField,
    particles: Particles,
    end: float = 1.0,
    *,
    deposits: Deposits | None = None,
) -> Particles:
    """Move particles until a time, without an error but rounding.

    Parameters
    ----------
    field
        The flow.
    particles
        Where they are now; not changed.
    end
        The time, at most 1.
    deposits
        To which is added what they leave behind.

    Returns
    -------
    Particles
        The particles then.
    """
    return _move(field, particles, end, deposits, None, record=False)[0]


def moments(
    field: FlowField, particles: Particles, instants: FloatArray
) -> tuple[Particles, FloatArray, FloatArray]:
    """Move particles to the end, and look at them on the way.

    Parameters
    ----------
    field, particles
        As in `move`.
    instants
        Times (f,) ascending.

    Returns
    -------
    particles, positions, congestion
        The particles at time 1, their places (n, f, d) and the factors 1 + |m|/(2λσ) there (n, f).
    """
    moved, positions, factors, _ = _move(field, particles, 1.0, None, instants, record=False)
    return moved, positions, factors


def trace(field: FlowField, particles: Particles, end: float = 1.0) -> tuple[Particles, Paths]:
    """Move particles until a time, and keep their paths.

    Parameters
    ----------
    field, particles, end
        As in `move`.

    Returns
    -------
    particles, paths
        The particles then, and their paths from here.
    """
    moved, _, _, paths = _move(field, particles, end, None, None, record=True)
    assert paths is not None
    return moved, paths


def _move(
    field: FlowField,
    particles: Particles,
    end: float,
    deposits: Deposits | None,
    instants: FloatArray | None,
    *,
    record: bool,
) -> tuple[Particles, FloatArray, FloatArray, Paths | None]:
    number, dimension = particles.number, field.dimension
    offsets: IntArray = np.zeros(0, dtype=np.int64)
    points, marks = np.zeros((0, dimension)), np.zeros((0, 3))
    paths = None
    if record:
        # Once to count, once to keep.
        ahead, _, _, _ = _move(field, particles, end, None, None, record=False)
        counts = ahead.crossings - particles.crossings + 2
        offsets = np.concatenate([[0], np.cumsum(counts)])
        points, marks = np.empty((offsets[-1], dimension)), np.empty((offsets[-1], 3))
    left = deposits or no_deposits(field)
    instants = np.zeros(0) if instants is None else np.asarray(instants, dtype=np.float64)
    positions = np.empty((number, len(instants), dimension))
    factors = np.empty((number, len(instants)))
    moved = replace(
        particles, **{name: getattr(particles, name).copy() for name in vars(particles)}
    )
    small, per_side = _CROSSINGS
    most = small + per_side * round(len(field.cells) ** (1.0 / dimension))
    walk(
        field.vertices,
        field.cells,
        field.neighbours,
        field.rates,
        field.source,
        field.target,
        field.growth,
        field.compliance,
        float(end),
        most,
        moved.cell,
        moved.barycentric,
        moved.time,
        moved.mass,
        moved.length,
        moved.cost,
        moved.work,
        moved.crossings,
        left.displacement,
        left.exchanged,
        instants,
        positions,
        factors,
        offsets[:-1],
        points,
        marks,
    )
    if record:
        time, cost, congestion = np.ascontiguousarray(marks.T)
        paths = Paths(offsets, points, time, cost, congestion)
    return moved, positions, factors, paths
