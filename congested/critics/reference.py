"""The solution that critics are held against: this rank's share of its cells, and its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested.certificate import (
    Bounds,
    CellIntegrals,
    cell_integrals,
    gradient_at_vertices,
    momentum_at_vertices,
)
from congested.errors import InputError
from congested.geometry import FloatArray, simplex_volumes
from congested.integrand import capacity as capacity_of
from congested.io.arrays import ResultArrays, load_arrays, potential_of_cells, scatter_rows
from congested.io.files import on_root
from congested.io.result import ARRAYS, RESULT, read_result

# Bounds from the arrays and from result.json are sums of the same numbers in another order.
_SAME = 1e-8


@dataclass(frozen=True, eq=False)
class Reference:
    """A solution as critics see it: data and fields on this rank's share of the cells.

    Attributes
    ----------
    comm
        Communicator over which the cells are shared out.
    result
        Content of ``result.json``.
    arrays
        The whole solution on rank 0, None on the others.
    bounds
        Bounds of the cost for the data of the cells. Where those in ``result.json`` are for the
        original densities, they are computed from the arrays.
    strength
        λ, infinity for W₁.
    simplices
        Vertices (n, d+1, d) of this rank's cells.
    source, target, weight
        Densities (n,).
    flux
        Outward facet integrals (n, d+1) of the momentum.
    potential, potential_edges
        Potential at the vertices (n, d+1), and for P2 at the edges (n, e), else None.
    """

    comm: MPI.Comm
    result: Mapping[str, Any]
    arrays: ResultArrays | None
    bounds: Bounds
    strength: float
    simplices: FloatArray
    source: FloatArray
    target: FloatArray
    weight: FloatArray
    flux: FloatArray
    potential: FloatArray
    potential_edges: FloatArray | None

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.simplices.shape[2]

    @cached_property
    def volume(self) -> FloatArray:
        """Volumes (n,)."""
        return simplex_volumes(self.simplices)

    @cached_property
    def capacity(self) -> FloatArray:
        """κ = 2λσ (n,)."""
        return np.asarray(capacity_of(self.weight, self.strength))

    @property
    def finite_capacity(self) -> FloatArray:
        """κ, and 0 for W₁, whose constraint |∇f| ≤ 1 is no integral."""
        return np.where(np.isfinite(self.capacity), self.capacity, 0.0)

    @cached_property
    def integrals(self) -> CellIntegrals:
        """Integrals of the solution's own certificate over each cell."""
        return cell_integrals(
            self.simplices,
            self.potential,
            self.flux,
            self.source,
            self.target,
            self.weight,
            self.strength,
            self.potential_edges,
        )

    @cached_property
    def momentum(self) -> FloatArray:
        """Momentum at the vertices (n, d+1, d), affine on each cell."""
        return momentum_at_vertices(self.simplices, self.flux)

    @cached_property
    def gradient(self) -> FloatArray:
        """Gradient of the potential at the vertices (n, k, d): k = 1 for P1, d + 1 for P2."""
        return gradient_at_vertices(self.simplices, self.potential, self.potential_edges)

    def total(self, values: FloatArray) -> float:
        """Return the sum over all cells of all ranks (collective)."""
        return float(self.comm.allreduce(float(values.sum()), op=MPI.SUM))


def reference_from_directory(directory: str | Path, comm: MPI.Comm | None = None) -> Reference:
    """Read the solution in a result directory (collective).

    Parameters
    ----------
    directory
        A directory that ``congested solve`` wrote.
    comm
        Communicator over which the cells are shared out; default: the world.

    Returns
    -------
    Reference
        The solution.

    Raises
    ------
    InputError
        If there is no solution in the directory, or its files do not belong together.
    """
    comm = comm or MPI.COMM_WORLD
    directory = Path(directory)

    def read() -> tuple[dict[str, Any], ResultArrays]:
        result = read_result(directory)
        if result.get("status") == "infeasible":
            found = "found an infeasible problem, which has no solution"
            raise InputError(f"{found}; allowed: a solution", file=str(directory))
        _check_result(result, directory / RESULT)
        arrays = load_arrays(directory / ARRAYS)
        _check_numbers(arrays, directory / ARRAYS)
        return result, arrays

    found = on_root(comm, read)
    result, arrays = found if found is not None else (None, None)
    return reference_from_arrays(arrays, comm.bcast(result), comm, place=str(directory))


# What is used of a result, and whether it is a number.
_USED = {
    **{f"bounds.{name}": True for name in ("lower", "upper")},
    "bounds.scope": False,
    **{f"values.{name}": True for name in ("critic_loss", "penalty", "momentum_l1")},
    "problem.penalty.strength": True,
}


def _check_result(result: Mapping[str, Any], file: Path) -> None:
    """Raise InputError unless a result holds what is used of it."""
    for key, is_number in _USED.items():
        value: Any = result
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        try:
            good = not math.isnan(float(value)) if is_number else isinstance(value, str)
        except (TypeError, ValueError):
            good = False
        if not good:
            allowed = "a number" if is_number else "a word"
            raise InputError(f"found {value!r}; allowed: {allowed}", key=key, file=str(file))


def _check_numbers(arrays: ResultArrays, file: Path) -> None:
    """Raise InputError if cells or edges have vertices that there are not."""
    for name, numbers in (("cells", arrays.cells), ("edges", arrays.edges)):
        if numbers is None or numbers.size == 0:
            continue
        low, high, count = int(numbers.min()), int(numbers.max()), len(arrays.vertices)
        if low < 0 or high >= count:
            raise InputError(
                f"found vertices {low} to {high} in {name}; allowed: 0 to {count - 1}",
                file=str(file),
            )


def reference_from_arrays(
    arrays: ResultArrays | None,
    result: Mapping[str, Any],
    comm: MPI.Comm,
    *,
    place: str | None = None,
) -> Reference:
    """Share out the cells of a solution (collective).

    Parameters
    ----------
    arrays
        The whole solution on rank 0, None on the others.
    result
        Content of ``result.json``, the same on every rank.
    comm
        Communicator.
    place
        Where it came from, for the text of an error.

    Raises
    ------
    InputError
        If the bounds in the result are not those of the arrays.
    """
    cells = comm.bcast(None if arrays is None else len(arrays.cells))
    wanted = np.arange(comm.rank * cells // comm.size, (comm.rank + 1) * cells // comm.size)
    names = ["simplices", "source", "target", "weight", "flux", "potential"]
    if comm.bcast(None if arrays is None else arrays.potential_edges is not None):
        names.append("potential_edges")
    rows = on_root(comm, lambda: None if arrays is None else _rows_of_cells(arrays))
    whole: dict[str, npt.NDArray[Any] | None] = dict.fromkeys(names)
    whole |= rows or {}
    own: dict[str, Any] = {name: scatter_rows(comm, rows, wanted) for name, rows in whole.items()}
    strength = float(result["problem"]["penalty"]["strength"])
    own.setdefault("potential_edges", None)
    reference = Reference(
        comm=comm,
        result=result,
        arrays=arrays,
        bounds=Bounds(math.nan, math.nan),
        strength=strength,
        **own,
    )
    bounds = _cell_data_bounds(reference)
    stated = result["bounds"]
    if stated["scope"] == bounds.scope:
        for name in ("lower", "upper"):
            ours, theirs = getattr(bounds, name), float(stated[name])
            if not abs(ours - theirs) <= _SAME * max(abs(theirs), 1e-300):
                raise InputError(
                    f"found {ours:.10g} as the {name} bound that solution.npz gives, and "
                    f"{theirs:.10g} in result.json; allowed: files of one run",
                    file=place,
                )
    return replace(reference, bounds=bounds)


def _rows_of_cells(arrays: ResultArrays) -> dict[str, npt.NDArray[Any]]:
    """Return what a critic is held against, a row for each cell."""
    rows = {name: getattr(arrays, name) for name in ("source", "target", "weight", "flux")}
    rows["simplices"] = arrays.vertices[arrays.cells]
    rows["potential"], edges = potential_of_cells(arrays)
    if edges is not None:
        rows["potential_edges"] = edges
    return rows


def _cell_data_bounds(reference: Reference) -> Bounds:
    """Compute the bounds for the data of the cells from the fields (collective)."""
    integrals = reference.integrals
    lower = reference.total(integrals.critic_loss) - reference.total(integrals.penalty)
    upper = reference.total(integrals.transport_cost)
    stated = reference.result["bounds"]
    # Bounds for the original densities have no error of the data, and do not tell that of these.
    data_error = stated.get("data_error") if stated["scope"] == "cell-data" else None
    return Bounds(lower, upper, "cell-data", data_error)
