"""The tables of weights in a problem file: what ``[weight]`` and the parts of a mixture can say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, create_model

from congested.problem_measures import (
    WEIGHT_SUM_TOLERANCE,
    FieldTable,
    GaussianMixtureTable,
    ImageTable,
    PointsTable,
    UniformBallTable,
    UniformBoxTable,
)
from congested.problem_table import Key, Mistake, Models, Positive, Table, shown
from congested.weights.kinds import SMALLEST_TOLERANCE, Coupling, Interpolates, Rule, options_of

_TOLERANCES = f"a number from {SMALLEST_TOLERANCE:g} to 1"


class InterpolatesTable(Table):
    """``kind = "interpolates"``; keys that the coupling makes no use of are a mistake."""

    kind: Literal["interpolates"]
    coupling: Coupling = "independent"
    order: int | None = Field(default=None, ge=1, le=2, description="1 or 2")
    rule: Rule | None = None
    samples: int | None = Field(default=None, ge=1, description="an integer >= 1")
    seed: int | None = Field(default=None, ge=0, description="an integer >= 0")
    tolerance: float | None = Field(
        default=None, ge=SMALLEST_TOLERANCE, lt=1.0, description=_TOLERANCES
    )

    @property
    def weight(self) -> Interpolates:
        """The weight that the table stands for."""
        return Interpolates(self.coupling, **self._given)

    @property
    def _given(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in options_of("optimal")}  # which are all
        return {name: value for name, value in values.items() if value is not None}

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        for name, value in self._given.items():
            if name not in options_of(self.coupling):
                reason = f'as coupling = "{self.coupling}" has no segments'
                if name == "order":
                    reason = 'as only coupling = "optimal" has an order'
                yield Mistake((name,), shown(value), f"nothing, {reason}")

    def effective(self) -> dict[str, Any]:
        """Return what the table says with its defaults filled in."""
        return {"kind": self.kind, **self.weight.settings}


class EndTable(Table):
    """``kind = "source"`` or ``"target"``: short for interpolates with this coupling."""

    kind: Literal["source", "target"]


class ConstantTable(Table):
    """``kind = "constant"``."""

    kind: Literal["constant"]
    density: Positive | None = Field(default=None, description="a number > 0")


class UniformTable(Table):
    """``kind = "uniform"`` without a shape: the uniform law of the domain."""

    kind: Literal["uniform"]
    shape: None = Field(default=None, description='"box" or "ball"')


# The tables of measures come last among the bases, so that their keys are named first.


class MassTable(Table):
    """What a measure that is a weight can say besides."""

    mass: Positive = Field(default=1.0, description="a number > 0")


class GaussianMixtureWeightTable(MassTable, GaussianMixtureTable):
    """A Gaussian mixture as weight."""


class UniformBoxWeightTable(MassTable, UniformBoxTable):
    """The uniform law of a box as weight."""


class UniformBallWeightTable(MassTable, UniformBallTable):
    """The uniform law of a ball as weight."""


class PointsWeightTable(MassTable, PointsTable):
    """Points as weight."""


class DensityTable(Table):
    """What the density of a file that is a weight can say besides."""

    normalise: bool = Field(default=True, description="true or false")
    mass: Positive | None = Field(default=None, description="a number > 0")

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        yield from super().mistakes()
        if self.mass is not None and not self.normalise:
            reason = "nothing, as with normalise = false the values are the density"
            yield Mistake(("mass",), shown(self.mass), reason)

    def effective(self) -> dict[str, Any]:
        """Return what the table says with its defaults filled in."""
        table = super().effective()
        return {**table, "mass": table.get("mass", 1.0)} if self.normalise else table


class ImageWeightTable(DensityTable, ImageTable):
    """An image as weight."""


class FieldWeightTable(DensityTable, FieldTable):
    """A field as weight."""


_SIMPLE: Models = {
    ("interpolates",): InterpolatesTable,
    ("source",): EndTable,
    ("target",): EndTable,
    ("constant",): ConstantTable,
    ("uniform",): UniformTable,
    ("uniform", "box"): UniformBoxWeightTable,
    ("uniform", "ball"): UniformBallWeightTable,
    ("gaussian-mixture",): GaussianMixtureWeightTable,
    ("points",): PointsWeightTable,
    ("image",): ImageWeightTable,
    ("field",): FieldWeightTable,
}


class PartTable(Table):
    """What a weight that is a part of a mixture can say besides."""

    share: Positive = Field(description="a number > 0: the share of this weight in the mixture")

    def effective(self) -> dict[str, Any]:
        """Return what the table says of the weight alone: its share is said by the mixture."""
        table = super().effective()
        table.pop("share", None)
        return table


def _as_part(model: type[Table]) -> type[Table]:
    return create_model(f"{model.__name__}InMixture", __base__=(PartTable, model))


class MixtureTable(Table):
    """``kind = "mixture"``; a part cannot be a mixture again."""

    kind: Literal["mixture"]
    parts: list[SerializeAsAny[Table]] = Field(
        min_length=1, description="a list of tables of weights, each with its share"
    )
    lists: ClassVar[dict[str, Models]] = {
        "parts": {tags: _as_part(model) for tags, model in _SIMPLE.items()}
    }

    @property
    def shares(self) -> list[float]:
        """Shares of the parts that are right in themselves."""
        return [part.share for part in self.parts if isinstance(part, PartTable)]

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        total = math.fsum(self.shares)
        if len(self.shares) == len(self.parts) and abs(total - 1.0) > WEIGHT_SUM_TOLERANCE:
            yield Mistake(("parts",), f"shares with the sum {total:.9g}", "shares whose sum is 1")

    def inner(self) -> Iterator[tuple[Key, Table]]:
        """Yield the parts with their places."""
        for number, part in enumerate(self.parts):
            yield ("parts", number), part


# The models by the words that choose among them: kind, then shape.
WEIGHTS: Models = {**_SIMPLE, ("mixture",): MixtureTable}
