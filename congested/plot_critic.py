"""The picture of a critic beside a solution: what both say, and where the critic loses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize

from congested.critics.evaluate import CriticFields, Evaluation
from congested.critics.relative import relative_suboptimality
from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.io.files import atomic_path
from congested.plot_panels import (
    FLUX_COLORS,
    Panel,
    density_norm,
    gradient_norm,
    interval,
    log_norm,
    weighted_quantile,
)

_DPI = 150
# At λ = ∞ the scale of |∇f| goes up to this at most: a few steep cells shall not take all of it.
_STEEPEST = 2.0


def plot_critic(
    arrays: ResultArrays, result: Mapping[str, Any], evaluation: Evaluation, file: Path
) -> None:
    """Draw a critic above a solution into a PNG file (one rank).

    Potential, gradient, momentum of both on the same scales, how far the momenta are apart, and
    the indicator η(f) whose integral is what the critic lacks to the upper bound. For W₁ a critic
    has no momentum, and only that of the solution is shown; η(f) is without the penalty of one that
    is too steep, which is infinite.

    Parameters
    ----------
    arrays
        The solution.
    result
        Content of ``compare.json``, and the name of the critic as ``name``.
    evaluation
        The critic, with its fields.
    file
        PNG file to write; it appears under its name when it is complete.
    """
    if evaluation.fields is None:
        raise ValueError("the fields are on rank 0 alone: draw there")
    panels = critic_panels(
        arrays,
        evaluation.fields,
        math.isfinite(_strength(result)),
        too_steep=math.isinf(evaluation.penalty),
    )
    words = critic_headline(result, evaluation)
    with atomic_path(file) as partial:
        if arrays.dimension == 2:
            from congested.plot_plane import draw_panels

            figure, _ = draw_panels(arrays, panels, words)
            figure.savefig(partial, dpi=_DPI, format="png")
        else:
            # Loading VTK takes longer than drawing in 2D.
            from congested.plot_volume import plot_slices

            plot_slices(arrays, panels, words, partial)


def _strength(result: Mapping[str, Any]) -> float:
    return float(result["reference"]["strength"])


def critic_panels(
    arrays: ResultArrays, fields: CriticFields, has_momentum: bool, *, too_steep: bool = False
) -> tuple[Panel, ...]:
    """Choose values and colour scales: the critic's first, then the solution's."""
    volume = arrays.cell_volume
    everywhere = np.ones(len(volume), dtype=bool)
    active = arrays.weight > 0.0 if arrays.weight.any() else everywhere
    potential = arrays.potential[arrays.cells].mean(axis=1)
    length = np.linalg.norm(arrays.gradient, axis=1)
    speed = np.linalg.norm(arrays.momentum, axis=1)
    own_speed = np.linalg.norm(fields.momentum, axis=1)
    heights, fire = colormaps["viridis"], colormaps["inferno"]
    around_one = colormaps["RdBu_r"]
    # One scale for both, with room for what either has.
    level = _common(potential, fields.value, volume)
    reach = 1.0
    if not has_momentum:
        # No flux is steeper than 1, and nearly every critic that was trained is.
        shown = fields.gradient_norm[active]
        reach = min(weighted_quantile(shown, volume[active], 0.95), _STEEPEST)
    slope = gradient_norm(length, speed * volume, reach)
    flux = density_norm(speed, volume)
    lost = np.maximum(fields.indicator, 0.0) / volume
    loss = "lost by f: η(f)/|T|" + (" without the penalty" if too_steep else "")
    rows = [
        ("critic", "critic f", fields.value, everywhere, heights, level),
        ("gradient of f", "|∇f|", fields.gradient_norm, active, around_one, slope),
        ("momentum of f", "momentum of f", own_speed, active, FLUX_COLORS, flux),
        (
            "difference",
            "distance of the momenta",
            fields.momentum_difference,
            active,
            FLUX_COLORS,
            flux,
        ),
        ("potential", "solution u", potential, everywhere, heights, level),
        ("gradient of u", "|∇u|", length, active, around_one, slope),
        ("flux", "momentum m", speed, everywhere, FLUX_COLORS, flux),
        ("lost", loss, lost, active, fire, log_norm(lost, 4.0)),
    ]
    if not has_momentum:
        rows = [rows[0], rows[1], rows[7], rows[4], rows[5], rows[6]]
    return tuple(Panel(*row) for row in rows)


def _common(first: FloatArray, second: FloatArray, volume: FloatArray) -> Normalize:
    """Return a scale that holds all of the first and nearly all of the second."""
    low, high = (weighted_quantile(second, volume, level) for level in (0.005, 0.995))
    low, high = min(low, float(first.min())), max(high, float(first.max()))
    return Normalize(low, high if high > low else low + 1.0)


def critic_headline(result: Mapping[str, Any], evaluation: Evaluation) -> tuple[str, str]:
    """Return the title and the line of numbers below it."""
    strength = _strength(result)
    shown = "∞" if math.isinf(strength) else f"{strength:g}"
    title = f"{result['name']} against {result.get('title') or 'the solution'}, λ = {shown}"
    lower, upper = evaluation.suboptimality
    bounds = float(result["reference"]["lower"]), float(result["reference"]["upper"])
    least, most = relative_suboptimality((lower, upper), *bounds)
    parts = [f"L = {evaluation.critic_loss:.5g}", f"P = {evaluation.penalty:.4g}"]
    if math.isfinite(upper):
        lost = f"{lower:.3g} to {upper:.3g}"
        if math.isfinite(most):
            lost = f"{100 * least:.3g} to {100 * most:.3g} %"
        parts.append(f"D = {evaluation.dual_value:.5g}, {lost} below the best there is")
    elif math.isinf(strength) and math.isinf(evaluation.penalty):
        parts.append("no critic of W₁: |∇f| exceeds 1")
    else:
        parts.append(f"D = {evaluation.dual_value:.5g}")
    parts.append(f"cost in {interval(*bounds)}")
    mean = evaluation.gradient_norm.weight
    if math.isfinite(mean):
        parts.append(f"mean |∇f| = {mean:.4g} under σ (|∇u| {_solution_mean(evaluation):.4g})")
    return title, "   ·   ".join(parts)


def _solution_mean(evaluation: Evaluation) -> float:
    return evaluation.solution_gradient_norm.weight
