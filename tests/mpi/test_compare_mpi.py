"""Critics held against a solution do not depend on the number of ranks. Run with any number.

The same critics are evaluated on all ranks together and on each rank alone, in one run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import congested as ct
from congested.comparison import Comparison, compare
from congested.critics.network import Activation, FunctionCritic, Network
from congested.critics.reference import Reference, reference_from_arrays
from congested.errors import CongestedError, InputError
from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays

WORLD = MPI.COMM_WORLD


def gaussian(std: float, *mean: float) -> ct.GaussianMixture:
    return ct.GaussianMixture.from_stds(np.array([mean]), np.array([std]))


def network(dimension: int, activation: Activation = Activation.RELU) -> Network:
    random = np.random.default_rng(3)
    sizes = ((6, dimension), (5, 6), (1, 5))
    return Network(
        tuple(random.normal(size=size) for size in sizes),
        tuple(random.normal(size=size[0]) for size in sizes),
        activation,
    )


@cache
def solution(name: str) -> ct.Solution:
    """Return a solution that all ranks share."""
    box = ct.Box((0.0, 0.0), (1.0, 1.0), 1 if name == "four cells" else 6)
    pair = gaussian(0.1, 0.35, 0.4), gaussian(0.1, 0.65, 0.6)
    settings: dict[str, Any] = {"lower_bound": "p2" if name == "p2" else "p1"}
    strength = math.inf if name == "w1" else 10.0
    if name == "cube":
        box = ct.Box((0.0,) * 3, (1.0,) * 3, 2)
        pair = gaussian(0.12, 0.4, 0.4, 0.4), gaussian(0.12, 0.6, 0.6, 0.5)
    output = ct.OutputOptions(overview=False)
    problem = ct.Problem(box, *pair, strength=strength, title=name, output=output)
    return ct.solve(problem, comm=WORLD, refine="none", **settings)


def critics(dimension: int) -> dict[str, Any]:
    return {
        "exact": network(dimension),
        "smooth": network(dimension, Activation.SILU).scaled(-1.0),
    }


def numbers(content: Any, place: str = "") -> dict[str, Any]:
    """Return the leaves of a report by their place, but for the seconds."""
    if isinstance(content, Mapping):
        parts = [numbers(part, f"{place}.{key}") for key, part in content.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {} if place.endswith("seconds") else {place: content}


def check_equal(one: Comparison, other: Comparison) -> None:
    found, expected = numbers(one.result()), numbers(other.result())
    assert found.keys() == expected.keys()
    for place, value in expected.items():
        if isinstance(value, float):
            # Sums in another order; errors are of sums that nearly vanish.
            assert found[place] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), place
        else:
            assert found[place] == value, place


def alone(name: str) -> Reference:
    """Return the same solution on each rank alone."""
    together = ct.compare(solution(name), {}).reference
    arrays: ResultArrays = WORLD.bcast(together.arrays)
    return reference_from_arrays(arrays, together.result, MPI.COMM_SELF)


@pytest.mark.parametrize("name", ["plane", "p2", "w1", "cube", "four cells"])
def test_same_numbers_on_any_number_of_ranks(name: str) -> None:
    serial = alone(name)
    dimension = serial.dimension
    together = compare(solution(name), critics(dimension))
    expected = compare(serial, critics(dimension))
    check_equal(together, expected)
    # All ranks have the same, and rank 0 the fields.
    texts = WORLD.allgather(json.dumps(numbers(together.result())))
    assert texts == texts[:1] * WORLD.size
    for one, other in zip(together.critics, expected.critics, strict=True):
        fields, theirs = one.evaluation.fields, other.evaluation.fields
        assert (fields is not None) == (WORLD.rank == 0)
        if fields is not None and theirs is not None:
            for key in ("value", "gradient_norm", "momentum", "momentum_difference", "indicator"):
                np.testing.assert_allclose(
                    getattr(fields, key), getattr(theirs, key), rtol=1e-9, atol=1e-11
                )


def draw(arrays: ResultArrays, result: Mapping[str, Any], evaluation: Any, file: Path) -> None:
    assert len(evaluation.fields.value) == len(arrays.cells)
    file.write_text(result["name"])


def test_from_a_directory_and_back_into_it(shared_path: Path) -> None:
    solution("p2").write(shared_path)
    read = ct.reference_from_directory(shared_path, WORLD)
    assert (read.arrays is not None) == (WORLD.rank == 0)
    assert WORLD.allreduce(len(read.simplices)) == 144
    comparison = compare(read, critics(2))
    check_equal(comparison, compare(solution("p2"), critics(2)))
    comparison.write(shared_path, draw=draw)
    WORLD.Barrier()
    content = json.loads((shared_path / "compare.json").read_text(encoding="utf-8"))
    assert list(content["critics"]) == [one.name for one in comparison.critics]
    for name, one in content["critics"].items():
        assert (shared_path / one["picture"]).read_text() == name
    WORLD.Barrier()


def test_a_mistake_is_raised_on_all_ranks(shared_path: Path) -> None:
    with pytest.raises(InputError, match=r"result.json: no result here"):
        ct.reference_from_directory(shared_path, WORLD)
    with pytest.raises(InputError, match="wide: critic: found a critic of 3 coordinates"):
        compare(solution("plane"), {"wide": network(3)})

    def value(points: FloatArray) -> FloatArray:
        return np.where(points[:, 0] > 0.9, np.nan, 0.0)  # in the cells of some ranks

    bad = FunctionCritic(2, value, np.zeros_like)
    with pytest.raises(InputError, match="found nan; allowed: finite numbers"):
        compare(solution("plane"), {"bad": bad})

    def fails(*_: object) -> None:
        raise RuntimeError("no paint")

    comparison = compare(solution("plane"), critics(2))
    with pytest.raises(
        CongestedError, match=r"everything but compare_\w+\.png, .* is written.*no paint"
    ):
        comparison.write(shared_path, draw=fails)
    WORLD.Barrier()
    assert [path.name for path in shared_path.iterdir()] == ["compare.json"]
    WORLD.Barrier()
    with pytest.raises(InputError, match="cannot write"):
        comparison.write(shared_path / "compare.json")


def test_too_many_pieces_on_one_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # All ranks decide together, whoever has the cells with the pieces.
    random = np.random.default_rng(0)
    rows = random.normal(size=(12, 2))
    # Kinks near (0.9, 0.9) alone.
    kinks = Network((rows, random.normal(size=(1, 12))), (-0.9 * rows.sum(axis=1), np.zeros(1)))
    monkeypatch.setattr("congested.critics.evaluate._MOST_PIECES", 145)
    (one,) = compare(solution("plane"), {"kinks": kinks}).critics
    assert not one.evaluation.exact
    monkeypatch.undo()
    (one,) = compare(solution("plane"), {"kinks": kinks}).critics
    assert one.evaluation.exact
    assert one.evaluation.pieces > 145
