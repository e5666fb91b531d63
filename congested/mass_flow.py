"""The mass flow behind a solution, or behind a critic: computed, checked and written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from congested.comparison import reference_of
from congested.critics.evaluate import evaluate
from congested.critics.network import Critic
from congested.critics.reference import Reference
from congested.errors import InputError
from congested.flow.checkpoint import load_tally, save_tally, stored_options
from congested.flow.field import FlowField, broadcast_field, flow_field
from congested.flow.means import flow_field_of_means, imbalance_at_scales
from congested.flow.particles import move
from congested.flow.simulate import Plan, Tally, empty_tally, simulate
from congested.flow.statistics import (
    arrival_distances,
    arrivals_chance,
    arrivals_error,
    statistics,
)
from congested.flow.wardrop import check_equilibrium
from congested.flow_result import FlowOptions, MassFlow
from congested.io.arrays import potential_of_cells
from congested.io.files import on_root
from congested.io.flow import CHECKPOINT

if TYPE_CHECKING:
    from congested.solution import Solution

SCHEMA = 1

# Seconds between checkpoints.
_CHECKPOINT_EVERY = 5.0


def compute_flow(
    solution: Solution | Reference,
    critic: Critic | None = None,
    *,
    name: str = "critic",
    sign: int | None = None,
    options: FlowOptions | None = None,
    progress: Callable[[str], None] | None = None,
    stop: Callable[[], str | None] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    begin: Callable[[], None] | None = None,
    equilibrium: bool = True,
) -> MassFlow:
    """Compute the flow whose time-averaged momentum is that of a solution (collective).

    Parameters
    ----------
    solution
        A solution, or one read by `reference_from_directory`.
    critic
        What `load_critic`, `critic_from_module` or `critic_from_functions` returns; its momentum
        −2λσ(|∇f| − 1)₊∇f/|∇f| is to move the particles instead.
    name, sign
        Of the critic; as in `compare`.
    options
        How many particles, and the like; of a flow that goes on those of the checkpoint are the
        default.
    progress
        Told the name of each step before it begins.
    stop
        Asked between batches and before the paths are held against the cheapest ones, with one
        answer on all ranks: why to stop, or None.
    checkpoint
        Directory for checkpoints, made if it does not exist. One is there after a few seconds and
        after a stop, until a complete flow is written to the directory.
    resume
        Go on from the checkpoint.
    begin
        Called when all that is given has been found good, before the first particle.
    equilibrium
        Whether to hold the paths of a solution against the cheapest ones: most of the time where
        there are less than some million particles. A flow that was stopped is not.

    Returns
    -------
    MassFlow
        The flow; its numbers are the same on every rank.

    Raises
    ------
    InputError
        If the solution is not one, the critic is of another dimension, the checkpoint is not one
        of this flow, or λ = ∞ with a critic.
    """
    started = time.perf_counter()
    reference = _reference(solution)
    comm = reference.comm
    if critic is not None and not hasattr(critic, "dimension"):
        allowed = "what load_critic, critic_from_module or critic_from_functions returns"
        raise InputError(f"found {type(critic).__name__}; allowed: {allowed}", key="critic")
    tell = progress or (lambda step: None)
    file = None if checkpoint is None else Path(checkpoint) / CHECKPOINT
    if resume and file is None:
        raise InputError("found resume without checkpoint; allowed: both", key="resume")
    if options is None and resume and checkpoint is not None:
        options = resumed_options(checkpoint, comm)
    options = options or FlowOptions()
    tell("momentum")
    field, balance = _field(reference, critic, name, sign)
    plan = Plan(options.particles, options.seed)
    tally = empty_tally(field)
    if resume and file is not None:
        found = file
        tally = _resumed(comm, tally, on_root(comm, lambda: load_tally(found, field, plan)))
    if checkpoint is not None:
        place = Path(checkpoint)
        on_root(comm, lambda: place.mkdir(parents=True, exist_ok=True))
    if begin is not None:
        begin()
    reasons: list[str] = []

    def stopped() -> bool:
        reason = None if stop is None else stop()
        if reason is not None:
            reasons.append(reason)
        return reason is not None

    def save(now: Tally | None) -> None:
        on_root(comm, lambda: _save(file, field, now, options))

    tally = _simulated(field, plan, comm, tally, stopped, tell, save)
    wanted = critic is None and equilibrium
    complete = tally.batches == plan.batches
    # The check takes longer than some million particles do.
    if complete and wanted and stopped():
        complete = False
        save(tally if comm.rank == 0 else None)
    numbers: dict[str, Any] = {
        "schema": SCHEMA,
        "title": reference.result.get("title"),
        "critic": None if critic is None else name,
        "status": "done" if complete else "stopped",
        "reason": "all particles have flown" if complete else reasons[-1],
        "planned": options.particles,
        "seed": options.seed,
        "clock": options.clock,
    }
    tell("arrivals")
    numbers |= comm.bcast(on_root(comm, lambda: _numbers(field, plan, tally)))
    if critic is not None:
        tell("the same masses")
        numbers["imbalance"] = balance
        numbers["masses_kept"] = comm.bcast(on_root(comm, lambda: _masses_kept(field, plan, tally)))
    wardrop = None
    if critic is None:
        tell("shortest paths")
    if wanted and complete:
        wardrop = comm.bcast(on_root(comm, lambda: _wardrop(reference, field, tally)))
    numbers["seconds"] = comm.allreduce(time.perf_counter() - started, op=MPI.MAX)
    return MassFlow(
        reference=reference,
        options=options,
        critic=None if critic is None else name,
        field=field,
        tally=tally,
        numbers=numbers,
        wardrop=wardrop,
        complete=complete,
    )


def _reference(solution: Solution | Reference) -> Reference:
    """Return a solution as critics see it (collective)."""
    if isinstance(solution, Reference):
        return solution
    if not hasattr(solution, "mesh"):
        allowed = "a Solution, or what reference_from_directory returns"
        raise InputError(f"found {type(solution).__name__}; allowed: {allowed}", key="solution")
    return reference_of(solution)


def resumed_options(
    directory: str | Path, comm: MPI.Comm, given: Mapping[str, Any] | None = None
) -> FlowOptions:
    """Return the options of a flow that was stopped, but for those that are given (collective).

    Raises
    ------
    InputError
        If there is no checkpoint in the directory.
    """
    stored = comm.bcast(on_root(comm, lambda: stored_options(Path(directory) / CHECKPOINT)))
    return FlowOptions(**(stored | dict(given or {})))


def steps(options: FlowOptions, *, critic: bool) -> int:
    """Return how many steps `compute_flow` tells its progress."""
    return Plan(options.particles, options.seed).batches + 3 + critic


def _field(
    reference: Reference, critic: Critic | None, name: str, sign: int | None
) -> tuple[FlowField, dict[str, Any] | None]:
    """Return the flow field on every rank, and how far from a balance a critic's is."""
    comm, arrays, strength = reference.comm, reference.arrays, reference.strength
    if critic is None:
        found = on_root(comm, lambda: None if arrays is None else flow_field(arrays, strength))
        return broadcast_field(comm, found), None
    if math.isinf(strength):
        text = "found a solution with λ = ∞, for which a critic has no momentum"
        raise InputError(f"{text}; allowed: finite λ", key="critic")
    try:
        evaluation = evaluate(reference, critic, sign=sign)
    except InputError as error:
        raise InputError(error.message, key=error.key, file=error.file or name) from error

    def build() -> tuple[FlowField, dict[str, Any]] | None:
        if arrays is None or evaluation.fields is None:
            return None
        own = flow_field_of_means(arrays, strength, evaluation.fields.momentum)
        solved = flow_field_of_means(arrays, strength, arrays.momentum)
        return own, {"critic": imbalance_at_scales(own), "solution": imbalance_at_scales(solved)}

    built = on_root(comm, build)
    field, balance = built if built is not None else (None, None)
    return broadcast_field(comm, field), comm.bcast(balance)


def _resumed(comm: MPI.Comm, empty: Tally, found: Tally | None) -> Tally:
    """Return the tally from which to go on: rank 0 has all of it, the others its counts."""
    counts = comm.bcast(None if found is None else (found.batches, found.particles))
    if found is not None:
        return found
    return replace(empty, batches=counts[0], particles=counts[1])


def _simulated(
    field: FlowField,
    plan: Plan,
    comm: MPI.Comm,
    tally: Tally,
    stop: Callable[[], bool],
    tell: Callable[[str], None],
    save: Callable[[Tally | None], None],
) -> Tally:
    """Move the particles, with checkpoints (collective)."""
    for batch in range(tally.batches):
        tell(f"particles, batch {batch + 1}")
    last = time.perf_counter()

    def after_batch(now: Tally | None, done: int) -> None:
        nonlocal last
        if done < plan.batches:
            tell(f"particles, batch {done + 1}")
        due = comm.bcast(time.perf_counter() - last > _CHECKPOINT_EVERY)
        if due:
            save(now)
            last = time.perf_counter()

    if tally.batches < plan.batches:
        tell(f"particles, batch {tally.batches + 1}")
    tally = simulate(field, plan, comm, tally=tally, stop=stop, after_batch=after_batch)
    if tally.batches < plan.batches:
        save(tally if comm.rank == 0 else None)
    return tally


def _save(file: Path | None, field: FlowField, tally: Tally | None, options: FlowOptions) -> None:
    """Keep a tally, where it is and there is a place for it."""
    if file is not None and tally is not None:
        save_tally(file, field, tally, vars(options))


def _numbers(field: FlowField, plan: Plan, tally: Tally) -> dict[str, Any]:
    """Return what the particles say (on rank 0)."""
    distances = arrival_distances(field, tally.sample()[1], plan.seed)
    return {
        **statistics(field, plan, tally).result(),
        "pushforward_wasserstein1": None if distances is None else distances.result(),
    }


def _masses_kept(field: FlowField, plan: Plan, tally: Tally) -> dict[str, Any]:
    """Return where the first particles end if no mass is made or lost on the way (on rank 0)."""
    still = replace(field, growth=np.zeros(len(field.cells)))
    ends = move(still, tally.sample()[0])
    distances = arrival_distances(still, ends, plan.seed)
    return {
        "particles": ends.number,
        "pushforward_relative_l1": arrivals_error(still, ends),
        "pushforward_relative_l1_chance": arrivals_chance(still, ends.number),
        "pushforward_wasserstein1": None if distances is None else distances.result(),
    }


def _wardrop(reference: Reference, field: FlowField, tally: Tally) -> dict[str, Any] | None:
    """Return the content of wardrop.json (on rank 0)."""
    if reference.arrays is None:
        return None
    potential, edges = potential_of_cells(reference.arrays)
    starts, ends = tally.sample()
    return check_equilibrium(field, potential, starts, ends, potential_edges=edges).result()
