"""The tables of a problem file as pydantic models: keys, types, defaults and values allowed.

Measures and weights have modules of their own; here are the other tables, and the list of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from congested.measures.files import NEAR
from congested.problem import Format, LowerBound, Method, Refinement, Scope
from congested.problem_measures import MEASURES
from congested.problem_table import (
    FileName,
    Key,
    Mistake,
    Models,
    Number,
    Point,
    Positive,
    Table,
    wrong_box,
)
from congested.problem_weights import WEIGHTS


class BoxTable(Table):
    """``[domain] kind = "box"``."""

    kind: Literal["box"]
    lower: Point = Field(description="a list of 2 or 3 numbers")
    upper: Point = Field(description="a list of 2 or 3 numbers")
    cells: int = Field(default=32, ge=1, description="an integer >= 1")

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        yield from wrong_box(self.lower, self.upper)

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        return ("lower",), len(self.lower)

    def outside(self, points: npt.ArrayLike) -> list[int]:
        """Return the numbers of the points (N, d) outside that are too far to be moved inside."""
        lower, upper = np.array(self.lower), np.array(self.upper)
        array = np.asarray(points, dtype=np.float64)[:, : len(lower)]
        near = NEAR * float((upper - lower).max())
        beyond = (array < lower - near) | (array > upper + near)
        return [int(number) for number in np.flatnonzero(beyond.any(axis=1))]


class MeshTable(Table):
    """``[domain] kind = "mesh"``."""

    kind: Literal["mesh"]
    file: FileName = Field(description="the name of a mesh file that gmsh or meshio reads")
    file_keys: ClassVar[tuple[str, ...]] = ("file",)


class PenaltyTable(Table):
    """``[penalty]``."""

    strength: Annotated[float, Field(gt=0, allow_inf_nan=True)] = Field(
        default=10.0, description="a number > 0 or inf"
    )


class SolverTable(Table):
    """``[solver]``."""

    method: Method = "newton"
    relative_gap: Positive = Field(default=1e-3, description="a number > 0")
    refine: Refinement = "uniform"
    max_cells: int = Field(default=2_000_000, ge=1, description="an integer >= 1")
    max_seconds: Positive | None = Field(default=None, description="a number > 0")
    lower_bound: LowerBound = "auto"
    scope: Scope = "cell-data"
    petsc: dict[str, str | int | Number | bool] = Field(
        default_factory=dict, description="a table of PETSc options: text, numbers or booleans"
    )


class OutputTable(Table):
    """``[output]``."""

    formats: list[Format] = Field(default=["vtu"], description='a list of "vtu", "xdmf" or "vtx"')
    overview: bool = Field(default=True, description="true or false")


# The models of each table.
MODELS: dict[str, Models] = {
    "domain": {("box",): BoxTable, ("mesh",): MeshTable},
    "source": MEASURES,
    "target": MEASURES,
    "weight": WEIGHTS,
    "penalty": {(): PenaltyTable},
    "solver": {(): SolverTable},
    "output": {(): OutputTable},
}

# Tables that may be left out, with what then stands for them.
DEFAULTS: dict[str, dict[str, str]] = {
    "weight": {"kind": "interpolates"},
    "penalty": {},
    "solver": {},
    "output": {},
}
