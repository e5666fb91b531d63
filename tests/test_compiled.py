"""Machine code on disk is used again, and made anew when a file that it depends on has changed."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

INNER = """
from congested.compiled import compiler
compiled = compiler(__file__)

@compiled
def inner(x):
    return x + {number}
"""
OUTER = """
import inner_{name}
from congested.compiled import compiler
inner = inner_{name}.inner
compiled = compiler(__file__, inner_{name}.__file__)

@compiled
def outer(x):
    return 10.0 * inner(x)
"""


def load(name: str) -> object:
    """Import both modules as a new process would."""
    for module in (f"inner_{name}", f"outer_{name}"):
        sys.modules.pop(module, None)
    importlib.invalidate_caches()
    return importlib.import_module(f"outer_{name}")


def write(folder: Path, name: str, number: str, seconds: int) -> None:
    (folder / f"inner_{name}.py").write_text(INNER.format(number=number))
    os.utime(folder / f"inner_{name}.py", (seconds, seconds))


def test_code_is_kept_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "outer_kept.py").write_text(OUTER.format(name="kept"))
    write(tmp_path, "kept", "1.0", 1_000_000_000)
    first = load("kept")
    assert first.outer(2.0) == 30.0
    assert sum(first.outer.stats.cache_misses.values()) == 1
    again = load("kept")
    assert again.outer(2.0) == 30.0
    assert sum(again.outer.stats.cache_hits.values()) == 1
    # Only the inner file changes, and not even its length.
    write(tmp_path, "kept", "5.0", 1_000_000_100)
    changed = load("kept")
    assert changed.outer(2.0) == 70.0
    assert sum(changed.outer.stats.cache_misses.values()) == 1
