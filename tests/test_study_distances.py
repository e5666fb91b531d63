"""The study of distances: upper bounds, better with more points and with paths across facets."""

from __future__ import annotations

import pytest

from tests.scripts import load_script


def test_the_quick_study(capsys: pytest.CaptureFixture[str]) -> None:
    results = load_script("study_distances").main(["--quick"])
    assert {name for name, _ in results} == {"disc with hole", "ball"}
    for found in results.values():
        for mean, most in found.values():
            assert 0.0 < mean < most
        assert found["distances"][0] < found["graph"][0]
    for name in ("disc with hole", "ball"):
        for kind in ("graph", "distances"):
            assert results[name, 1][kind][0] < 0.7 * results[name, 0][kind][0]
    assert "disc with hole" in capsys.readouterr().out
