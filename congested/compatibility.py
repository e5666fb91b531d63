"""What differs between the versions of DOLFINx that are supported (0.9 to 0.11), in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dolfinx
import numpy as np
from dolfinx import fem


def interpolation_points(space: fem.FunctionSpace) -> Any:
    """Return the reference points at which an element of `space` is interpolated.

    A method of the element up to DOLFINx 0.9, a property later.
    """
    points = space.element.interpolation_points
    return points() if callable(points) else points


def expression(ufl_expression: Any, space: fem.FunctionSpace) -> fem.Expression:
    """Make a `dolfinx.fem.Expression` that can be interpolated into `space`."""
    return fem.Expression(ufl_expression, interpolation_points(space))


def owned_range(index_map: Any) -> tuple[int, int]:
    """Return the half-open range of global indices that this rank owns."""
    start, end = index_map.local_range
    return int(start), int(end)


def tabulate_gradients(space: fem.FunctionSpace) -> Callable[[Any], Any]:
    """Return a function: reference points (q, d) -> reference gradients (dofs, q, d)."""
    element = space.element.basix_element

    def tabulate(points: Any) -> Any:
        table = element.tabulate(1, np.ascontiguousarray(points, dtype=np.float64))
        return np.ascontiguousarray(np.transpose(table[1:, :, :, 0], (2, 1, 0)))

    return tabulate


def refine_edges(mesh: dolfinx.mesh.Mesh, edges: Any) -> tuple[dolfinx.mesh.Mesh, Any]:
    """Refine a mesh at edges, children on the rank of their parent; return it and the parents.

    The placeholder that leaves cells where they are came with 0.10; before it was None.
    """
    stay = getattr(dolfinx.mesh, "IdentityPartitionerPlaceholder", lambda: None)()
    option = dolfinx.mesh.RefinementOption.parent_cell
    fine, parent, _ = dolfinx.mesh.refine(mesh, edges, stay, option)
    # Parents come in the order in which the cells were made.
    made = np.asarray(fine.topology.original_cell_index)
    first = mesh.comm.exscan(len(made)) or 0
    return fine, np.asarray(parent)[made - first]
