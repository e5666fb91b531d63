"""The tables of a problem file as pydantic models: keys, types, defaults and values allowed.

The description of a field says what is allowed there and becomes part of the message when
something else is found. What pydantic cannot say about one field alone (shapes that must match,
sums, definiteness) is reported by the method ``mistakes`` of each table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from congested.problem import Format, LowerBound, Method, Refinement, Scope

Key = tuple[str | int, ...]

# Masses may differ from one by rounding in a file; more is a mistake.
_WEIGHT_SUM_TOLERANCE = 1e-6

POINT_FORMATS = (".npy", ".csv", ".txt", ".vtu", ".ply")
IMAGE_FORMATS = (".png", ".npy", ".vti")

# What the design names and a later version brings: (table, key) -> words.
NOT_AVAILABLE_YET = {
    ("weight", "kind"): ("field", "points"),
    ("weight", "coupling"): ("optimal",),
    ("solver", "method"): ("augmented-lagrangian",),
}


class Mistake(NamedTuple):
    """One mistake: where, what was found, what is allowed there."""

    key: Key
    found: str
    allowed: str


def shown(value: object) -> str:
    """Return ``value`` as it would stand in a TOML file, on one line and not longer than needed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = '"' + value.encode("unicode_escape").decode("ascii") + '"'
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(entry) for entry in value) + "]"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key} = {shown(entry)}" for key, entry in value.items()) + "}"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1:]


def dotted(key: Key) -> str:
    """Return a key as text: ``("source", "stds", 1)`` is ``source.stds[1]``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def resolve(file: str, directory: Path) -> Path:
    """Return the absolute path of a file that a problem file in ``directory`` names."""
    return (directory / Path(file).expanduser()).resolve()


def _list_or(other: str) -> Discriminator:
    """Tell a list from the other spelling, so that only the one that was meant is checked."""
    return Discriminator(lambda value: "list" if isinstance(value, list) else other)


Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]
NonNegative = Annotated[float, Field(allow_inf_nan=False, ge=0)]
Point = Annotated[list[Number], Field(min_length=2, max_length=3)]
PointList = Annotated[list[Point], Field(min_length=1)]
FileName = Annotated[str, Field(min_length=1)]
Stds = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[list[Positive], Tag("list")], _list_or("number")
]
PointWeights = Annotated[
    Annotated[FileName, Tag("file")] | Annotated[list[NonNegative], Tag("list")], _list_or("file")
]


class Table(BaseModel):
    """A table of the file: no unknown keys, no conversion of types except integer to float."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    # Keys whose text is the name of a file.
    file_keys: ClassVar[tuple[str, ...]] = ()
    # Keys whose value can be a table itself.
    tables: ClassVar[dict[str, type[Table]]] = {}

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        yield from ()

    def extent(self) -> tuple[Key, int] | None:
        """Return the key that shows the dimension and the dimension, if the table shows one."""
        return None


def _wrong_lengths(name: str, points: Sequence[Sequence[float]]) -> Iterator[Mistake]:
    for number, point in enumerate(points):
        if len(point) != len(points[0]):
            yield Mistake((name, number), shown(point), f"{len(points[0])} numbers as in {name}[0]")


def _wrong_weights(weights: list[float], count: int, things: str) -> Iterator[Mistake]:
    if len(weights) != count:
        yield Mistake(("weights",), f"{len(weights)} numbers", f"{count}: one for each of {things}")
    elif abs(sum(weights) - 1.0) > _WEIGHT_SUM_TOLERANCE:
        yield Mistake(("weights",), f"a sum of {sum(weights):.9g}", "numbers whose sum is 1")


def _wrong_box(lower: list[float], upper: list[float]) -> Iterator[Mistake]:
    if len(upper) != len(lower):
        yield Mistake(("upper",), shown(upper), f"{len(lower)} numbers as in lower")
        return
    for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if high <= low:
            yield Mistake(("upper", axis), shown(high), f"a number > lower[{axis}] = {shown(low)}")


class BoxTable(Table):
    """``[domain] kind = "box"``."""

    kind: Literal["box"]
    lower: Point = Field(description="a list of 2 or 3 numbers")
    upper: Point = Field(description="a list of 2 or 3 numbers")
    cells: int = Field(default=32, ge=1, description="an integer >= 1")

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        yield from _wrong_box(self.lower, self.upper)

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        return ("lower",), len(self.lower)


class MeshTable(Table):
    """``[domain] kind = "mesh"``."""

    kind: Literal["mesh"]
    file: FileName = Field(description="the name of a mesh file that gmsh or meshio reads")
    file_keys: ClassVar[tuple[str, ...]] = ("file",)


class GaussianMixtureTable(Table):
    """``kind = "gaussian-mixture"``."""

    kind: Literal["gaussian-mixture"]
    means: PointList = Field(description="a list of points of 2 or 3 numbers each")
    stds: Stds | None = Field(default=None, description="a number > 0, or a list of one per mean")
    covariances: list[list[list[Number]]] | None = Field(
        default=None, description="a list of one symmetric positive definite matrix per mean"
    )
    weights: list[NonNegative] | None = Field(
        default=None, description="a list of numbers >= 0, one per mean, whose sum is 1"
    )

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        count = len(self.means)
        yield from _wrong_lengths("means", self.means)
        if self.stds is None and self.covariances is None:
            yield Mistake(("stds",), "nothing", "stds (numbers > 0) or covariances (matrices)")
        if self.stds is not None and self.covariances is not None:
            yield Mistake(("covariances",), "stds as well", "only one of stds and covariances")
        if isinstance(self.stds, list) and len(self.stds) != count:
            yield Mistake(
                ("stds",), f"{len(self.stds)} numbers", f"one number, or {count}: one per mean"
            )
        if self.covariances is not None:
            yield from self._wrong_covariances(self.covariances)
        if self.weights is not None:
            yield from _wrong_weights(self.weights, count, "the means")

    def _wrong_covariances(self, covariances: list[list[list[float]]]) -> Iterator[Mistake]:
        count, dimension = len(self.means), len(self.means[0])
        if len(covariances) != count:
            yield Mistake(
                ("covariances",), f"{len(covariances)} matrices", f"{count}: one for each mean"
            )
            return
        for number, rows in enumerate(covariances):
            key = ("covariances", number)
            if len(rows) != dimension or any(len(row) != dimension for row in rows):
                yield Mistake(key, shown(rows), f"{dimension} rows of {dimension} numbers")
                continue
            matrix = np.array(rows)
            if not np.allclose(matrix, matrix.T, rtol=1e-12, atol=0.0):
                yield Mistake(key, shown(rows), "a symmetric matrix")
            elif (smallest := np.linalg.eigvalsh(matrix)[0]) <= 0:
                yield Mistake(
                    key, f"a matrix with eigenvalue {smallest:.3g}", "a positive definite matrix"
                )

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        return ("means",), len(self.means[0])


class UniformBoxTable(Table):
    """``kind = "uniform", shape = "box"``."""

    kind: Literal["uniform"]
    shape: Literal["box"]
    lower: Point = Field(description="a list of 2 or 3 numbers")
    upper: Point = Field(description="a list of 2 or 3 numbers")

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        yield from _wrong_box(self.lower, self.upper)

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        return ("lower",), len(self.lower)


class UniformBallTable(Table):
    """``kind = "uniform", shape = "ball"``."""

    kind: Literal["uniform"]
    shape: Literal["ball"]
    center: Point = Field(description="a list of 2 or 3 numbers")
    radius: Positive = Field(description="a number > 0")

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        return ("center",), len(self.center)


class PointsTable(Table):
    """``kind = "points"``."""

    kind: Literal["points"]
    file: FileName | None = Field(
        default=None, description=f"the name of a file of kind {' '.join(POINT_FORMATS)}"
    )
    points: PointList | None = Field(
        default=None, description="a list of points of 2 or 3 numbers each"
    )
    weights: PointWeights | None = Field(
        default=None,
        description="a list of numbers >= 0, one per point, whose sum is 1, or the name of a file",
    )
    file_keys: ClassVar[tuple[str, ...]] = ("file", "weights")

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        if self.file is None and self.points is None:
            yield Mistake(("file",), "nothing", "file (a file name) or points (a list of points)")
        if self.file is not None and self.points is not None:
            yield Mistake(("points",), "file as well", "only one of file and points")
        if self.file is not None and not self.file.lower().endswith(POINT_FORMATS):
            yield Mistake(("file",), shown(self.file), f"a file of kind {' '.join(POINT_FORMATS)}")
        if self.points is not None:
            yield from _wrong_lengths("points", self.points)
            if isinstance(self.weights, list):
                yield from _wrong_weights(self.weights, len(self.points), "the points")
            elif self.weights is not None:
                yield Mistake(("weights",), shown(self.weights), "a list, as the points are one")

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        return None if self.points is None else (("points",), len(self.points[0]))


class ImageTable(Table):
    """``kind = "image"``."""

    kind: Literal["image"]
    file: FileName = Field(description=f"the name of a file of kind {' '.join(IMAGE_FORMATS)}")
    lower: Point | None = Field(default=None, description="a list of 2 or 3 numbers")
    upper: Point | None = Field(default=None, description="a list of 2 or 3 numbers")
    indexing: Literal["picture", "coordinates"] | None = None
    invert: bool = Field(default=False, description="true or false")
    array: FileName | None = Field(default=None, description="the name of an array of the file")
    file_keys: ClassVar[tuple[str, ...]] = ("file",)

    @property
    def knows_its_box(self) -> bool:
        """Whether the file says where the image lies."""
        return self.file.lower().endswith(".vti")

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        if not self.file.lower().endswith(IMAGE_FORMATS):
            yield Mistake(("file",), shown(self.file), f"a file of kind {' '.join(IMAGE_FORMATS)}")
        if self.lower is not None and self.upper is not None:
            yield from _wrong_box(self.lower, self.upper)
        elif self.lower is not None or self.upper is not None:
            missing, given = ("lower", "upper") if self.lower is None else ("upper", "lower")
            yield Mistake((missing,), "nothing", f"both corners of a box or none: {given} is there")
        if self.array is not None and not self.knows_its_box:
            yield Mistake(("array",), shown(self.array), "nothing, as only .vti files name arrays")
        if self.indexing == "picture" and self.knows_its_box:
            yield Mistake(("indexing",), '"picture"', '"coordinates", as a .vti file has them')

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        if self.lower is not None:
            return ("lower",), len(self.lower)
        return (("file",), 2) if self.file.lower().endswith(".png") else None


class FieldTable(Table):
    """``kind = "field"``."""

    kind: Literal["field"]
    file: FileName = Field(description="the name of a mesh file with data that meshio reads")
    array: FileName | None = Field(default=None, description="the name of an array of the file")
    file_keys: ClassVar[tuple[str, ...]] = ("file",)


class PairTable(Table):
    """A ray-monotone pair written in the problem file."""

    half_width: Positive = Field(description="a number > 0")
    power: Annotated[float, Field(ge=1)] = Field(description="a number >= 1")
    centers: PointList = Field(description="a list of points of 2 or 3 numbers each")
    biases: list[Number] = Field(description="a list of numbers, one per center")

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        yield from _wrong_lengths("centers", self.centers)
        if len(self.biases) != len(self.centers):
            yield Mistake(
                ("biases",), f"{len(self.biases)} numbers", f"{len(self.centers)}: one per center"
            )
        for number, center in enumerate(self.centers):
            if max(abs(coordinate) for coordinate in center) >= self.half_width:
                yield Mistake(
                    ("centers", number),
                    shown(center),
                    f"a point inside the box with half_width = {shown(self.half_width)}",
                )


class RayMonotoneTable(Table):
    """``kind = "ray-monotone"``."""

    kind: Literal["ray-monotone"]
    pair: Annotated[
        Annotated[FileName, Tag("file")] | Annotated[PairTable, Tag("inline")],
        Discriminator(lambda value: "inline" if isinstance(value, (dict, PairTable)) else "file"),
    ] = Field(
        description="the name of a .json file, or a table of half_width, power, centers, biases"
    )
    role: Literal["source", "target"] | None = None
    file_keys: ClassVar[tuple[str, ...]] = ("pair",)
    tables: ClassVar[dict[str, type[Table]]] = {"pair": PairTable}

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        if isinstance(self.pair, PairTable):
            for key, found, allowed in self.pair.mistakes():
                yield Mistake(("pair", *key), found, allowed)

    def extent(self) -> tuple[Key, int] | None:
        """Return the dimension and its key."""
        if isinstance(self.pair, PairTable):
            return ("pair", "centers"), len(self.pair.centers[0])
        return None


class InterpolatesTable(Table):
    """``[weight] kind = "interpolates"``."""

    kind: Literal["interpolates"]
    coupling: Literal["independent"] = "independent"
    samples: int | None = Field(default=None, ge=1, description="an integer >= 1")
    seed: int = Field(default=0, ge=0, description="an integer >= 0")


class ConstantTable(Table):
    """``[weight] kind = "constant"``."""

    kind: Literal["constant"]
    density: Positive | None = Field(default=None, description="a number > 0")


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


_MEASURES: dict[tuple[str, ...], type[Table]] = {
    ("gaussian-mixture",): GaussianMixtureTable,
    ("uniform", "box"): UniformBoxTable,
    ("uniform", "ball"): UniformBallTable,
    ("points",): PointsTable,
    ("image",): ImageTable,
    ("field",): FieldTable,
    ("ray-monotone",): RayMonotoneTable,
}

# The models of each table by the words that choose among them: kind, then shape.
MODELS: dict[str, dict[tuple[str, ...], type[Table]]] = {
    "domain": {("box",): BoxTable, ("mesh",): MeshTable},
    "source": _MEASURES,
    "target": _MEASURES,
    "weight": {("interpolates",): InterpolatesTable, ("constant",): ConstantTable},
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
