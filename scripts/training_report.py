"""What scripts/study_training.py measured, as tables for people, as files and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from congested.critics.sampled import SampledDual
from congested.critics.training_history import Row
from congested.critics.training_options import Training
from congested.io.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIELDS = ("method", "strength", "width", "depth", "batch", "seed")


@dataclass(frozen=True)
class Run:
    """A training, certified on the way.

    Attributes
    ----------
    varied
        What it differs in from the other runs of its group.
    options, history, best
        The options, all rows, and that of the best critic.
    cost
        Certified lower bound of the cost.
    """

    varied: str
    options: Training
    history: tuple[Row, ...]
    best: Row
    cost: float

    @property
    def title(self) -> str:
        """The method and what is varied, in words."""
        if self.varied == "method":
            return str(self.options.method)
        return f"{self.options.method}, {self.varied} {getattr(self.options, self.varied):g}"


@dataclass(frozen=True)
class Demonstration:
    """A training from samples alone.

    Attributes
    ----------
    pair, dimension, method
        What was trained on, and how.
    dual
        What fresh samples say of the critic.
    exact
        The congested cost, if it is known.
    seconds
        Of the training.
    """

    pair: str
    dimension: int
    method: str
    dual: SampledDual
    exact: float | None
    seconds: float


def runs_table(runs: Sequence[Run]) -> Table:
    """Return the table of the certified runs."""
    table = Table(title="Critics held against the solution (suboptimality in % of the cost)")
    table.add_column("critic", no_wrap=True)
    for heading in ("cost", "L", "P", "D", "at least", "at most", "best step", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, run in enumerate(runs):
        best = run.best
        table.add_row(
            run.title,
            f"{run.cost:.5f}",
            f"{best.critic_loss:.4f}",
            f"{best.penalty:.4f}",
            f"{best.certified_dual_value:.5f}",
            f"{100 * best.suboptimality_lower:.3f}",
            f"{100 * best.suboptimality_upper:.3f}",
            f"{best.step:,}",
            f"{run.history[-1].seconds:.0f}",
            end_section=number + 1 == len(runs) or runs[number + 1].varied != run.varied,
        )
    return table


def demonstration_table(rows: Sequence[Demonstration]) -> Table:
    """Return the table of the second part."""
    table = Table(title="Lower bounds from samples alone")
    table.add_column("Gaussians", no_wrap=True)
    for heading in ("d", "method", "L", "P", "D", "cost >= (95 %)", "cost", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        value = row.dual.dual_value
        table.add_row(
            row.pair,
            str(row.dimension),
            row.method,
            f"{row.dual.critic_loss.value:.4f}",
            f"{row.dual.penalty.value:.4f}",
            f"{value.value:.4f} ± {value.standard_error:.4f}",
            f"{value.lower(0.95):.4f}",
            "-" if row.exact is None else f"{row.exact:.4f}",
            f"{row.seconds:.0f}",
        )
    return table


def write(directory: Path, runs: Sequence[Run], rows: Sequence[Demonstration]) -> list[Path]:
    """Write training.csv and training.json, each in one step."""
    names = [field.name for field in dataclasses.fields(Row)]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["varied", *_FIELDS, *names])
    for run in runs:
        own = [run.varied, *(getattr(run.options, name) for name in _FIELDS)]
        for row in run.history:
            writer.writerow([*own, *(getattr(row, name) for name in names)])
    content = {
        "runs": [
            {
                "varied": run.varied,
                "options": run.options.description(),
                "cost": run.cost,
                "best": _without_nan(dataclasses.asdict(run.best)),
            }
            for run in runs
        ],
        "demonstrations": [dataclasses.asdict(row) for row in rows],
    }
    files = [directory / "training.csv", directory / "training.json"]
    write_text(files[0], text.getvalue())
    write_text(files[1], json.dumps(content, indent=1, allow_nan=False))
    return files


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    def known(value: Any) -> bool:
        return not (isinstance(value, float) and math.isnan(value))

    return {name: value if known(value) else None for name, value in values.items()}


def draw(path: Path, runs: Sequence[Run], base: Training) -> None:
    """Draw certified suboptimality over the steps, and by λ, width and batch."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10.0, 7.0), layout="constrained")
        axes = figure.subplots(2, 2)
        for run in runs:
            if run.varied == "method":
                steps = [row.step for row in run.history]
                values = [100 * row.suboptimality_upper for row in run.history]
                axes[0, 0].plot(steps, values, label=run.title, linewidth=1.2)
        axes[0, 0].set_title("by method")
        axes[0, 0].set_xlabel("steps")
        # Curves cross everywhere but above.
        axes[0, 0].legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.08), frameon=False)
        titles = {"strength": "penalty λ", "width": "width of the layers", "batch": "batch"}
        for axis, (name, title) in zip(axes.flat[1:], titles.items(), strict=True):
            places = _by(axis, name, runs, base)
            axis.set_title(f"by {title}")
            axis.set_xlabel(title)
            axis.set_xscale("log")
            axis.set_xticks(places, labels=[f"{place:g}" for place in places])
            axis.xaxis.set_minor_formatter(NullFormatter())
        for axis in axes.flat:
            axis.set_yscale("log")
            low, high = axis.get_ylim()
            # Two ticks at least, in decades or within one.
            steps = (1.0, 2.0, 5.0) if high < 30.0 * low else (1.0,)
            if high < 3.0 * low:
                steps = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
            axis.yaxis.set_major_locator(LogLocator(10.0, subs=steps, numticks=20))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_ylabel("suboptimality (% of the cost)")
            axis.grid(True, which="major", alpha=0.3)
        with atomic_path(path) as partial:
            figure.savefig(partial, dpi=110, format="png")


def _by(axis: Axes, name: str, runs: Sequence[Run], base: Training) -> list[float]:
    """Draw the interval of the best critics by an option, a line for each method.

    Returns the values of the option.
    """
    every: set[float] = set()
    for method in ("gp", "lp"):
        chosen = {
            getattr(run.options, name): run.best
            for run in runs
            if run.options.method == method and run.varied in ("method", name)
        }
        places = sorted(chosen)
        every.update(places)
        lower = [100 * max(chosen[place].suboptimality_lower, 1e-6) for place in places]
        upper = [100 * chosen[place].suboptimality_upper for place in places]
        axis.plot(places, upper, marker="o", markersize=4, label=method)
        axis.fill_between(places, lower, upper, alpha=0.3)
    axis.legend()
    return sorted(every)
