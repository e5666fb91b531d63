"""The tables of weights in a problem file: what ``[weight]`` can say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from congested.problem_table import Positive, Table


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


# The models by the words that choose among them: kind, then shape.
WEIGHTS: dict[tuple[str, ...], type[Table]] = {
    ("interpolates",): InterpolatesTable,
    ("constant",): ConstantTable,
}
