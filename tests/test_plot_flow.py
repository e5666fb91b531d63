"""Pictures of particle flows, still and moving: what is drawn, in which colours, how often."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from congested import plot_animation
from congested.errors import InputError
from congested.flow.frames import Frames, frames_at_constant_speed
from congested.flow.particles import Paths
from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.plot_animation import animate_flow, can_animate, moment_panel
from congested.plot_flow import Group, flow_figure, plot_flow, straight_ways
from congested.plot_panels import SOURCE_COLOR, TARGET_COLOR
from congested.plot_traffic import (
    GREY_TO_RED,
    WAY_COLORS,
    congestion_panel,
    flow_headline,
    pale_mixture,
)
from tests.test_plot import flow
from tests.test_plot_plane import bundle


def content(strength: float = 10.0) -> dict[str, Any]:
    return {
        "title": "A bundle of flow",
        "bounds": {"lower": 0.5, "upper": 0.51},
        "values": {"momentum_l1": 0.505},
        "problem": {"penalty": {"strength": "inf" if math.isinf(strength) else strength}},
        "flow": {
            "particles": 20_000,
            "momentum_relative_l1": 0.0123,
            "momentum_relative_l1_chance": 0.0131,
        },
    }


def bent_paths(number: int, dimension: int = 2, factor: float = 1.5) -> Paths:
    """Return polygons of two pieces through the middle of the unit square or cube."""
    random = np.random.default_rng(2)
    low, high = (random.normal(size=(number, dimension)) * 0.03 for _ in range(2))
    middle = np.full((number, dimension), 0.5)
    points = np.stack([0.3 + low, middle, 0.7 + high], axis=1).reshape(-1, dimension)
    count = len(points)
    factors = np.tile([1.0, factor, factor], number)
    return Paths(np.arange(number + 1) * 3, points, np.zeros(count), np.zeros(count), factors)


def bent_frames(number: int, dimension: int = 2, times: int = 6, factor: float = 1.5) -> Frames:
    paths = bent_paths(number, dimension, factor)
    return frames_at_constant_speed(paths, np.full(number, 1.0 / max(number, 1)), times - 1)


def rays(number: int = 40, dimension: int = 2) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(4)
    shape = number, dimension
    return random.normal(0.3, 0.03, shape), random.normal(0.7, 0.03, shape)


def groups(number: int = 2, size: int = 40, dimension: int = 2) -> list[Group]:
    return [(bent_paths(size, dimension), rays(size, dimension))] * number


def ways_of(axes: Axes) -> LineCollection:
    """Return the coloured lines of a panel; the other ones are the outline."""
    (lines,) = (
        item
        for item in axes.collections
        if isinstance(item, LineCollection) and item.get_array() is not None
    )
    return lines


# --- what is shown --------------------------------------------------------------------------


def test_congestion_factor_and_its_scale() -> None:
    arrays = bundle()
    panel = congestion_panel(arrays, 10.0)
    speed = np.linalg.norm(arrays.momentum, axis=1)
    moved = panel.active
    expected = 1.0 + speed[moved] / (20.0 * arrays.weight[moved])
    np.testing.assert_allclose(panel.values[moved], expected)
    assert panel.norm.vmin == 1.0
    # What is grey has a thousandth of the traffic.
    traffic = speed * arrays.cell_volume
    assert 0.0 < traffic[~moved].sum() <= 1e-3 * traffic.sum()
    assert panel.inactive == "together 0.1 % of the traffic"
    # For W₁ the factor is 1: the traffic itself.
    unbounded = congestion_panel(arrays, math.inf)
    np.testing.assert_array_equal(unbounded.values, speed)
    np.testing.assert_array_equal(unbounded.active, moved)
    # What is hardly there can be told from nothing, and the scale is not that of a few cells.
    norm = unbounded.norm
    assert isinstance(norm, PowerNorm) and norm.gamma == 0.5 and norm.vmin == 0.0
    beyond = speed > norm.vmax
    assert 0.05 < traffic[beyond].sum() / traffic.sum() <= 0.1
    # Where nothing moves at all, everything is grey.
    still = congestion_panel(bundle(momentum=np.zeros(arrays.momentum.shape)), 10.0)
    assert not still.active.any()


def test_words() -> None:
    title, numbers = flow_headline(content())
    assert title == "A bundle of flow: the flow of mass"
    assert numbers == (
        "λ = 10   ·   cost in [0.500, 0.510]   ·   mean way ∫|m| = 0.505   ·   "
        "20,000 particles: momentum off by 1.23 % (by chance 1.31)"
    )
    # As many digits of both, and no point behind the last.
    chance = {"momentum_relative_l1": 1.234, "momentum_relative_l1_chance": 0.03}
    noisy = {**content(), "flow": {**content()["flow"], **chance}}
    assert flow_headline(noisy)[1].endswith("momentum off by 123 % (by chance 3.00)")
    single = {"particles": 1, "momentum_relative_l1": 1.9, "momentum_relative_l1_chance": None}
    assert flow_headline({**content(), "flow": single})[1].endswith("momentum off by 190 %")
    assert flow_headline(content(math.inf), brief=True)[1].startswith("λ = ∞")
    assert "particles" not in flow_headline(content(), brief=True)[1]
    lost = {"critic": {"scale": [0.0, 0.25], "lost": [1.8, 0.08]}}
    flow = {"critic": "mine.pt", "momentum_l1": 0.61, "imbalance": lost}
    words = "λ = 10   ·   ∫|m| = 0.61, of the solution 0.505"
    assert flow_headline({**content(), "flow": flow}, brief=True) == (
        "A bundle of flow: the flow of mine.pt",
        f"{words}   ·   dots are not weighted by mass",
    )
    whole = flow_headline({**content(), "flow": flow})[1]
    assert whole == f"{words}   ·   mass lost 1.8 in cells, 0.08 in boxes of side 0.25"
    bare = {"problem": {"penalty": {"strength": 1.0}}}
    assert flow_headline(bare) == ("Congested transport: the flow of mass", "λ = 1")


def test_pale_colours_of_two_densities() -> None:
    source, target = np.array([0.0, 4.0, 0.0, 4.0]), np.array([0.0, 0.0, 1.0, 1.0])
    nothing, blue, orange, both = pale_mixture(source, target)
    np.testing.assert_array_equal(nothing, 1.0)
    for color, full in ((blue, SOURCE_COLOR), (orange, TARGET_COLOR)):
        np.testing.assert_allclose(1.0 - color, 0.3 * (1.0 - np.array(to_rgb(full))))
    np.testing.assert_allclose(both, blue * orange)
    np.testing.assert_array_equal(pale_mixture(np.zeros(3), np.zeros(3)), 1.0)


# --- the still picture ----------------------------------------------------------------------


def test_lines_of_paths_and_rays() -> None:
    figure = flow_figure(bundle(), content(), groups(), lines=30)
    ways = frames_at_constant_speed(bent_paths(40), np.ones(40), 64).positions
    ways = ways[np.arange(30) * 40 // 30]
    panels = figure.axes[:6:2]
    assert [axes.get_title() for axes in panels] == [
        "particle paths over 1 + |m|/(2λσ)",
        "straight rays of W₁ over the same",
        "traffic: flow less straight rays",
    ]
    lines = ways_of(panels[0])
    segments = np.asarray(lines.get_segments())
    assert segments.shape == (30 * 64, 2, 2)
    # Piece after piece along each path, coloured by how much of it lies behind.
    np.testing.assert_array_equal(segments[:64, 0], ways[0, :-1])
    np.testing.assert_array_equal(segments[64:128, 1], ways[1, 1:])
    np.testing.assert_allclose(lines.get_array(), np.tile((np.arange(64) + 0.5) / 64, 30))
    assert lines.get_cmap() is WAY_COLORS
    assert (lines.norm.vmin, lines.norm.vmax) == (0.0, 1.0)
    straight = np.asarray(ways_of(panels[1]).get_segments())
    assert len(straight) == 30 * 24
    starts, ends = (side[np.arange(30) * 40 // 30] for side in rays())
    np.testing.assert_array_equal(straight[::24, 0], starts)
    np.testing.assert_allclose(straight[23::24, 1], ends)
    assert not any(isinstance(item, LineCollection) for item in panels[2].collections[1:])
    assert [text.get_text() for text in figure.texts[2:]] == ["leaves", "arrives"]
    assert "grey: together 0.1 % of the traffic" in [text.get_text() for text in panels[0].texts]


PATHS, RAYS = "particle paths over 1 + |m|/(2λσ)", "straight rays of W₁ over the same"


@pytest.mark.parametrize(
    ("strength", "number", "titles"),
    [
        (10.0, 0, [PATHS, "traffic |m|"]),
        # One group says nothing about chance.
        (10.0, 1, [PATHS, RAYS, "traffic |m|"]),
        (10.0, 3, [PATHS, RAYS, "traffic: flow less straight rays"]),
        (math.inf, 0, ["particle paths over |m|"]),
        (math.inf, 2, ["particle paths over |m|", RAYS, "traffic: flow less straight rays"]),
    ],
)
def test_panels_depend_on_what_there_is(strength: float, number: int, titles: list[str]) -> None:
    figure = flow_figure(bundle(12), content(strength), groups(number, 100))
    panels = figure.axes[: 2 * len(titles) : 2]
    assert [axes.get_title() for axes in panels] == titles
    assert len(figure.axes) == 2 * len(titles) + 1  # and the scale of the lines
    # Beside each other.
    assert len({round(axes.get_position().y0, 6) for axes in panels}) == 1
    # Few lines where |m| behind them is what there is to see.
    drawn = len(ways_of(panels[0]).get_segments()) // 64
    assert drawn == {0: 0, 1: 100}.get(number, 250 if strength == 10.0 and number > 2 else 60)


def test_straight_ways_through_a_hole_are_none() -> None:
    figure = flow_figure(bundle(hole=True), content(), groups())
    assert [axes.get_title() for axes in figure.axes[:4:2]] == [PATHS, "traffic |m|"]
    words = [text.get_text() for text in figure.texts]
    assert words[4:] == ["no straight rays: some would leave the domain"]
    # Of a critic there is still something to compare.
    solved = np.zeros((len(bundle(hole=True).cells), 2))
    figure = flow_figure(bundle(hole=True), content(), groups(1), solved=solved)
    titles = [axes.get_title() for axes in figure.axes[:4:2]]
    assert titles == [PATHS, "traffic: critic less solution"]
    # Along the wall is inside.
    starts, ends = np.array([[0.0, 0.0]] * 3), np.array([[1.0, 0.0]] * 3)
    along = [(bent_paths(3), (starts, ends))]
    assert len(flow_figure(bundle(hole=True), content(), along).axes) == 7
    none = [(bent_paths(0), (starts[:0], ends[:0]))] * 2
    assert len(flow_figure(bundle(), content(), none).axes) == 7


def test_picture_in_the_plane(tmp_path: Path) -> None:
    file = tmp_path / "flow.png"
    plot_flow(bundle(), content(), groups(2, 300), file)
    assert [path.name for path in tmp_path.iterdir()] == ["flow.png"]
    picture = imread(file)[..., :3]
    height, width = picture.shape[:2]
    assert 700 < height < width < 3000
    # Lines are there, dark where they leave and pale green where they arrive.
    left = picture[:, : width // 3].reshape(-1, 3)
    for part in (0.05, 0.95):
        near = np.abs(left - WAY_COLORS(part)[:3]).max(axis=1) < 0.06
        assert near.sum() > 300
    plot_flow(bundle(), content(), [], file)
    fewer = imread(file)[..., :3]
    left = fewer[200:, : fewer.shape[1] // 2].reshape(-1, 3)
    assert (np.abs(left - WAY_COLORS(0.95)[:3]).max(axis=1) < 0.06).sum() == 0


def test_no_more_lines_than_a_picture_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, ...]] = []
    from congested import plot_flow as module

    monkeypatch.setattr(
        module, "_draw_ways", lambda _, ways, width: drawn.append((len(ways), ways.shape[1]))
    )
    plot_flow(bundle(8), content(), groups(2, 800), tmp_path / "flow.png")
    assert drawn == [(250, 65), (250, 25)]
    # Of small groups there are paths enough, but rays of W₁ in one cross those in another.
    drawn.clear()
    plot_flow(bundle(8), content(), groups(5, 70), tmp_path / "flow.png")
    assert drawn == [(250, 65), (70, 25)]
    drawn.clear()
    plot_flow(bundle(8), content(), groups(5, 70), tmp_path / "flow.png", lines=0)
    assert drawn == [(0, 65), (0, 25)]
    assert straight_ways(rays(3)).shape == (3, 25, 2)


@pytest.mark.parametrize("strength", [10.0, math.inf])
def test_picture_in_space(
    tmp_path: Path, strength: float, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flow.png"
    chosen = groups(1, 40, 3) if math.isfinite(strength) else []
    plot_flow(flow(3, 6), content(strength), chosen or [(bent_paths(40, 3), outside())], file)
    picture = imread(file)[..., :3]
    columns = 4 if math.isfinite(strength) else 2
    height = picture.shape[0]
    blocks = np.array_split(picture[height // 4 :], columns, axis=1)
    assert min(block.std() for block in blocks) > 0.02
    tubes = blocks[0][:, : 3 * blocks[0].shape[1] // 4].reshape(-1, 3)
    saturated = np.ptp(tubes, axis=1) > 0.25
    assert saturated.sum() > 500
    assert capfd.readouterr() == ("", "")
    plot_flow(flow(3, 4), content(strength), [], file)


def outside() -> tuple[FloatArray, FloatArray]:
    """Return straight rays that leave the cube."""
    return np.full((3, 3), 0.9), np.full((3, 3), 1.4)


def test_words_of_a_picture_in_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []

    def keep(self: Figure, *_: object, **__: object) -> None:
        figures.append(self)

    monkeypatch.setattr(Figure, "savefig", keep)
    monkeypatch.setattr("congested.plot_flow.atomic_path", nullcontext)
    for rays_ in (rays(40, 3), outside()):
        plot_flow(flow(3, 4), content(), [(bent_paths(40, 3), rays_)], tmp_path / "flow.png")
    within, without = figures
    # Colours of lines stand for no numbers.
    scales = [[text.get_text() for text in axes.get_yticklabels()] for axes in within.axes[1::2]]
    assert scales[:2] == [["leaves", "arrives"]] * 2
    assert len(within.texts) == 2
    assert len(without.axes) == len(within.axes) - 2
    assert without.texts[2].get_text() == "no straight rays: some would leave the domain"


# --- the moving picture ---------------------------------------------------------------------


def read_frames(file: Path) -> tuple[list[FloatArray], list[int]]:
    with Image.open(file) as picture:
        assert picture.info["loop"] == 0
        pictures, times = [], []
        for number in range(picture.n_frames):  # type: ignore[attr-defined]
            picture.seek(number)
            pictures.append(np.asarray(picture.convert("RGB"), dtype=float) / 255.0)
            times.append(picture.info["duration"])
    return pictures, times


def where(picture: FloatArray, color: tuple[float, ...]) -> FloatArray:
    """Return rows and columns (k, 2) of pixels of a colour, apart from words and colour bar."""
    found = np.argwhere(np.abs(picture - np.array(color[:3])).max(axis=2) < 0.02)
    return found[(found[:, 1] < 0.8 * picture.shape[1]) & (found[:, 0] > 100)]


def test_particles_move_and_change_their_colours(tmp_path: Path) -> None:
    file = tmp_path / "flow.gif"
    animate_flow(bundle(), content(), bent_frames(50), file)
    assert [path.name for path in tmp_path.iterdir()] == ["flow.gif"]
    pictures, times = read_frames(file)
    assert times == [700, 90, 90, 90, 90, 1600]
    assert {picture.shape for picture in pictures} == {pictures[0].shape}
    height, width = pictures[0].shape[:2]
    assert height % 2 == width % 2 == 0
    # Free in the first half of the way, congested in the second.
    free, congested = GREY_TO_RED(0.0), GREY_TO_RED(1.0)
    assert len(where(pictures[0], free)) > 100
    assert len(where(pictures[0], congested)) == 0
    assert len(where(pictures[-1], free)) == 0
    assert len(where(pictures[-1], congested)) > 100
    # From the lower left to the upper right, by 0.4 of the side of the square.
    start, end = where(pictures[0], free), where(pictures[-1], congested)
    move = (end.mean(axis=0) - start.mean(axis=0)) / 560.0
    np.testing.assert_allclose(move, [-0.4, 0.4], atol=0.02)
    # White is white, and what does not move does not flicker.
    assert (pictures[0][:4] == 1.0).all()
    same = np.all([picture == pictures[0] for picture in pictures], axis=0)
    assert same.mean() > 0.9
    below = height // 2 + 100
    assert same[below:, width - 90 :].all()


def test_sources_and_targets_lie_below(tmp_path: Path) -> None:
    file = tmp_path / "flow.gif"
    animate_flow(bundle(), content(), bent_frames(0, times=2), file)
    (first, _), _ = read_frames(file)
    height = first.shape[0]
    # x = 0.2 and x = 0.8 on the axis of the square, whose side has 560 pixels above 20.
    row = height - 20 - 280
    left = int(0.5 * (first.shape[1] - 560 - 80))
    blue, orange = first[row, left + 112], first[row, left + 448]
    assert blue[2] > blue[0] + 0.1
    assert orange[0] > orange[2] + 0.1


def test_points_are_discs(tmp_path: Path) -> None:
    points = np.zeros(2 * 48**2)
    points[[100, 2000]] = 1.0
    file = tmp_path / "flow.gif"
    animate_flow(bundle(48, source=points), content(), bent_frames(0, times=2), file)
    (first, _), _ = read_frames(file)
    assert len(where(first, to_rgb(SOURCE_COLOR))) > 30


def test_many_particles_in_a_small_file(tmp_path: Path) -> None:
    file = tmp_path / "flow.gif"
    animate_flow(bundle(), content(), bent_frames(2000, times=41), file)
    assert len(read_frames(file)[0]) == 41
    assert file.stat().st_size < 3e6


def test_w1_has_no_congestion_and_shows_lengths(tmp_path: Path) -> None:
    frames = bent_frames(50, factor=1.0)
    panel = moment_panel(frames, math.inf)
    way = np.linalg.norm(np.diff(frames.positions, axis=1), axis=2).sum(axis=1)
    np.testing.assert_array_equal(panel.values.reshape(50, 6), np.tile(way[:, None], 6))
    animate_flow(bundle(), content(math.inf), frames, tmp_path / "flow.gif")
    for picture in read_frames(tmp_path / "flow.gif")[0]:
        # Some lengths are short of the longest; all are far from the short end of the scale.
        assert sum(len(where(picture, WAY_COLORS(part))) for part in (0.7, 0.8, 0.9, 1.0)) > 50
        assert sum(len(where(picture, WAY_COLORS(part))) for part in (0.0, 0.1, 0.2)) == 0


@pytest.mark.parametrize("aspect", [1, 4])
def test_wide_domains_and_long_titles(tmp_path: Path, aspect: int) -> None:
    long = {**content(), "title": "A very long title " * 8}
    arrays = bundle(8, aspect=aspect)
    frames = bent_frames(20, times=2)
    animate_flow(arrays, long, frames, tmp_path / "flow.gif")
    (first, _), _ = read_frames(tmp_path / "flow.gif")
    assert (first[:, :3] == 1.0).all()
    assert (first[:, -3:] == 1.0).all()
    assert first[:40].std() > 0.05


def test_particles_in_space_are_seen_from_the_side(tmp_path: Path) -> None:
    file = tmp_path / "flow.gif"
    arrays: ResultArrays = flow(3, 5)
    frames = bent_frames(60, 3, times=3)
    animate_flow(arrays, content(), frames, file)
    pictures, _ = read_frames(file)
    from congested.plot_scene import make_scene, view

    scene = make_scene(arrays)
    left, right, _, _ = view(scene)
    scale = 560.0 / (right - left)  # of the longer side; nearly so of the shorter
    start, end = (
        where(pictures[number], GREY_TO_RED(part)).mean(axis=0)
        for number, part in ((0, 0.0), (2, 1.0))
    )
    way = frames.positions[:, -1].mean(axis=0) - frames.positions[:, 0].mean(axis=0)
    expected = np.array([-(way @ scene.up), way @ scene.right])
    move = end - start
    assert move @ expected > 0.99 * np.linalg.norm(move) * np.linalg.norm(expected)
    assert np.linalg.norm(move) == pytest.approx(scale * np.linalg.norm(expected), rel=0.15)
    animate_flow(arrays, content(), bent_frames(0, 3, times=2), file)


def test_other_endings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = bent_frames(3, times=2)
    with pytest.raises(InputError, match=r"found '\.avi'; allowed: \.gif, \.mp4"):
        animate_flow(bundle(4), content(), frames, tmp_path / "flow.avi")
    monkeypatch.setattr(plot_animation.FFMpegWriter, "isAvailable", classmethod(lambda _: False))
    assert can_animate(".gif")
    assert not can_animate(".mp4")
    with pytest.raises(InputError, match="needs ffmpeg"):
        animate_flow(bundle(4), content(), frames, tmp_path / "flow.mp4")
    assert not list(tmp_path.iterdir())


def test_a_film_repeats_what_is_seen_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grabbed: list[FloatArray] = []

    class Writer:
        """Stand for ffmpeg, which is rarely there."""

        def __init__(self, fps: float, extra_args: list[str]) -> None:
            assert fps == pytest.approx(11.1, abs=0.1)
            self.words = " ".join(extra_args)

        @classmethod
        def isAvailable(cls) -> bool:
            return True

        @contextmanager
        def saving(self, figure: Figure, file: str, dpi: int) -> Iterator[None]:
            self.figure = figure
            width, height = figure.get_size_inches() * dpi
            assert width % 2.0 == height % 2.0 == 0.0  # as the codec wants it
            yield
            Path(file).write_text(self.words)

        def grab_frame(self) -> None:
            grabbed.append(np.asarray(self.figure.images[0].get_array()))

    monkeypatch.setattr(plot_animation, "FFMpegWriter", Writer)
    assert can_animate(".mp4")
    animate_flow(bundle(8), content(), bent_frames(20, times=4), tmp_path / "flow.mp4")
    # The hidden name does not tell what the file is, so that the options must.
    assert (tmp_path / "flow.mp4").read_text() == "-f mp4 -pix_fmt yuv420p"
    assert len(grabbed) == 8 + 1 + 1 + 18
    changes = [n for n in range(1, 28) if (grabbed[n] != grabbed[n - 1]).any()]
    assert changes == [8, 9, 10]
