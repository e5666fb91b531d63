"""Make the pictures and the field that problem files in scripts/problems/ read.

``letter.png`` is a black F on white paper, ``ring.png`` a grey ring that is darker on the right,
``lanes_source.png`` and ``lanes_target.png`` two black discs each at opposite corners of a
rectangle, ``disc_field.vtu`` the mesh of the disc with a hole with two densities on it: ``hill`` at
the points, ``sector`` in the cells.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import meshio
import numpy as np
from PIL import Image

from congested.domain import read_mesh_file

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS = ROOT / "scripts" / "problems"

# Pixels along each side, and how many points along each side of a pixel decide on its grey.
PIXELS, POINTS = 96, 4


def draw(brightness: np.ndarray) -> Image.Image:
    """Return a grey picture of an array (n, n) of numbers from 0 to 1 on points of [0, 1]²."""
    blocks = brightness.reshape(PIXELS, POINTS, PIXELS, POINTS).mean(axis=(1, 3))
    return Image.fromarray(np.rint(255 * blocks).astype(np.uint8))


def make(output: Path) -> list[Path]:
    """Write the files and return their names."""
    along = (np.arange(PIXELS * POINTS) + 0.5) / (PIXELS * POINTS)
    # Rows from the top, so that y falls.
    x, y = np.meshgrid(along, along[::-1])
    stem = (x > 0.3) & (x < 0.42) & (y > 0.15) & (y < 0.85)
    bars = (x > 0.3) & (x < 0.72) & (y > 0.73) & (y < 0.85)
    bars |= (x > 0.3) & (x < 0.6) & (y > 0.46) & (y < 0.57)
    letter = output / "letter.png"
    draw(1.0 - (stem | bars)).save(letter, optimize=True)
    distance = np.hypot(x - 0.5, y - 0.5)
    ring = output / "ring.png"
    inked = (distance > 0.22) & (distance < 0.38)
    draw(np.where(inked, 0.75 - 0.75 * x, 1.0)).save(ring, optimize=True)
    files = [letter, ring]
    for name, sign in (("source", 1.0), ("target", -1.0)):
        discs = np.hypot(x - 0.5 + 0.2 * sign, y - 0.15) < 0.08
        discs |= np.hypot(x - 0.5 - 0.2 * sign, y - 0.85) < 0.08
        files.append(output / f"lanes_{name}.png")
        draw(1.0 - discs).save(files[-1], optimize=True)

    points, cells = read_mesh_file(ROOT / "meshes" / "disc_with_hole.msh")
    hill = np.maximum(0.0, 1.0 - ((points - np.array([-0.6, 0.2])) ** 2).sum(axis=1) / 0.16)
    middle = points[cells].mean(axis=1)
    sector = (middle[:, 0] > 0.55) & (middle[:, 1] < 0.0)
    field = output / "disc_field.vtu"
    meshio.write(
        field,
        meshio.Mesh(
            np.column_stack([points, np.zeros(len(points))]),
            [("triangle", cells.astype(np.int32))],
            point_data={"hill": hill},
            cell_data={"sector": [sector.astype(np.float64)]},
        ),
    )
    return [*files, field]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=PROBLEMS, help="folder for the files")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for file in make(arguments.output):
        sys.stdout.write(f"{file}: {file.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
