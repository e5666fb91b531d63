"""The picture of a critic beside a solution: what is shown, on which scales, in which words."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from congested.comparison import compare
from congested.critics.evaluate import evaluate
from congested.critics.network import Network
from congested.plot_critic import critic_headline, critic_panels, plot_critic
from congested.plot_panels import gradient_norm, weighted_quantile
from tests.critics.references import own_potential, reference


def critic(dimension: int, steepness: float = 2.0) -> Network:
    random = np.random.default_rng(dimension)
    weights = random.normal(size=(6, dimension)), random.normal(size=(1, 6))
    scale = steepness / np.linalg.norm(weights[1] @ weights[0])
    return Network(weights, (random.normal(size=6), np.zeros(1))).scaled(scale)


def result_of(name: str) -> dict:
    return {"name": "critic.pt", **compare(reference(name), {}).result()}


@pytest.mark.parametrize("name", ["plane", "w1", "closed", "same", "p2", "cube"])
def test_a_picture_of_every_kind(name: str, tmp_path: Path) -> None:
    found = reference(name)
    one = evaluate(found, critic(found.dimension))
    file = tmp_path / "compare_critic.png"
    assert found.arrays is not None
    plot_critic(found.arrays, result_of(name), one, file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    picture = imread(file)[..., :3]
    height, width = picture.shape[:2]
    assert width > 1500
    assert height > 800
    # Something is drawn in each of the panels' places, and the margins are white.
    rows, columns = (2, 3) if name == "w1" else (2, 4)
    for row in range(rows):
        for column in range(columns):
            part = picture[
                height * (row + 1) // (rows + 1) : height * (row + 2) // (rows + 1),
                width * column // columns : width * (column + 1) // columns,
            ]
            assert part.std() > 0.02, (row, column)
    assert (picture[:5] == 1.0).all()
    assert (picture[:, :2] == 1.0).all()


def test_both_are_shown_on_the_same_scales() -> None:
    found = reference("plane")
    one = evaluate(found, critic(2))
    assert found.arrays is not None
    assert one.fields is not None
    panels = {panel.name: panel for panel in critic_panels(found.arrays, one.fields, True)}
    assert len(panels) == 8
    for ours, theirs in (
        ("critic", "potential"),
        ("gradient of f", "gradient of u"),
        ("momentum of f", "flux"),
        ("difference", "flux"),
    ):
        assert panels[ours].norm is panels[theirs].norm
    np.testing.assert_array_equal(panels["critic"].values, one.fields.value)
    speed = np.linalg.norm(one.fields.momentum, axis=1)
    np.testing.assert_array_equal(panels["momentum of f"].values, speed)
    lost = panels["lost"].values @ found.arrays.cell_volume
    assert lost == pytest.approx(found.bounds.upper - one.dual_value, rel=1e-9)
    level = panels["critic"].norm
    assert level.vmin <= one.fields.value.min()
    assert level.vmax >= one.fields.value.max()


def test_the_own_potential_looks_like_the_solution() -> None:
    found = reference("plane")
    one = evaluate(found, own_potential(found))
    assert found.arrays is not None
    assert one.fields is not None
    panels = {panel.name: panel for panel in critic_panels(found.arrays, one.fields, True)}
    for ours, theirs in (("critic", "potential"), ("gradient of f", "gradient of u")):
        np.testing.assert_allclose(panels[ours].values, panels[theirs].values, atol=1e-12)


def test_w1_shows_no_momentum_of_the_critic() -> None:
    found = reference("w1")
    one = evaluate(found, critic(2))
    assert found.arrays is not None
    assert one.fields is not None
    panels = critic_panels(found.arrays, one.fields, False)
    names = [panel.name for panel in panels]
    assert names == ["critic", "gradient of f", "lost", "potential", "gradient of u", "flux"]
    assert panels[2].title == "lost by f: η(f)/|T|"
    panels = critic_panels(found.arrays, one.fields, False, too_steep=True)
    assert panels[2].title == "lost by f: η(f)/|T| without the penalty"


@pytest.mark.parametrize("steepness", [0.5, 1.2, 20.0])
def test_w1_shows_how_steep_a_critic_is(steepness: float) -> None:
    found = reference("w1")
    one = evaluate(found, critic(2, steepness))
    assert found.arrays is not None
    assert one.fields is not None
    panels = {panel.name: panel for panel in critic_panels(found.arrays, one.fields, False)}
    ours, theirs = panels["gradient of f"], panels["gradient of u"]
    assert ours.norm is theirs.norm
    quantile = weighted_quantile(one.fields.gradient_norm, found.arrays.cell_volume, 0.95)
    flux_alone = gradient_norm(
        np.linalg.norm(found.arrays.gradient, axis=1),
        np.linalg.norm(found.arrays.momentum, axis=1) * found.arrays.cell_volume,
    )
    assert ours.limits[1] == pytest.approx(max(flux_alone.vmax, min(quantile, 2.0)))
    # One is in the middle of the colours whatever the scale's end.
    assert ours.norm(1.0) == pytest.approx(0.5)
    # Slopes below the end are told apart.
    shown = np.linspace(1.0, ours.limits[1], 5)
    assert (np.diff(ours.norm(shown)) > 0.05).all()


def test_words() -> None:
    found = reference("plane")
    title, numbers = critic_headline(result_of("plane"), evaluate(found, own_potential(found)))
    assert title == "critic.pt against Two Gaussians, λ = 10"
    assert "L = 0.368 " in numbers
    gap = found.bounds.upper / found.bounds.lower - 1.0
    assert f"D = 0.36423, 0 to {100 * gap:.3g} % below the best there is" in numbers
    assert "mean |∇f| = 1.018 under σ (|∇u| 1.018)" in numbers
    found = reference("w1")
    title, numbers = critic_headline(result_of("w1"), evaluate(found, critic(2, 20.0)))
    assert title.endswith("λ = ∞")
    assert "no critic of W₁: |∇f| exceeds 1" in numbers
    assert "nan" not in numbers
    # What is infinite at a finite λ has other reasons.
    found = reference("plane")
    one = evaluate(found, critic(2))
    for changed in (
        dataclasses.replace(one, penalty=math.inf, suboptimality=(math.inf, math.inf)),
        dataclasses.replace(one, suboptimality=(0.0, math.inf)),
    ):
        numbers = critic_headline(result_of("plane"), changed)[1]
        assert "W₁" not in numbers
        assert f"D = {changed.dual_value:.5g}   ·" in numbers
    title, numbers = critic_headline(result_of("same"), evaluate(reference("same"), critic(2)))
    assert title == "critic.pt against the solution, λ = 10"
    assert "%" not in numbers
    assert "below the best there is" in numbers


def test_other_ranks_have_nothing_to_draw(tmp_path: Path) -> None:
    found = reference("plane")
    one = dataclasses.replace(evaluate(found, critic(2)), fields=None)
    assert found.arrays is not None
    with pytest.raises(ValueError, match="the fields are on rank 0 alone"):
        plot_critic(found.arrays, result_of("plane"), one, tmp_path / "x.png")
    assert math.isfinite(one.error)
