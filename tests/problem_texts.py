"""Problem files that several tests write."""

from __future__ import annotations


def two_gaussians(title: str, cells: int, solver: str = "") -> str:
    """Return a file with two equal Gaussians in the unit square, and no picture.

    Parameters
    ----------
    title, cells
        Its title, and the squares along a side.
    solver
        Lines of the table ``[solver]``.
    """
    return f"""
title = "{title}"
[domain]
kind = "box"
lower = [0, 0]
upper = [1, 1]
cells = {cells}
[source]
kind = "gaussian-mixture"
means = [[0.35, 0.4]]
stds = 0.1
[target]
kind = "gaussian-mixture"
means = [[0.65, 0.6]]
stds = 0.1
[solver]
{solver}
[output]
overview = false
"""
