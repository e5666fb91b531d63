"""What the overview shows, apart from how it is drawn: quantities, colour scales, words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, FuncNorm, ListedColormap, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from congested.geometry import FloatArray, IntArray
from congested.io.arrays import ResultArrays

#: Where there is no value to show (σ = 0).
INACTIVE_COLOR = "0.86"
#: Of source and target where both are in one picture.
SOURCE_COLOR, TARGET_COLOR = "#3b6fb6", "#d1662b"
#: Without magma's pale end, so that white streamlines stay visible on the strongest flux.
FLUX_COLORS = ListedColormap(colormaps["magma"](np.linspace(0.0, 0.8, 256)), name="flux")


class Densities(Protocol):
    """What every picture shows: a mesh, and densities on its cells; a solution or a weight."""

    @property
    def vertices(self) -> FloatArray:
        """Coordinates (V, d)."""

    @property
    def cells(self) -> IntArray:
        """Vertex numbers (C, d+1)."""

    @property
    def cell_volume(self) -> FloatArray:
        """Volumes (C,)."""

    @property
    def source(self) -> FloatArray:
        """Density (C,) of μ."""

    @property
    def target(self) -> FloatArray:
        """Density (C,) of ν."""

    @property
    def weight(self) -> FloatArray:
        """Density (C,) of σ."""


@dataclass(frozen=True)
class Panel:
    """One picture: a value per cell with its colour scale.

    Attributes
    ----------
    name
        Short name, like "source", "target", "weight", "momentum", "gradient" or "indicator".
    title
        Text above the picture.
    values
        One value per cell (C,).
    active
        Cells (C,) that have a value worth showing.
    colors
        Colour map.
    norm
        Colour scale.
    inactive
        What grey stands for.
    """

    name: str
    title: str
    values: FloatArray
    active: npt.NDArray[np.bool_]
    colors: Colormap
    norm: Normalize
    inactive: str = "no weight"

    def colored(self, values: FloatArray) -> FloatArray:
        """Return the colours (…, 4) of values, those beyond the scale's ends as its ends."""
        clipped = np.clip(np.nan_to_num(values), *self.limits)
        return np.asarray(self.colors(self.norm(clipped)))

    @property
    def limits(self) -> tuple[float, float]:
        """The values that the ends of the colour scale stand for."""
        assert self.norm.vmin is not None and self.norm.vmax is not None  # set by overview_panels
        return self.norm.vmin, self.norm.vmax

    @property
    def extend(self) -> str:
        """Which ends of the colour bar stand for more than their value, as matplotlib names it."""
        shown = self.values[self.active]
        if not shown.size:
            return "neither"
        low, high = self.limits
        below = bool(shown.min() < low * (1 - 1e-9))
        above = bool(shown.max() > high * (1 + 1e-9))
        return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]


def weighted_quantile(values: FloatArray, weights: FloatArray, level: float) -> float:
    """Return the smallest value below or at which lies the given part of the weight."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, level * cumulated[-1])])


def log_norm(values: FloatArray, decades: float) -> Normalize:
    """Logarithmic scale over at most so many decades; linear if the values hardly differ.

    An indicator is infinite where a cell has no upper bound; then the finite ones make the scale.
    """
    values = values[np.isfinite(values)]
    top = float(values.max(initial=0.0))
    if not top > 0.0:
        return Normalize(0.0, 1.0)
    smallest = float(values[values > 0.0].min())
    if top < 30.0 * smallest:
        return Normalize(0.0, top)
    return LogNorm(max(smallest, top * 10.0**-decades), top)


def density_norm(values: FloatArray, volume: FloatArray) -> Normalize:
    """Linear scale, unless a few cells would take all of it (singular tips, corners)."""
    mass = values * volume
    if not mass.sum() > 0.0:
        return Normalize(0.0, 1.0)
    top, nearly_top = float(values.max()), weighted_quantile(values, mass, 0.95)
    if top > 2.0 * nearly_top:
        top = nearly_top
    if top > 30.0 * weighted_quantile(values, mass, 0.25):
        return log_norm(values, 4.0)
    return Normalize(0.0, top)


def gradient_norm(gradient: FloatArray, moved: FloatArray, reach: float = 1.0) -> FuncNorm:
    """Scale |∇u| with its middle at 1, up to what nearly all of the flux sees.

    Where a small part of the flux is far more congested than the rest, the scale above 1 follows
    the square root, so that both can be seen. Where it has to go on to `reach`, which no flux has
    anything to do with, it is linear.
    """
    top, middle = 1.0, 1.0
    if moved.sum() > 0.0:
        top, middle = (weighted_quantile(gradient, moved, level) for level in (0.99, 0.5))
    top = max(top, 1.0 + 1e-3)
    power = 0.5 if middle - 1.0 < 0.15 * (top - 1.0) else 1.0
    if reach > top:
        top, power = reach, 1.0

    def forward(value: FloatArray) -> FloatArray:
        excess = np.asarray(value, dtype=float) - 1.0
        return np.where(excess < 0.0, excess, (np.maximum(excess, 0.0) / (top - 1.0)) ** power)

    def inverse(position: FloatArray) -> FloatArray:
        position = np.asarray(position, dtype=float)
        above = (top - 1.0) * np.maximum(position, 0.0) ** (1.0 / power)
        return 1.0 + np.where(position < 0.0, position, above)

    return FuncNorm((forward, inverse), vmin=0.0, vmax=top)


def density_panels(arrays: Densities) -> tuple[Panel, Panel, Panel]:
    """Choose values and colour scales of source, target and weight."""
    volume = arrays.cell_volume
    everywhere = np.ones(len(volume), dtype=bool)
    linear, seen = colormaps["viridis"], colormaps["cividis"]
    source, target = (
        Panel(name, title, values, everywhere, linear, density_norm(values, volume))
        for name, title, values in (
            ("source", "source density μ", arrays.source),
            ("target", "target density ν", arrays.target),
        )
    )
    values = arrays.weight
    weight = Panel("weight", "weight density σ", values, values > 0.0, seen, log_norm(values, 6.0))
    return source, target, weight


def overview_panels(arrays: ResultArrays) -> tuple[Panel, ...]:
    """Choose values and colour scales of the six quantities."""
    volume = arrays.cell_volume
    everywhere = np.ones(len(volume), dtype=bool)
    speed = np.linalg.norm(arrays.momentum, axis=1)
    gradient = np.linalg.norm(arrays.gradient, axis=1)
    indicator = arrays.gap_indicator / volume
    around_one, fire = colormaps["RdBu_r"], colormaps["inferno"]
    densities = density_panels(arrays)
    # W₁ knows no weight.
    active = densities[-1].active if arrays.weight.any() else everywhere
    scaled = (
        (FLUX_COLORS, density_norm(speed, volume)),
        (around_one, gradient_norm(gradient, speed * volume)),
        (fire, log_norm(indicator, 6.0)),
    )
    shown = (
        ("momentum", "flux |m|", speed, everywhere),
        ("gradient", "gradient |∇u|", gradient, active),
        ("indicator", "gap indicator η/|T|", indicator, everywhere),
    )
    return *densities, *(Panel(*what, *how) for what, how in zip(shown, scaled, strict=True))


def few_cells(values: FloatArray, volume: FloatArray) -> IntArray:
    """Return the cells that hold all of a density, if they are few and too small to be seen.

    That is how points look on a mesh; where it is not so, the result is empty.
    """
    cells = np.flatnonzero(values > 0.0)
    if len(cells) > 400 or volume[cells].sum() > 2e-3 * volume.sum():
        return np.empty(0, dtype=np.int64)
    return cells


def boundary_facets(cells: IntArray) -> tuple[IntArray, IntArray]:
    """Find the facets that belong to one cell only.

    Returns
    -------
    facets, opposite
        Vertex numbers (B, d) of each facet, and (B,) of the vertex of its cell that is not in it.
    """
    corners = cells.shape[1]
    # combinations() leaves out the last vertex first, the first vertex last.
    picks = np.array(list(combinations(range(corners), corners - 1)))
    facets = cells[:, picks].reshape(-1, corners - 1)
    opposite = cells[:, ::-1].reshape(-1)
    ordered = np.sort(facets, axis=1)
    # Equal facets end up side by side; much faster than np.unique over rows.
    order = np.lexsort(ordered.T[::-1])
    ordered = ordered[order]
    different = np.any(ordered[1:] != ordered[:-1], axis=1)
    first = np.concatenate([[True], different])
    last = np.concatenate([different, [True]])
    single = order[first & last]
    return facets[single], opposite[single]


def _number(value: object) -> float:
    """Read a number as result.json holds it: null is NaN, infinities are strings."""
    return math.nan if value is None else float(value)  # type: ignore[arg-type]


# Bounds further apart are not told to the last digit.
_LARGEST_GAP = 1e9


def interval(lower: float, upper: float) -> str:
    """Write both ends, rounded outwards, with just enough digits to tell them apart."""
    gap = upper - lower
    if not 0.0 < gap < _LARGEST_GAP:
        return f"[{lower:.6g}, {upper:.6g}]"
    digits = min(max(1 - math.floor(math.log10(gap)), 1), 9)
    step = Decimal(1).scaleb(-digits)
    below = Decimal(str(lower)).quantize(step, rounding=ROUND_FLOOR)
    above = Decimal(str(upper)).quantize(step, rounding=ROUND_CEILING)
    return f"[{below:f}, {above:f}]"


def headline(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the title and the line of numbers below it.

    Parameters
    ----------
    result
        Content of result.json, before or after it was written.
    """
    bounds = result.get("bounds") or {}
    values = result.get("values") or {}
    problem = result.get("problem") or {}
    parts = []
    strength = (problem.get("penalty") or {}).get("strength")
    if strength is not None:
        strength = _number(strength)
        parts.append("λ = ∞" if math.isinf(strength) else f"λ = {strength:g}")
    lower, upper = _number(bounds.get("lower")), _number(bounds.get("upper"))
    if math.isfinite(lower) and math.isfinite(upper):
        relative = 100.0 * _number(bounds.get("relative_gap"))
        scope = bounds.get("scope") or "cell-data"
        parts.append(f"cost in {interval(lower, upper)}, gap {relative:.2g} % ({scope})")
    elif math.isfinite(lower):
        parts.append(f"cost ≥ {lower:.6g}")
    for key, symbol in (("critic_loss", "L"), ("penalty", "P"), ("momentum_l1", "∫|m|")):
        number = _number(values.get(key))
        if math.isfinite(number):
            parts.append(f"{symbol} = {number:.5g}")
    title = str(result.get("title") or "") or "Congested transport"
    if result.get("status") == "stopped":
        title += " (stopped before the gap was reached)"
    return title, "   ·   ".join(parts)


def weight_headline(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return the title and the line of numbers below it, for a weight alone.

    Parameters
    ----------
    result
        Content of weight.json, before or after it was written.
    """
    mass, lost, error = (_number(result.get(key)) for key in ("mass", "lost", "relative_error"))
    parts = [f"mass {mass:.5g}"]
    if lost > 1e-4 * (mass + lost):
        parts.append(f"{100.0 * lost / (mass + lost):.3g} % lost outside the domain")
    how = str(result.get("method"))
    if segments := result.get("samples"):
        how += f", {segments:,} segments"
    certainty = "exact" if error == 0.0 else f"relative error {error:.2g}"
    parts.append(f"{certainty} ({how})")
    title = str(result.get("title") or "")
    return f"{title}: the weight" if title else "The weight", "   ·   ".join(parts)


def new_figure(width: float, height: float, title: str, numbers: str) -> Figure:
    """Make a figure of the given size in inches with the headline at its top.

    A figure of its own, not one of pyplot's: nothing global changes and no display is needed.
    """
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.28 / height, title, ha="center", va="center", size=15, weight="bold")
    figure.text(0.5, 1 - 0.58 / height, numbers, ha="center", va="center", size=11)
    return figure


def draw_color_bar(figure: Figure, axes: Axes, panel: Panel) -> None:
    """Draw the colour bar of a panel into its own axes."""
    mappable = ScalarMappable(panel.norm, panel.colors)
    bar = figure.colorbar(mappable, cax=axes, extend=panel.extend)
    axes.spines["outline"].set_linewidth(0.5)
    axes.tick_params(labelsize=8, length=3, color="0.4", labelcolor="0.25")
    axes.minorticks_off()
    inches = axes.get_position().height * figure.get_size_inches()[1]
    if panel.name.startswith("gradient"):
        low, high = panel.limits
        steps = MaxNLocator(3 if inches > 2 else 1).tick_values(1.0, high)
        above = [tick for tick in steps if 1.0 + 0.1 * (high - 1.0) < tick <= high]
        ticks = [low, 0.5, 1.0, *above] if inches > 2 else [low, 1.0, *above]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    elif isinstance(panel.norm, PowerNorm):  # of factors, from 1 on
        axes.yaxis.set_major_locator(MaxNLocator(5 if inches > 2 else 3, steps=[1, 2, 5, 10]))
    elif isinstance(panel.norm, LogNorm):
        axes.yaxis.set_major_locator(LogLocator(10, numticks=7 if inches > 2 else 4))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6 if inches > 2 else 3))
