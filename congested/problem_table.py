"""What the tables of a problem file have in common: keys, words for mistakes, types of values.

The description of a field says what is allowed there and becomes part of the message when
something else is found. What pydantic cannot say about one field alone (shapes that must match,
sums, definiteness) is reported by the method ``mistakes`` of each table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field

Key = tuple[str | int, ...]


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


def list_or(other: str) -> Discriminator:
    """Tell a list from the other spelling, so that only the one that was meant is checked."""
    return Discriminator(lambda value: "list" if isinstance(value, list) else other)


Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]
NonNegative = Annotated[float, Field(allow_inf_nan=False, ge=0)]
Point = Annotated[list[Number], Field(min_length=2, max_length=3)]
PointList = Annotated[list[Point], Field(min_length=1)]
FileName = Annotated[str, Field(min_length=1)]


class Table(BaseModel):
    """A table of the file: no unknown keys, no conversion of types except integer to float."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    # Keys whose text is the name of a file.
    file_keys: ClassVar[tuple[str, ...]] = ()
    # Keys whose value can be a table itself.
    tables: ClassVar[dict[str, type[Table]]] = {}
    # Keys whose value is a list of tables, with the models for these.
    lists: ClassVar[dict[str, Models]] = {}

    def mistakes(self) -> Iterator[Mistake]:
        """Yield what is wrong between fields."""
        yield from ()

    def inner(self) -> Iterator[tuple[Key, Table]]:
        """Yield the tables that stand for themselves in this one: the parts of a mixture, or it."""
        yield (), self

    def effective(self) -> dict[str, Any]:
        """Return what the table says with its defaults filled in, as it could stand in a file."""
        return self.model_dump(exclude_none=True)

    def extent(self) -> tuple[Key, int] | None:
        """Return the key that shows the dimension and the dimension, if the table shows one."""
        return None


# Models by the words that choose among them: kind, then shape.
Models: TypeAlias = dict[tuple[str, ...], type[Table]]


def wrong_box(lower: list[float], upper: list[float]) -> Iterator[Mistake]:
    """Yield what is wrong with the corners of a box."""
    if len(upper) != len(lower):
        yield Mistake(("upper",), shown(upper), f"{len(lower)} numbers as in lower")
        return
    for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if high <= low:
            yield Mistake(("upper", axis), shown(high), f"a number > lower[{axis}] = {shown(low)}")
