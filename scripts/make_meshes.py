"""Make the meshes in meshes/ from their gmsh sources: every NAME.geo becomes NAME.msh (gmsh 4.1).

The Python module ``gmsh`` does the meshing, on one thread, so that the same version of gmsh writes
the same file again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gmsh

MESHES = Path(__file__).resolve().parent.parent / "meshes"


def make_mesh(source: Path, file: Path) -> int:
    """Mesh a .geo file in its highest dimension and write the .msh file.

    Parameters
    ----------
    source
        gmsh geometry; its last physical group is the domain.
    file
        Mesh file to write.

    Returns
    -------
    int
        Number of triangles or tetrahedra.
    """
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.option.setNumber("General.NumThreads", 1)
        gmsh.option.setNumber("Mesh.MshFileVersion", 4.1)
        gmsh.open(str(source))
        dimension = gmsh.model.getDimension()
        gmsh.model.mesh.generate(dimension)
        gmsh.write(str(file))
        return sum(len(tags) for tags in gmsh.model.mesh.getElements(dimension)[1])
    finally:
        gmsh.finalize()


def main(argv: Sequence[str] | None = None) -> int:
    """Make the named meshes, or all; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="meshes to make (default: every .geo)")
    parser.add_argument("--output", type=Path, default=MESHES, help="folder for the .msh files")
    arguments = parser.parse_args(argv)
    known = {source.stem: source for source in sorted(MESHES.glob("*.geo"))}
    unknown = sorted(set(arguments.names) - set(known))
    if unknown:
        parser.error(f"no source for {', '.join(unknown)}; there are {', '.join(known)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or known:
        file = arguments.output / f"{name}.msh"
        cells = make_mesh(known[name], file)
        sys.stdout.write(f"{file}: {cells} cells\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
