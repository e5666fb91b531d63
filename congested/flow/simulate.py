"""Many particles, batch by batch: what they carry, where they arrive, and how sure that is.

A batch is drawn from its own random numbers and shared out over the ranks, so that the particles
do not depend on how many ranks there are, and a simulation that goes on after a stop repeats an
undisturbed one. What is kept does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested.flow.field import FlowField
from congested.flow.particles import Particles, draw_particles, move, no_deposits
from congested.geometry import FloatArray, IntArray
from congested.io.arrays import gather_rows

# At least so many batches, whose spread gives the error bars, and at most so many particles in one.
_BATCHES, _LARGEST = 16, 1 << 17
# Particles whose start and end are kept, for what is found out from single paths.
_SAMPLE = 100_000


@dataclass(frozen=True)
class Plan:
    """How many particles there will be, and from which random numbers.

    Attributes
    ----------
    particles
        Their number N.
    seed
        Seed of the random numbers.
    """

    particles: int
    seed: int = 0

    @property
    def batches(self) -> int:
        """Number of batches."""
        return max(min(_BATCHES, self.particles), -(-self.particles // _LARGEST))

    def size(self, batch: int) -> int:
        """Return the number of particles in a batch."""
        return self.until(batch + 1) - self.until(batch)

    def until(self, batch: int) -> int:
        """Return the number of particles before a batch."""
        return self.particles * batch // self.batches

    def draw(self, field: FlowField, batch: int) -> Particles:
        """Draw the particles of a batch, whose masses sum to its share of the source's."""
        generator = np.random.default_rng([self.seed, batch])
        number = self.size(batch)
        mass = float(field.volume @ field.source) * number / self.particles
        return draw_particles(field, number, generator, mass)


@dataclass(frozen=True, eq=False)
class Tally:
    """What the particles of the first batches left behind, on rank 0.

    Attributes
    ----------
    batches, particles
        How many of each.
    displacement, exchanged
        As in `Deposits`: (C, d), (C, 2).
    arrived
        Mass that ended in each cell (C,).
    contrast
        The displacement (C, d) of the first, third, fifth … batch less that of the others: what
        chance alone does.
    sums
        Sums over particles, named in `SUMS`: mass at the start, at the end, and what of that did
        not arrive, the two of `Particles.work`, squares of these and of the mass at the end, and
        crossings.
    most_crossings
        The largest number of crossings.
    history
        For each batch (batches, 4) the errors of the momentum and of the arrivals: of the batch
        alone, then of all until then; as sums over cells, not relative.
    sample_cells, sample_numbers
        Of the first particles (s, 2) the cells of start and end, and (s, 2 d + 8) their
        barycentric coordinates there, then mass at the end, length, cost, time, and work.
    """

    batches: int
    particles: int
    displacement: FloatArray
    exchanged: FloatArray
    arrived: FloatArray
    contrast: FloatArray
    sums: FloatArray
    most_crossings: int
    history: FloatArray
    sample_cells: IntArray
    sample_numbers: FloatArray

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything as arrays by name, as a checkpoint keeps it."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    def sample(self) -> tuple[Particles, Particles]:
        """Return the first particles at their starts and at their ends."""
        corners = (self.sample_numbers.shape[1] - 6) // 2
        start, end = self.sample_numbers[:, :corners], self.sample_numbers[:, corners:-6]
        mass, length, cost, time = self.sample_numbers[:, -6:-2].T
        work = self.sample_numbers[:, -2:]
        number = len(mass)
        crossings = np.zeros(number, dtype=np.int64)
        zero = np.zeros(number)
        share = np.full(number, self.sums[0] / max(self.particles, 1))
        first, last = self.sample_cells.T
        return (
            Particles(first, start, zero, share, zero, zero, np.zeros((number, 2)), crossings),
            Particles(last, end, time, mass, length, cost, work, crossings),
        )


#: Names of the entries of `Tally.sums`.
SUMS = (
    "start",
    "end",
    "unfinished",
    "length",
    "cost",
    "length_squares",
    "cost_squares",
    "end_squares",
    "crossings",
)


def empty_tally(field: FlowField) -> Tally:
    """Return the tally of no particles."""
    left = no_deposits(field)
    cells, corners = field.cells.shape
    return Tally(
        batches=0,
        particles=0,
        displacement=left.displacement,
        exchanged=left.exchanged,
        arrived=np.zeros(cells),
        contrast=np.zeros_like(left.displacement),
        sums=np.zeros(len(SUMS)),
        most_crossings=0,
        history=np.zeros((0, 4)),
        sample_cells=np.zeros((0, 2), dtype=np.int64),
        sample_numbers=np.zeros((0, 2 * corners + 6)),
    )


def tally_from_arrays(arrays: dict[str, npt.NDArray[np.generic]]) -> Tally:
    """Return what `Tally.arrays` was made from."""
    counts = {name: int(arrays[name]) for name in ("batches", "particles", "most_crossings")}
    return Tally(**(arrays | counts))  # type: ignore[arg-type]


def simulate(
    field: FlowField,
    plan: Plan,
    comm: MPI.Comm,
    *,
    tally: Tally | None = None,
    stop: Callable[[], bool] | None = None,
    after_batch: Callable[[Tally | None, int], None] | None = None,
) -> Tally:
    """Move the particles of a plan (collective).

    Parameters
    ----------
    field
        The flow, the same on every rank.
    plan
        How many particles.
    comm
        Communicator over which the particles are shared out.
    tally
        From which to go on, on every rank; only rank 0 needs its arrays.
    stop
        Asked, on every rank and with one answer, before each batch but the first.
    after_batch
        Told the tally, on rank 0 (None on the others), and the number of batches done.

    Returns
    -------
    Tally
        Of all batches, or of those before the stop. Sums over cells and the sample are those of
        all ranks on rank 0, and of no use on the others.
    """
    tally = tally or empty_tally(field)
    started = tally.batches
    for batch in range(started, plan.batches):
        if batch > started and stop is not None and stop():
            break
        tally = _with_batch(field, plan, comm, tally, batch)
        if after_batch is not None:
            after_batch(tally if comm.rank == 0 else None, batch + 1)
    return tally


def _with_batch(field: FlowField, plan: Plan, comm: MPI.Comm, tally: Tally, batch: int) -> Tally:
    """Return the tally with one more batch (collective)."""
    drawn = plan.draw(field, batch)
    number = drawn.number
    own = slice(comm.rank * number // comm.size, (comm.rank + 1) * number // comm.size)
    starts = drawn.part(own)
    deposits = no_deposits(field)
    ends = move(field, starts, deposits=deposits)
    arrived = arrivals(field, ends)
    length, cost = ends.work.T
    sums = np.array(
        [
            starts.mass.sum(),
            ends.mass.sum(),
            ends.mass[~ends.arrived()].sum(),
            length.sum(),
            cost.sum(),
            (length**2).sum(),
            (cost**2).sum(),
            (ends.mass**2).sum(),
            float(ends.crossings.sum()),
        ]
    )
    most = comm.allreduce(int(ends.crossings.max(initial=0)), op=MPI.MAX)
    for values in (deposits.displacement, deposits.exchanged, arrived, sums):
        _sum_on_root(comm, values)

    alone = _errors(field, deposits.displacement, arrived, number / plan.particles)
    total, total_arrived = tally.displacement + deposits.displacement, tally.arrived + arrived
    share = plan.until(batch + 1) / plan.particles
    together = _errors(field, total, total_arrived, share)
    sign = 1.0 - 2.0 * (batch % 2)
    cells, numbers = tally.sample_cells, tally.sample_numbers
    if tally.particles < _SAMPLE:
        cells, numbers = _with_sample(comm, tally, starts, ends)
    return Tally(
        batches=batch + 1,
        particles=tally.particles + number,
        displacement=total,
        exchanged=tally.exchanged + deposits.exchanged,
        arrived=total_arrived,
        contrast=tally.contrast + sign * deposits.displacement,
        sums=tally.sums + sums,
        most_crossings=max(tally.most_crossings, most),
        history=np.concatenate([tally.history, [[*alone, *together]]]),
        sample_cells=cells,
        sample_numbers=numbers,
    )


def _sum_on_root(comm: MPI.Comm, values: FloatArray) -> None:
    if comm.rank == 0:
        comm.Reduce(MPI.IN_PLACE, values, op=MPI.SUM)
    else:
        comm.Reduce(values, None, op=MPI.SUM)


def arrivals(field: FlowField, ends: Particles) -> FloatArray:
    """Return the mass of particles in each cell (C,)."""
    found = np.bincount(ends.cell, ends.mass, minlength=len(field.cells))
    return np.asarray(found, dtype=np.float64)


def arrivals_difference(field: FlowField, arrived: FloatArray, share: float) -> float:
    """Return Σ_T |arrived − ν_T|, from masses (C,) that are a share of all."""
    return float(np.abs(arrived / share - field.volume * field.target).sum())


def _errors(
    field: FlowField, displacement: FloatArray, arrived: FloatArray, share: float
) -> tuple[float, float]:
    """Return Σ_T |Σ mass δx − ∫_T m| and Σ_T |arrived − ν_T|, from a share of the mass."""
    momentum = np.linalg.norm(displacement / share - field.momentum, axis=1).sum()
    return float(momentum), arrivals_difference(field, arrived, share)


def _with_sample(
    comm: MPI.Comm, tally: Tally, starts: Particles, ends: Particles
) -> tuple[IntArray, FloatArray]:
    """Return the sample with the particles of a batch (collective)."""
    cells = gather_rows(comm, np.stack([starts.cell, ends.cell], axis=1))
    numbers = np.column_stack([ends.mass, ends.length, ends.cost, ends.time, ends.work])
    rows = gather_rows(
        comm, np.concatenate([starts.barycentric, ends.barycentric, numbers], axis=1)
    )
    if cells is None or rows is None:
        return tally.sample_cells, tally.sample_numbers
    cells = np.concatenate([tally.sample_cells, cells])[:_SAMPLE]
    return cells, np.concatenate([tally.sample_numbers, rows])[:_SAMPLE]
