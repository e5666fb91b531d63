"""What pictures of particles show, apart from how it is drawn: congestion, ways, words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import (
    LinearSegmentedColormap,
    ListedColormap,
    Normalize,
    PowerNorm,
    to_rgb,
)

from congested.geometry import FloatArray
from congested.integrand import capacity, gradient_norm
from congested.io.arrays import ResultArrays
from congested.plot_panels import (
    SOURCE_COLOR,
    TARGET_COLOR,
    Panel,
    interval,
    weighted_quantile,
)

#: How far a particle is on its way, from 0 to 1: without viridis' pale end, for lines on white.
WAY_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.88, 256)), name="way")
WAY_NORM = Normalize(0.0, 1.0)
#: The congestion factor: as a background on which lines are legible, alone, of points on white.
PALE_REDS = LinearSegmentedColormap.from_list("pale reds", ["#ffffff", "#fbdcc9", "#f0a083"])
REDS = LinearSegmentedColormap.from_list("reds", ["#fdf4ee", "#f4a582", "#c2352d", "#67001f"])
GREY_TO_RED = LinearSegmentedColormap.from_list(
    "grey to red", ["#8b98a5", "#b0667f", "#c8203a", "#5c0018"]
)

# Cells that together have less of the traffic are those where nothing moves.
_STILL = 1e-3
_INK = 0.3  # of full colour that densities have behind particles
_NOTHING = f"together {100 * _STILL:g} % of the traffic"


def strength_of(content: Mapping[str, Any]) -> float:
    """Return λ from the content of result.json."""
    return float(content["problem"]["penalty"]["strength"])


def congestion_panel(arrays: ResultArrays, strength: float) -> Panel:
    """Choose values and colour scale of the congestion factor 1 + |m|/(2λσ), |m| for W₁.

    The scale ends at what 1 % of the traffic exceeds, and follows the square root where most of the
    traffic is far below. That of |m| ends at what 10 % exceed and always follows the square root,
    as lines hide it where it is largest.
    """
    speed = np.linalg.norm(arrays.momentum, axis=1)
    traffic = speed * arrays.cell_volume
    total = float(traffic.sum())
    moved = np.zeros(len(speed), dtype=bool)
    if total > 0.0:
        moved = speed >= weighted_quantile(speed, traffic, _STILL)
    if math.isinf(strength):
        top = weighted_quantile(speed, traffic, 0.9) if total > 0.0 else 1.0
        root = PowerNorm(0.5, 0.0, top)
        return Panel("traffic", "traffic |m|", speed, moved, PALE_REDS, root, _NOTHING)
    kappa = capacity(arrays.weight, strength)
    there = moved & (kappa > 0.0)
    factor = np.where(there, gradient_norm(np.where(there, speed, 0.0), kappa), 1.0)
    norm = factor_norm(factor[moved], traffic[moved])
    title = "congestion factor 1 + |m|/(2λσ)"
    return Panel("congestion", title, factor, moved, PALE_REDS, norm, _NOTHING)


def factor_norm(factor: FloatArray, traffic: FloatArray) -> Normalize:
    """Scale congestion factors (k,) from 1 on; of each so much traffic (k,)."""
    top = middle = 1.0
    if traffic.sum() > 0.0:
        top, middle = (weighted_quantile(factor, traffic, level) for level in (0.99, 0.5))
    top = max(top, 1.0 + 1e-3)
    power = 0.5 if middle - 1.0 < 0.15 * (top - 1.0) else 1.0
    return PowerNorm(power, 1.0, top)


def way_panel(title: str, arrays: ResultArrays) -> Panel:
    """Return a panel that is only a scale: the fraction of the way behind a particle."""
    still = np.zeros(len(arrays.cells))
    return Panel("way", title, still, still > 0.0, WAY_COLORS, WAY_NORM)


def way_segments(positions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cut ways into straight pieces.

    Parameters
    ----------
    positions
        Where n particles are (n, f + 1, d) after equal parts of their ways.

    Returns
    -------
    segments, fraction
        Both ends (n f, 2, d) of each piece, particle after particle, and the part of the way (n f,)
        at its middle.
    """
    number, steps = positions.shape[0], positions.shape[1] - 1
    segments = np.stack([positions[:, :-1], positions[:, 1:]], axis=2)
    fraction = np.tile((np.arange(steps) + 0.5) / steps, number)
    return segments.reshape(number * steps, 2, positions.shape[2]), fraction


def pale_mixture(source: FloatArray, target: FloatArray) -> FloatArray:
    """Return pale colours (…, 3) of two densities (…): white where both are 0.

    Each is scaled so that its largest values, but for a few cells, have its whole colour.
    """
    paint = np.ones((*source.shape, 3))
    for density, color in ((source, SOURCE_COLOR), (target, TARGET_COLOR)):
        shown = density[density > 0.0]
        if not shown.size:
            continue
        top = weighted_quantile(shown, shown, 0.95)
        share = np.clip(density / top, 0.0, 1.0)[..., None]
        # Multiplied, as inks on paper.
        paint *= 1.0 - _INK * share * (1.0 - np.array(to_rgb(color)))
    return paint


def flow_headline(content: Mapping[str, Any], *, brief: bool = False) -> tuple[str, str]:
    """Return the title and the line of numbers below it, for a flow of particles.

    Parameters
    ----------
    content
        Content of result.json; as ``flow`` that of flow.json, as far as there is one.
    brief
        Whether to leave out what flow.json says, for a picture that moves.
    """
    bounds, values = content.get("bounds") or {}, content.get("values") or {}

    def number(table: Mapping[str, Any], key: str) -> float:
        value = table.get(key)
        return math.nan if value is None else float(value)

    strength = strength_of(content)
    parts = ["λ = ∞" if math.isinf(strength) else f"λ = {strength:g}"]
    lower, upper = number(bounds, "lower"), number(bounds, "upper")
    if math.isfinite(lower) and math.isfinite(upper):
        parts.append(f"cost in {interval(lower, upper)}")
    title = str(content.get("title") or "") or "Congested transport"
    flow = content.get("flow") or {}
    critic, length = flow.get("critic"), number(values, "momentum_l1")
    if critic is not None:
        own, lost = number(flow, "momentum_l1"), flow["imbalance"]["critic"]
        parts[1:] = [f"∫|m| = {own:.4g}, of the solution {length:.4g}"]
        if brief:
            parts.append("dots are not weighted by mass")
        else:
            cells, boxes = lost["lost"][0], lost["lost"][-1]
            words = f"mass lost {cells:.2g} in cells, {boxes:.2g} in boxes of side"
            parts.append(f"{words} {lost['scale'][-1]:.3g}")
        return f"{title}: the flow of {critic}", "   ·   ".join(parts)
    if math.isfinite(length):
        parts.append(f"mean way ∫|m| = {length:.5g}")
    if flow.get("particles") and not brief:
        share, chance = (number(flow, f"momentum_relative_l1{end}") for end in ("", "_chance"))
        words = f"{int(flow['particles']):,} particles"
        if math.isfinite(share):
            words += f": momentum off by {_three_digits(100.0 * share)} %"
        if math.isfinite(chance):  # a single particle does not tell
            words += f" (by chance {_three_digits(100.0 * chance)})"
        parts.append(words)
    return f"{title}: the flow of mass", "   ·   ".join(parts)


def _three_digits(number: float) -> str:
    """Write a number with three digits, also where the last ones are 0."""
    return f"{number:#.3g}".rstrip(".")
