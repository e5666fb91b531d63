"""Short tables for people on stdout: the results of a run, and what the package runs on."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from congested.parallel import output_console

if TYPE_CHECKING:
    from mpi4py import MPI


def plain_table(title: str = "") -> Table:
    """Return a table of names and texts without a header."""
    table = Table(box=box.SIMPLE, show_header=False, title=title or None, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def show(table: Table) -> None:
    """Print a table; whoever reads stdout may have left."""
    try:
        output_console().print(table)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _figure(value: object, spelling: str = ".6g") -> str:
    """Return a number as text; what is not known (null, NaN) is a dash, "inf" stays a word."""
    if isinstance(value, (int, float)) and not math.isnan(value):
        return format(value, spelling)
    return "-" if value is None or isinstance(value, float) else str(value)


def result_table(result: Mapping[str, Any], directory: Path) -> Table:
    """Return the short table of results.

    Parameters
    ----------
    result
        Content of result.json.
    directory
        Where it was written.
    """

    def entry(*path: str) -> Any:
        value: Any = result
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    bounds = f"{_figure(entry('bounds', 'lower'), '.8g')} .. "
    bounds += _figure(entry("bounds", "upper"), ".8g")
    strength = _figure(entry("problem", "penalty", "strength"))
    levels, cells = entry("mesh", "levels"), entry("mesh", "cells")
    peak = entry("peak_memory_bytes")
    memory = "-" if peak is None else f"{peak / 2**20:,.0f} MiB"
    table = plain_table(str(entry("title") or ""))
    for name, text in (
        ("status", str(entry("status"))),
        (f"cost (strength {strength})", _figure(entry("values", "cost"), ".8g")),
        ("  certified bounds", f"{bounds} ({entry('bounds', 'scope') or '-'})"),
        ("  relative gap", _figure(entry("bounds", "relative_gap"), ".2e")),
        ("critic loss L", _figure(entry("values", "critic_loss"))),
        ("penalty P", _figure(entry("values", "penalty"))),
        ("momentum ∫|m|", _figure(entry("values", "momentum_l1"))),
        ("cells", f"{_figure(cells, ',')} ({_figure(levels)} level{'' if levels == 1 else 's'})"),
        ("seconds", f"{_figure(entry('seconds', 'total'), '.1f')} (peak memory {memory})"),
        ("files", f"{directory}/"),
    ):
        table.add_row(name, Text(text))
    return table


def weight_table(result: Mapping[str, Any], directory: Path) -> Table:
    """Return the short table of a weight.

    Parameters
    ----------
    result
        Content of weight.json.
    directory
        Where it was written.
    """
    mass, lost, segments = result["mass"], result["lost"], result["samples"]
    part = f" ({lost / (mass + lost):.2%})" if lost > 1e-4 * mass else ""
    table = plain_table(str(result["title"]))
    for name, text in (
        ("mass", _figure(mass, ".8g")),
        ("  lost outside", _figure(lost, ".2g") + part),
        ("least density", _figure(result["min"])),
        ("greatest density", _figure(result["max"])),
        ("relative error", _figure(result["relative_error"], ".2g")),
        ("method", str(result["method"])),
        ("segments", _figure(segments, ",") if segments else "-"),
        ("cells", _figure(result["mesh"]["cells"], ",")),
        ("seconds", _figure(result["seconds"], ".1f")),
        ("files", f"{directory}/"),
    ):
        table.add_row(name, Text(text))
    return table


def compare_table(result: Mapping[str, Any], directory: Path) -> Table:
    """Return the table of critics, the best first.

    Parameters
    ----------
    result
        Content of compare.json.
    directory
        Where it was written.
    """
    reference = result["reference"]
    bounds = f"{_figure(reference['lower'], '.8g')} .. {_figure(reference['upper'], '.8g')}"
    infinite = math.isinf(float(reference["strength"]))
    # For W₁ there is no weight and a critic has no momentum; most need to be made less steep.
    measure = "source" if infinite else "weight"
    last = "D(cf)" if infinite else "|m−m_f|"
    explained = "D(cf) of the best multiple" if infinite else "|m−m_f| relative to |m|"
    # Where a cell has too many pieces, D is known from two quadrature rules alone.
    estimated = [_by_quadrature(critic) for critic in result["critics"].values()]
    quadrature = "≈: integrated by quadrature, an estimate\n" if any(estimated) else ""
    certified = "" if estimated and all(estimated) else "certified, "
    table = Table(
        box=box.SIMPLE,
        title=f"{result.get('title') or 'critics'}: cost {bounds} (λ = "
        f"{'∞' if infinite else _figure(reference['strength'])})",
        title_justify="left",
        caption=f"L critic loss, P one-sided penalty, D = L − P; lost: what D lacks to the "
        f"best,\n{certified}in % of the cost; cosine and |∇f| are means under the {measure}\n"
        f"(|∇u| of the solution: {_solution_norm(result, measure)}); {explained}\n"
        f"{quadrature}files: {directory}/",
        caption_justify="left",
    )
    table.add_column("critic", overflow="fold")  # it makes room for the numbers
    for name in ("L", "P", "D", "lost", "cosine", "|∇f|", last):
        table.add_column(name, justify="right", no_wrap=True)
    for name, critic in result["critics"].items():
        norms = critic["mean_gradient_norm"]
        best = critic["best_multiple"]["dual_value"]
        table.add_row(
            Text(name + (" (−)" if critic["sign"] < 0 else "")),
            _figure(critic["critic_loss"], ".4g"),
            _figure(critic["penalty"], ".3g"),
            _figure(critic["dual_value"], ".4g"),
            _percents(critic["relative_suboptimality"], estimated=_by_quadrature(critic)),
            _figure(critic["cosine"][measure], ".3f"),
            _figure(norms["critic"][measure], ".4g"),
            _figure(best, ".4g") if infinite else _figure(critic["momentum_relative_l1"], ".3g"),
        )
    return table


def flow_table(
    flow: Mapping[str, Any], wardrop: Mapping[str, Any] | None, directory: Path
) -> Table:
    """Return the short table of a flow.

    Parameters
    ----------
    flow, wardrop
        Content of flow.json and, if there is one, of wardrop.json.
    directory
        Where they were written.
    """
    mass, critic = flow["mass"], flow["critic"]
    rows = [] if critic is None else [("critic", str(critic))]
    rows += [
        ("status", f"{flow['status']}: {flow['reason']}"),
        ("particles", _figure(flow["particles"], ",")),
        ("momentum error", _with_chance(flow, "momentum")),
        ("  falls like", f"particles^{_figure(flow['convergence']['exponent'], '.2f')}"),
    ]
    if critic is None:
        rows.append(("arrivals error", _with_chance(flow, "pushforward")))
        rows.append(("  W1 to the target", _distances(flow["pushforward_wasserstein1"])))
    length = f"{_estimate(flow['mean_path_length'])} (momentum L1 {_figure(flow['momentum_l1'])})"
    rows.append(("mean path length", length))
    rows.append(("mean path cost", _estimate(flow["mean_path_cost"])))
    rows.append(("mass at the end", _figure(mass["end"], ".10g")))
    if mass["unfinished"]:
        rows.append(("  lost on the way", _figure(mass["unfinished"], ".2g")))
    if critic is not None:
        rows += _critic_rows(flow)
    if wardrop is not None:
        excess, violation = (
            _relative(wardrop[f"max_relative_{name}"]) for name in ("excess", "violation")
        )
        pairs = f"{wardrop['pairs']:,} pairs of {wardrop['sources']} starts"
        rows.append(("path cost less potential", f"{excess} at most, for 99 % of the mass"))
        rows.append(("potential less distance", f"{violation} at most, for 99 % of {pairs}"))
    rows += [("seconds", _figure(flow["seconds"], ".1f")), ("files", f"{directory}/")]
    table = plain_table(str(flow.get("title") or ""))
    for name, text in rows:
        table.add_row(name, Text(text))
    return table


def _critic_rows(flow: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a critic makes of the mass."""
    mass, kept, lost = flow["mass"], flow["masses_kept"], flow["imbalance"]["critic"]
    boxes = ", ".join(_figure(value, ".3g") for value in lost["lost"][1:])
    sides = ", ".join(_figure(value, ".2g") for value in lost["scale"][1:])
    # With masses that grow and shrink arrivals are right whatever the critic; kept ones tell.
    return [
        ("  made, lost", f"{_figure(mass['created'])}, {_figure(mass['lost'])} by particles"),
        ("  as good as", f"{_figure(flow['effective_particles'], ',.0f')} particles of one mass"),
        ("momentum loses", f"{_figure(lost['lost'][0], '.3g')} in cells"),
        ("  seen in boxes", f"{boxes} (of side {sides})"),
        ("arrivals, masses kept", _with_chance(kept, "pushforward")),
        ("  W1 to the target", _distances(kept["pushforward_wasserstein1"])),
    ]


def _with_chance(table: Mapping[str, Any], name: str) -> str:
    """Return an error in L1, with its error bar if there is one, and what chance makes of it."""
    text = _figure(table[f"{name}_relative_l1"], ".4g")
    error = table.get(f"{name}_relative_l1_error")
    if error is not None:
        text += f" ± {_figure(error, '.1g')}"
    return f"{text} (relative L1; by chance {_figure(table[f'{name}_relative_l1_chance'], '.4g')})"


def _distances(table: Mapping[str, Any] | None) -> str:
    if table is None:
        return "- (too few particles)"
    return f"{_estimate(table)} (two samples of it: {_estimate(table['two_samples_of_target'])})"


def _estimate(entry: Mapping[str, Any]) -> str:
    return f"{_figure(entry['value'])} ± {_figure(entry['standard_error'], '.1g')}"


def _relative(value: float) -> str:
    return f"{_figure(100.0 * value, '.2g')} %"


def _by_quadrature(critic: Mapping[str, Any]) -> bool:
    return bool(critic["integration"]["method"] == "quadrature")


def _percents(interval: Mapping[str, float], *, estimated: bool) -> str:
    lower, upper = 100.0 * interval["lower"], 100.0 * interval["upper"]
    if not math.isfinite(upper):
        return "-" if math.isnan(upper) else "inf"
    return ("≈" if estimated else "") + f"{lower:.3g}..{upper:.3g}"


def _solution_norm(result: Mapping[str, Any], measure: str) -> str:
    """Return the mean |∇u|, which the report of each critic repeats."""
    for critic in result["critics"].values():
        return _figure(critic["mean_gradient_norm"]["solution"][measure], ".4f")
    return "-"


def info_table(comm: MPI.Comm) -> Table:
    """Return what this process runs on: versions, solvers, ranks."""
    import dolfinx
    import mpi4py
    import numpy as np
    from mpi4py import MPI
    from petsc4py import PETSc

    from congested.version import __version__

    packages = {name: PETSc.Sys.hasExternalPackage(name) for name in ("hypre", "mumps")}
    table = plain_table()
    for name, text in {
        "congested": __version__,
        "dolfinx": dolfinx.__version__,
        "petsc": ".".join(str(part) for part in PETSc.Sys.getVersion()),
        "petsc scalars": np.dtype(PETSc.ScalarType).name,
        **{name: "yes" if there else "no" for name, there in packages.items()},
        "adios2 (vtx files)": "yes" if dolfinx.has_adios2 else "no",
        "mpi": MPI.Get_library_version().split(",")[0].strip(),
        "mpi4py": mpi4py.__version__,
        "python": sys.version.split()[0],
        "ranks": str(comm.size),
        "cores for rank 0": str(_cores()),
        "threads per rank": os.environ.get("OMP_NUM_THREADS", "not limited (OMP_NUM_THREADS)"),
    }.items():
        table.add_row(name, Text(text))
    return table


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
