"""Count points on segments between independent pairs of samples, cell by cell: the weight by force.

    .venv/bin/python scripts/make_brute_force.py [PAIR …]

writes tests/weights/brute_force.npz, against which the tests hold every rule that computes the
weight: for each pair of measures of tests/weights/pairs.py the number of points (1 − t) x + t y in
each cell, with x, y and t drawn independently. 10⁸ draws of a pair take about a minute.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from congested.cell_search import CellBins
from congested.geometry import Cells, IntArray
from congested.measures.base import Measure

ROOT = Path(__file__).resolve().parents[1]
DRAWS, SEED = 10**8, 20_211
_CHUNK = 1 << 18


def load_pairs() -> ModuleType:
    """Return the module with the pairs, which belongs to the tests."""
    path = ROOT / "tests" / "weights" / "pairs.py"
    specification = importlib.util.spec_from_file_location("pairs", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def count(source: Measure, target: Measure, cells: Cells, draws: int, seed: list[int]) -> IntArray:
    """Return how many of the points on random segments lie in each cell."""
    generator = np.random.default_rng(seed)
    bins = CellBins(cells)
    counts = np.zeros(cells.number, dtype=np.int64)
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        x = source.sample(generator.random((size, source.sample_dimension)))
        y = target.sample(generator.random((size, target.sample_dimension)))
        t = generator.random((size, 1))
        holder, _ = bins.locate((1.0 - t) * x + t * y)
        counts += np.bincount(holder[holder >= 0], minlength=cells.number)
    return counts


def main(argv: list[str] | None = None) -> None:
    """Count all pairs, or those that are named, and keep the others' counts."""
    module = load_pairs()
    pairs = module.pairs()
    parser = argparse.ArgumentParser(description="Count the weights of the tests by brute force.")
    parser.add_argument("names", nargs="*", metavar="PAIR", help=", ".join(pairs))
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args(argv)
    stored: dict[str, IntArray] = {}
    if arguments.names and module.BRUTE_FORCE.exists():
        with np.load(module.BRUTE_FORCE) as file:
            stored = dict(file)
    for number, (name, (source, target, cells)) in enumerate(pairs.items()):
        if arguments.names and name not in arguments.names:
            continue
        started = time.perf_counter()
        counts = count(source, target, cells, arguments.draws, [SEED, number])
        stored[name] = counts.astype(np.int32)
        print(f"{name}: {counts.sum():,} inside, {time.perf_counter() - started:.0f} s", flush=True)
    stored |= {"draws": np.array(arguments.draws), "seed": np.array(SEED)}
    np.savez_compressed(module.BRUTE_FORCE, **stored)


if __name__ == "__main__":
    main()
