"""A mass flow does not depend on the number of ranks. Run with any number.

The same flow is computed on all ranks together and on each rank alone, in one run.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import congested as ct
from congested.critics.network import FunctionCritic
from congested.errors import InputError
from congested.flow.field import broadcast_field, flow_field
from congested.flow.simulate import Plan, simulate
from tests.mpi.test_compare_mpi import alone, network, numbers, solution

WORLD = MPI.COMM_WORLD
FEW = ct.FlowOptions(particles=3_001, keep=40, frames=3, paths=10)


@cache
def together(name: str) -> ct.MassFlow:
    return ct.compute_flow(solution(name), options=FEW)


def check_equal(one: ct.MassFlow, other: ct.MassFlow) -> None:
    for found, expected in ((one.result(), other.result()), (one.wardrop, other.wardrop)):
        mine, theirs = numbers(found or {}), numbers(expected or {})
        assert mine.keys() == theirs.keys()
        for place, value in theirs.items():
            if isinstance(value, float):
                assert mine[place] == pytest.approx(value, rel=1e-8, abs=1e-11, nan_ok=True), place
            elif isinstance(value, list):
                np.testing.assert_allclose(mine[place], value, rtol=1e-8, err_msg=place)
            else:
                assert mine[place] == value, place


@pytest.mark.parametrize("name", ["plane", "p2", "w1", "cube"])
def test_same_numbers_on_any_number_of_ranks(name: str) -> None:
    flow = together(name)
    serial = ct.compute_flow(alone(name), options=FEW)
    check_equal(flow, serial)
    texts = WORLD.allgather(json.dumps([numbers(flow.result()), flow.wardrop]))
    assert texts == texts[:1] * WORLD.size
    if WORLD.rank == 0:
        # The very same particles, in the same order but within a batch.
        mine, theirs = flow.tally.sample()[1], serial.tally.sample()[1]
        np.testing.assert_array_equal(mine.cell, theirs.cell)
        np.testing.assert_array_equal(mine.barycentric, theirs.barycentric)
        np.testing.assert_allclose(flow.tally.displacement, serial.tally.displacement, atol=1e-13)
        np.testing.assert_allclose(flow.tally.arrived, serial.tally.arrived, atol=1e-13)


def test_a_critic_on_any_number_of_ranks() -> None:
    critic = network(2)
    flow = ct.compute_flow(solution("plane"), critic, options=FEW)
    check_equal(flow, ct.compute_flow(alone("plane"), critic, options=FEW))


def test_every_rank_has_the_field() -> None:
    arrays = alone("cube").arrays
    assert arrays is not None
    field = flow_field(arrays, 10.0)
    got = broadcast_field(WORLD, field if WORLD.rank == 0 else None)
    for name in ("vertices", "cells", "volume", "neighbours", "flux", "source", "weight"):
        np.testing.assert_array_equal(getattr(got, name), getattr(field, name))
    assert got.strength == 10.0


def test_fewer_particles_than_ranks() -> None:
    arrays = alone("plane").arrays
    assert arrays is not None
    tally = simulate(flow_field(arrays, 10.0), Plan(1), WORLD)
    assert tally.particles == 1
    if WORLD.rank == 0:
        assert tally.arrived.sum() == pytest.approx(1.0)


def test_files_and_a_stop(shared_path: Path) -> None:
    asked: list[int] = []

    def stop() -> str | None:
        asked.append(1)
        return "enough" if len(asked) == 5 else None

    part = ct.compute_flow(solution("plane"), options=FEW, stop=stop, checkpoint=shared_path)
    assert not part.complete
    part.write(shared_path, animation="none")
    WORLD.Barrier()
    content = json.loads((shared_path / "flow.json").read_text(encoding="utf-8"))
    assert content["status"] == "stopped" and content["particles"] == Plan(3_001).until(5)
    WORLD.Barrier()
    rest = ct.compute_flow(solution("plane"), options=FEW, checkpoint=shared_path, resume=True)
    check_equal(rest, together("plane"))
    rest.write(shared_path, animation="none")
    WORLD.Barrier()
    names = {path.name for path in shared_path.iterdir()}
    assert {"flow.json", "wardrop.json", "flow.npz", "flow.png"} <= names
    assert "flow.checkpoint.npz" not in names
    WORLD.Barrier()


def test_a_mistake_is_raised_on_all_ranks(shared_path: Path) -> None:
    wide = FunctionCritic(3, lambda points: points[:, 0], np.ones_like)
    with pytest.raises(InputError, match="3 coordinates"):
        ct.compute_flow(solution("plane"), wide, options=FEW)
    with pytest.raises(InputError, match="a flow that is complete leaves none"):
        ct.compute_flow(solution("plane"), options=FEW, checkpoint=shared_path, resume=True)
    WORLD.Barrier()
    blocked = shared_path / "file"
    if WORLD.rank == 0:
        blocked.touch()
    WORLD.Barrier()
    with pytest.raises(InputError, match="cannot write"):
        together("plane").write(blocked, animation="none")
