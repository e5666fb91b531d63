"""Peers of scripts/benchmark.py for W₁ between weighted points: POT and GeomLoss.

Each run is a process of its own, because network simplex and Sinkhorn's loop can be stopped in no
other way: with a limit of processor seconds and one of memory.

    python peer_pot.py POINTS.npz METHOD REGULARISATION SECONDS GIBIBYTES

reads ``source``, ``target`` (points) and ``source_masses``, ``target_masses``, and prints JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# POT imports every array library that it finds, GeomLoss needs one: nothing is to be timed there.
_BACKENDS = ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")

# Method → package that has it.
PACKAGES = {"emd": "ot", "sinkhorn": "ot", "geomloss": "geomloss"}
NAMES = {"ot": "POT", "geomloss": "GeomLoss"}


def point_cost(
    points: dict[str, np.ndarray],
    method: str,
    regularisation: float = 0.0,
    seconds: int = 300,
    gibibytes: float = 8.0,
) -> dict[str, Any]:
    """Compute W₁ between weighted points in a process with limits.

    Parameters
    ----------
    points
        ``source`` (m, d), ``target`` (n, d) and their masses ``source_masses``, ``target_masses``.
    method
        "emd" (network simplex), "sinkhorn" (POT, stabilised), "geomloss" (debiased Sinkhorn).
    regularisation
        Length: the entropic term of POT, the blur of GeomLoss.
    seconds, gibibytes
        Limits of processor seconds and of memory.

    Returns
    -------
    dict
        ``cost``, ``seconds`` (cost matrix included, import not), ``gibibytes``; or ``missing``
        with the reason why there is no cost.
    """
    package = PACKAGES[method]
    if importlib.util.find_spec(package) is None:
        return {"missing": f"{NAMES[package]}: not installed"}
    # Two copies of the matrix of distances at the least: no need to find out that it is too much.
    needed = 16.0 * len(points["source"]) * len(points["target"]) / 2**30
    if needed > gibibytes and method != "geomloss":
        return {"missing": f"more than {gibibytes:g} GiB"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.npz"
        np.savez(file, allow_pickle=False, **points)
        limits = (regularisation, seconds, gibibytes)
        environment = os.environ | {f"POT_BACKEND_DISABLE_{name}": "1" for name in _BACKENDS}
        done = subprocess.run(
            [sys.executable, __file__, str(file), method, *map(str, limits)],
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    if "MemoryError" in done.stderr or "bad_alloc" in done.stderr:
        return {"missing": f"more than {gibibytes:g} GiB"}
    if done.returncode < 0:
        return {"missing": f"more than {seconds} s"}
    return {"missing": f"failed: {(done.stderr.splitlines() or ['no message'])[-1]}"}


def _emd(points: dict[str, np.ndarray], regularisation: float) -> float:
    import ot

    distances = ot.dist(points["source"], points["target"], metric="euclidean")
    masses = points["source_masses"], points["target_masses"]
    cost, log = ot.emd2(*masses, distances, numItermax=100_000_000, log=True)
    if log["warning"] is not None:
        raise RuntimeError(log["warning"])
    return float(cost)


def _sinkhorn(points: dict[str, np.ndarray], regularisation: float) -> float:
    import ot

    distances = ot.dist(points["source"], points["target"], metric="euclidean")
    masses = points["source_masses"], points["target_masses"]
    return float(
        ot.sinkhorn2(
            *masses, distances, regularisation, method="sinkhorn_stabilized",
            numItermax=20_000, stopThr=1e-6, warn=False,
        )
    )  # fmt: skip


def _geomloss(points: dict[str, np.ndarray], regularisation: float) -> float:
    import torch
    from geomloss import SamplesLoss

    torch.set_num_threads(1)
    loss = SamplesLoss("sinkhorn", p=1, blur=regularisation, scaling=0.9, backend="tensorized")
    source, target, masses, others = (
        torch.from_numpy(points[name])
        for name in ("source", "target", "source_masses", "target_masses")
    )
    return float(loss(masses, source, others, target))


_METHODS = {"emd": _emd, "sinkhorn": _sinkhorn, "geomloss": _geomloss}


def main(argv: list[str]) -> None:
    """Solve one problem within the limits and print cost, seconds and memory."""
    file, method, regularisation, seconds, gibibytes = argv
    with np.load(file) as stored:
        points = dict(stored)
    if method == "geomloss":
        import geomloss  # noqa: F401
    else:
        import ot  # noqa: F401
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(float(seconds) + used.ru_utime + used.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    # Of address space, of which the libraries take their part before anything is allocated.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = int(float(gibibytes) * 2**30) + mapped
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    start = time.process_time()
    cost = _METHODS[method](points, float(regularisation))
    taken = time.process_time() - start
    # Not ru_maxrss: that is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 2**20
    print(json.dumps({"cost": cost, "seconds": taken, "gibibytes": peak}))


if __name__ == "__main__":
    main(sys.argv[1:])
