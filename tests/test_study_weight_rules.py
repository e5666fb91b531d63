"""The study of the weight's rules runs on small meshes, and what it says of them holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType

import pytest

from congested.weights import raster
from tests.scripts import load_script

# The error that is made, over the one that is stated: 0.5 to 1.4 were seen.
HONEST = 2.0


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("study_weight_rules")


def test_rules_of_two_pairs(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster, "_PIXELS", 48)  # which make the raster rough and fast
    monkeypatch.setattr(raster, "_DIRECTIONS", 48)
    flags = ["--cells", "1000", "--draws", "200000", "--pairs", "discs", "points-gauss"]
    rows, segments = script.main([*flags, "-o", str(tmp_path)])
    assert segments == []
    assert [(row.pair, row.rule, row.chosen) for row in rows] == [
        ("discs", "rays", True),
        ("discs", "raster", False),
        ("discs", "sampled", False),
        ("points-gauss", "rays", True),
        ("points-gauss", "sampled", False),
    ]
    for row in rows:
        assert row.cells == 1024
        assert row.reference_stated < 1e-5
        assert row.reference_stated < row.error < HONEST * row.stated + row.reference_stated
        assert row.gain == pytest.approx(row.plain_points / row.error)
        # Random points in some thousand cells: √(2/π) standard deviations in each, and fewer in
        # cells with next to nothing.
        assert 0.1 < row.draws_error * (row.draws / row.cells) ** 0.5 < 0.8
    rays = {row.pair: row for row in rows if row.rule == "rays"}
    assert rays["discs"].gain > 10.0
    assert rays["points-gauss"].gain > 10.0

    stored = json.loads((tmp_path / "weight_rules.json").read_text())
    assert [rule["error"] for rule in stored["rules"]] == [row.error for row in rows]
    with (tmp_path / "weight_rules.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(line["gain"]) for line in table] == [row.gain for row in rows]


def test_exact_rules_have_no_gain(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = script.Pair(
        "", script.cloud(3, 60, 1, 0.4, 0.2), script.cloud(3, 50, 2, 0.6, 0.2), (0.0,) * 3,
        (1.0,) * 3, "all pairs",
    )  # fmt: skip
    monkeypatch.setattr(script, "pairs", lambda: {"few": few})
    (row,) = script.main(["--cells", "400", "--draws", "1000", "-o", str(tmp_path)])[0]
    assert (row.rule, row.dimension, row.samples) == ("all-pairs", 3, 3000)
    assert row.error < 1e-14
    assert row.gain is row.plain_points is row.plain_segments is row.gain_over_segments is None
    assert json.loads((tmp_path / "weight_rules.json").read_text())["rules"][0]["gain"] is None


def test_segments_take_no_memory_of_their_own(script: ModuleType, tmp_path: Path) -> None:
    flags = ["--segments", "400", "800", "--cells", "1000", "-o", str(tmp_path)]
    rows, (some, many) = script.main(flags)
    assert rows == []
    assert (some.segments, many.segments) == (160_000, 640_000)
    assert some.mass == pytest.approx(1.0, abs=1e-12)
    assert many.mass == pytest.approx(1.0, abs=1e-12)
    assert many.megabytes < 1.1 * some.megabytes + 1.0
