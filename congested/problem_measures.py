"""The tables of measures in a problem file: what ``[source]`` and ``[target]`` can say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from congested.problem_table import (
    FileName,
    Key,
    Mistake,
    Models,
    NonNegative,
    Number,
    Point,
    PointList,
    Positive,
    Table,
    list_or,
    shown,
    wrong_box,
)

# Masses may differ from one by rounding in a file; more is a mistake.
WEIGHT_SUM_TOLERANCE = 1e-6

POINT_FORMATS = (".npy", ".csv", ".txt", ".vtu", ".ply")
IMAGE_FORMATS = (".png", ".npy", ".vti")

Stds = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[list[Positive], Tag("list")], list_or("number")
]
PointWeights = Annotated[
    Annotated[FileName, Tag("file")] | Annotated[list[NonNegative], Tag("list")], list_or("file")
]


def _wrong_lengths(name: str, points: Sequence[Sequence[float]]) -> Iterator[Mistake]:
    for number, point in enumerate(points):
        if len(point) != len(points[0]):
            yield Mistake((name, number), shown(point), f"{len(points[0])} numbers as in {name}[0]")


def _wrong_weights(weights: list[float], count: int, things: str) -> Iterator[Mistake]:
    if len(weights) != count:
        yield Mistake(("weights",), f"{len(weights)} numbers", f"{count}: one for each of {things}")
    elif abs(sum(weights) - 1.0) > WEIGHT_SUM_TOLERANCE:
        yield Mistake(("weights",), f"a sum of {sum(weights):.9g}", "numbers whose sum is 1")


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

    def effective(self) -> dict[str, Any]:
        """Return what the table says with its defaults filled in."""
        count = len(self.means)
        effective = super().effective()
        effective.setdefault("weights", [1.0 / count] * count)
        if isinstance(self.stds, float):
            effective["stds"] = [self.stds] * count
        return effective

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
        yield from wrong_box(self.lower, self.upper)

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
            yield from wrong_box(self.lower, self.upper)
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


# The models by the words that choose among them: kind, then shape.
MEASURES: Models = {
    ("gaussian-mixture",): GaussianMixtureTable,
    ("uniform", "box"): UniformBoxTable,
    ("uniform", "ball"): UniformBallTable,
    ("points",): PointsTable,
    ("image",): ImageTable,
    ("field",): FieldTable,
    ("ray-monotone",): RayMonotoneTable,
}
