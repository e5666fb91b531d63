"""Ten published critics, held against W₁ and against congested transport.

The Wasserstein-1 benchmark (Korotin, Kolesov, Burnaev, NeurIPS 2022, arXiv 2206.07767) trained ten
critics for the pair with D = 2, N = 4 and measured how far each is from the W₁ potential. This
script measures the same checkpoints again, as the paper did and without its rounding, and then
holds them against two references: the W₁ potential, which is known exactly, and the solution of
congested transport with the λ = 10 that the penalised ones were trained with. It writes
published_critics.json, published_critics.csv and published_critics.png; docs/critics.md reads them.

The critics are not part of the project: CONGESTED_PUBLISHED names the folder that holds
w1-benchmark-d2-n4 (default: shared/published beside the project). It runs on one rank.

    .venv/bin/python scripts/study_published_critics.py
    .venv/bin/python scripts/study_published_critics.py --quick --critics wgan-gp wgan-lp
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from critic_readings import PAIR, VARIABLE, published_folder
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mpi4py import MPI
from rich import box
from rich.console import Console
from rich.table import Table

import congested as ct
from congested.critics.network import Critic, Multiple
from congested.geometry import FloatArray
from congested.io.files import atomic_path, write_text
from congested.io.result import json_text
from congested.measures.sampling import Estimate, estimate_mean

SCRIPTS = Path(__file__).resolve().parent
PROBLEM = SCRIPTS / "problems" / "ray_monotone_d2_n4.toml"
# Samples of the paper, behind each number of its table.
PAPER_SAMPLES = 4096
# The paper took these gradients from the solver's mover, which is not published with the critics.
OF_THE_MOVER = ("3p-wgan_rev",)
# Points of a batch for the single-precision distances: the paper's, since it decides how they are
# computed.
BATCH = PAPER_SAMPLES


def read_table(folder: Path) -> dict[str, dict[str, float]]:
    """Return the published metrics by method."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return {
            row.pop(""): {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        }


def settled(critic: Critic, pair: ct.RayMonotonePair) -> Multiple:
    """Return the critic with the sign that makes it high on the source."""
    target = pair.sample_target(np.random.default_rng(1).random((1 << 14, pair.dimension)))
    higher = critic.value(pair.transport(target)).mean() > critic.value(target).mean()
    return Multiple(critic, 1.0 if higher else -1.0)


# --- as the paper measured ------------------------------------------------------------------------


def rounded_gradients(pair: ct.RayMonotonePair, points: FloatArray) -> FloatArray:
    """Return ∇f* as the published tables have it: by distances in single precision.

    PyTorch expands |x − a|² for so many points, which leaves nothing of it within about 1e-3 of a
    tip; there the gradient is zero, and near by it has a wrong length.
    """
    import torch

    centers = torch.tensor(pair.centers, dtype=torch.float32)
    biases = torch.tensor(pair.biases, dtype=torch.float32)
    parts = []
    for start in range(0, len(points), BATCH):
        some = torch.tensor(points[start : start + BATCH], dtype=torch.float32, requires_grad=True)
        lowest = (torch.cdist(some, centers) + biases).min(dim=1)[0]
        (gradient,) = torch.autograd.grad(lowest.sum(), some)
        parts.append(-gradient.double().numpy())
    return np.concatenate(parts)


def as_published(
    pair: ct.RayMonotonePair, critic: Multiple, samples: int, seed: int
) -> tuple[ct.PairMetrics, ct.PairMetrics]:
    """Return the metrics with the rounding of the paper, and without."""
    random = np.random.default_rng(seed)
    start = pair.sample_target(random.random((samples, pair.dimension)))
    target = pair.sample_target(random.random((samples, pair.dimension)))
    source = pair.transport(start)
    values, others = critic.value(source), critic.value(target)
    gradients = critic.gradient(source)
    return tuple(  # type: ignore[return-value]
        ct.sample_metrics(gradients, exact, values, others)
        for exact in (rounded_gradients(pair, source), pair.gradient(start))
    )


def deviation(published: float, found: Estimate, samples: int) -> float:
    """Return how many standard errors of the published number lie between the two."""
    alone = found.standard_error * math.sqrt(samples / PAPER_SAMPLES)
    return (published - found.value) / math.hypot(alone, found.standard_error)


# --- against the W₁ potential, under σ ------------------------------------------------------------


def under_weight(
    pair: ct.RayMonotonePair, critic: Multiple, samples: int, seed: int
) -> dict[str, Estimate]:
    """Return means over the lines from source to target, where the penalty was taken."""
    random = np.random.default_rng((seed, 2))
    source = pair.transport(pair.sample_target(random.random((samples, pair.dimension))))
    target = pair.sample_target(random.random((samples, pair.dimension)))
    share = random.random((samples, 1))
    points = (1.0 - share) * source + share * target
    gradient, exact = critic.gradient(points), pair.gradient(points)
    norm = np.linalg.norm(gradient, axis=1)
    inner = np.einsum("nd,nd->n", gradient, exact)
    return {
        "gradient_norm": estimate_mean(norm),
        "cosine": estimate_mean(inner / np.where(norm > 0.0, norm, 1.0)),
        "gradient_l2": estimate_mean(((gradient - exact) ** 2).sum(axis=1)),
    }


# --- the study ------------------------------------------------------------------------------------


def solve_reference(strength: float, gap: float, quick: bool) -> ct.Solution:
    """Solve the pair's problem with a strength of the penalty."""
    problem = dataclasses.replace(ct.Problem.from_file(PROBLEM), strength=strength)
    return ct.solve(
        problem,
        relative_gap=gap,
        refine="adaptive",
        lower_bound="auto",
        max_cells=4000 if quick else None,
        comm=MPI.COMM_SELF,
    )


def measure(
    name: str,
    pair: ct.RayMonotonePair,
    critic: Critic,
    published: dict[str, float],
    references: dict[str, Any],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Return everything that is measured of one critic."""
    high = settled(critic, pair)
    rounded, exact = as_published(pair, high, samples, seed)
    metrics = {"cos": "cosine", "l2": "gradient_l2", "cost": "distance"}
    reproduced = {
        short: {
            "published": published[short],
            "rounded": getattr(rounded, metric),
            "exact": getattr(exact, metric),
            "deviation": deviation(published[short], getattr(rounded, metric), samples)
            if short == "cost" or name not in OF_THE_MOVER
            else math.nan,
        }
        for short, metric in metrics.items()
    }
    row: dict[str, Any] = {"metrics": reproduced, "sign": int(high.factor)}
    row["wasserstein"] = under_weight(pair, high, samples, seed)
    for kind, reference in references.items():
        comparison = ct.compare(reference, {"critic": critic}, sign=int(high.factor))
        row[kind] = comparison.result()["critics"]["critic"]
    return row


def as_plain(value: Any) -> Any:
    """Return estimates as tables, for JSON."""
    if isinstance(value, Estimate):
        return {"value": value.value, "standard_error": value.standard_error}
    if isinstance(value, dict):
        return {name: as_plain(part) for name, part in value.items()}
    return value


def shown(estimate: Estimate, digits: int = 4) -> str:
    """Return an estimate with its standard error in the last digits."""
    error = max(round(estimate.standard_error * 10**digits), 1)
    return f"{estimate.value:.{digits}f}({error})"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def tables(rows: dict[str, dict[str, Any]], result: dict[str, Any]) -> list[Table]:
    """Return the three tables: the paper's metrics, against λ, against W₁."""
    again = _table(
        "The published metrics again: published, with its rounding, without (standard error in the "
        "last digits); z: deviation over the error of 4,096 samples",
        (
            "critic",
            *(f"{name}{end}" for name in ("cos", "l2", "cost") for end in ("", "'", "*", " z")),
        ),
    )
    for name, row in rows.items():
        cells = []
        for metric in row["metrics"].values():
            cells += [
                f"{metric['published']:.3f}",
                shown(metric["rounded"]),
                shown(metric["exact"]),
            ]
            known = math.isfinite(metric["deviation"])
            cells.append(f"{metric['deviation']:+.1f}" if known else "-")
        again.add_row(name, *cells)
    congested = result["congested"]
    against = _table(
        f"Against congested transport, λ = 10: D* in {congested['lower']:.5f} .. "
        f"{congested['upper']:.5f}, L = {congested['critic_loss']:.4f}, "
        f"∫|m| = {congested['momentum_l1']:.4f}",
        (
            "critic",
            "L",
            "P",
            "D",
            "D*-D %",
            "L-2P",
            "|∇f| σ",
            "|∇u| σ",
            "cos σ",
            "l2 σ",
            "l2 |m|",
            "|m-m_f|",
        ),
    )
    for name, row in rows.items():
        one = row["congested"]
        low, high = one["relative_suboptimality"].values()
        against.add_row(
            name,
            *(f"{one[key]:.4f}" for key in ("critic_loss", "penalty", "dual_value")),
            f"{100 * low:.2f}..{100 * high:.2f}",
            f"{one['momentum_l1_reading']:.4f}",
            f"{one['mean_gradient_norm']['critic']['weight']:.4f}",
            f"{one['mean_gradient_norm']['solution']['weight']:.4f}",
            f"{one['cosine']['weight']:.4f}",
            f"{one['gradient_l2']['weight']:.4f}",
            f"{one['gradient_l2']['momentum']:.4f}",
            f"{one['momentum_relative_l1']:.3f}",
        )
    exact = _table(
        f"Against W₁ = {result['distance']:.5f} and its exact potential; lost: what f / max|∇f| "
        "lacks to W₁, certified, in %",
        ("critic", "cost", "cost - W₁", "max |∇f|", "lost %", "|∇f| σ", "cos σ", "l2 σ"),
    )
    for name, row in rows.items():
        cost, under = row["metrics"]["cost"]["exact"], row["wasserstein"]
        low, high = row["wasserstein_solution"]["best_multiple"]["suboptimality"].values()
        exact.add_row(
            name,
            shown(cost),
            f"{cost.value - result['distance']:+.4f}",
            f"{row['wasserstein_solution']['largest_gradient_norm']:.3f}",
            f"{100 * low / result['distance']:.1f}..{100 * high / result['distance']:.1f}",
            *(shown(under[key]) for key in ("gradient_norm", "cosine", "gradient_l2")),
        )
    return [again, against, exact]


def csv_text(rows: dict[str, dict[str, Any]]) -> str:
    """Return one line per critic."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = ("cos", "l2", "cost")
    header = [f"{name}_{kind}" for name in names for kind in ("published", "rounded", "exact")]
    writer.writerow(
        ["critic", *header, "critic_loss", "penalty", "dual_value", "suboptimality_lower",
         "suboptimality_upper", "gradient_norm_weight", "gradient_l2_weight",
         "gradient_l2_weight_wasserstein", "momentum_relative_l1"]
    )  # fmt: skip
    for name, row in rows.items():
        one = row["congested"]
        metrics = [
            number
            for metric in row["metrics"].values()
            for number in (metric["published"], metric["rounded"].value, metric["exact"].value)
        ]
        writer.writerow(
            [name, *metrics, one["critic_loss"], one["penalty"], one["dual_value"],
             one["suboptimality"]["lower"], one["suboptimality"]["upper"],
             one["mean_gradient_norm"]["critic"]["weight"], one["gradient_l2"]["weight"],
             row["wasserstein"]["gradient_l2"].value, one["momentum_relative_l1"]]
        )  # fmt: skip
    return text.getvalue()


def draw(rows: dict[str, dict[str, Any]], result: dict[str, Any], path: Path) -> None:
    """Draw the distance of each critic from both references."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for place, (name, row) in enumerate(rows.items()):
        one = row["congested"]
        # Right below and left above in turns, as neighbours are often close.
        shift, side = ((-6, 5), "right") if place % 2 else ((6, -10), "left")
        to_both = row["wasserstein"]["gradient_l2"].value, one["gradient_l2"]["weight"]
        left.plot(*to_both, "o", color="#c03030" if "-gp" in name or "-lp" in name else "#405070")
        left.annotate(name, to_both, xytext=shift, textcoords="offset points", ha=side, size=8)
        cost = row["metrics"]["cost"]["exact"].value
        norm = one["mean_gradient_norm"]["critic"]["weight"]
        right.plot(
            norm, cost, "o", color="#c03030" if "-gp" in name or "-lp" in name else "#405070"
        )
        right.annotate(
            name, (norm, cost), xytext=shift, textcoords="offset points", ha=side, size=8
        )
    low, high = 0.015, 1.5
    left.plot([low, high], [low, high], color="0.6", linewidth=0.8)
    left.set(
        xscale="log", yscale="log", xlim=(low, high), ylim=(low, high),
        xlabel="E_σ |∇f − ∇f*|² to the W₁ potential", ylabel="E_σ |∇f − ∇u|² to the congested one",
        title="below the line: closer to congested transport",
    )  # fmt: skip
    congested = result["congested"]
    right.plot(1.0, result["distance"], "k*", markersize=11)
    right.annotate("W₁", (1.0, result["distance"]), xytext=(8, 4), textcoords="offset points")
    right.plot(congested["gradient_norm"], congested["critic_loss"], "k*", markersize=11)
    right.annotate(
        "congested, λ = 10", (congested["gradient_norm"], congested["critic_loss"]),
        xytext=(-60, 8), textcoords="offset points",
    )  # fmt: skip
    right.set(
        xlim=(0.75, 1.1), ylim=(0.72, 0.92), xlabel="E_σ |∇f|", ylabel="critic loss E_μ f − E_ν f",
        title="gradient norm and critic loss (stars: optima)",
    )  # fmt: skip
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=130, format="png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/published_critics"))
    parser.add_argument("--samples", type=int, help="of each mean (default 4,000,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", type=float, help="of the two solves (default 2e-3)")
    parser.add_argument("--critics", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--quick", action="store_true", help="coarse solves and few samples")
    arguments = parser.parse_args(argv)
    if MPI.COMM_WORLD.size > 1:
        parser.error(f"found {MPI.COMM_WORLD.size} ranks; allowed: one, it is a serial script")
    console = Console(width=None if sys.stdout.isatty() else 160)
    folder = published_folder() / PAIR
    if not (folder / "metrics.csv").is_file():
        sys.stderr.write(
            f"error: {folder}: found no published critics; allowed: the folder that holds "
            f"{PAIR}, in {VARIABLE}\n"
        )
        return 2
    published = read_table(folder)
    there = {
        path.stem.removeprefix("method_"): path
        for path in sorted((folder / "critics").glob("method_*.pt"))
    }
    names = arguments.critics or list(there)
    if unknown := [name for name in names if name not in there]:
        sys.stderr.write(f"error: found {unknown[0]}; allowed: {', '.join(there)}\n")
        return 2
    samples = arguments.samples or (100_000 if arguments.quick else 4_000_000)
    gap = arguments.gap or (3e-2 if arguments.quick else 2e-3)
    pair = ct.pair_from_file(folder / "pair.json")
    started = time.perf_counter()
    solutions = {}
    for name, strength in (("congested", 10.0), ("wasserstein_solution", math.inf)):
        solution = solve_reference(strength, gap, arguments.quick)
        console.print(f"{name}: {solution.bounds} after {time.perf_counter() - started:.0f} s")
        solutions[name] = solution
    rows = {}
    for name in names:
        critic = ct.load_critic(there[name])
        rows[name] = measure(
            name, pair, critic, published[name], solutions, samples, arguments.seed
        )
        console.print(f"{name}: measured after {time.perf_counter() - started:.0f} s")
    bounds, values = solutions["congested"].bounds, solutions["congested"].values
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["congested"]["dual_value"]))
    first = next(iter(rows.values()))["congested"]
    result = {
        "samples": samples,
        "distance": pair.wasserstein1(),
        "congested": {
            "lower": bounds.lower,
            "upper": bounds.upper,
            "data_error": bounds.data_error,
            "critic_loss": values.critic_loss,
            "penalty": values.penalty,
            "momentum_l1": values.momentum_l1,
            "gradient_norm": first["mean_gradient_norm"]["solution"]["weight"],
        },
        "wasserstein_solution": {
            "lower": solutions["wasserstein_solution"].bounds.lower,
            "upper": solutions["wasserstein_solution"].bounds.upper,
        },
        "critics": as_plain(rows),
    }
    for table in tables(rows, result):
        console.print(table)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output / "published_critics.csv", csv_text(rows))
    draw(rows, result, arguments.output / "published_critics.png")
    write_text(arguments.output / "published_critics.json", json_text(result))
    console.print(f"files in {arguments.output}/ after {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
