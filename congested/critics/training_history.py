"""The history of a training: what was seen of the critic after some of its steps."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from congested.critics.network import Network
from congested.io.files import write_text


@dataclass(frozen=True)
class Certified:
    """What a solution says of a critic.

    Attributes
    ----------
    dual_value
        D(u) of the critic for the data of the solution.
    lower, upper
        Bounds of the relative suboptimality (cost − D) / cost.
    """

    dual_value: float
    lower: float
    upper: float


#: Compares a critic with a solution.
Certifier: TypeAlias = Callable[[Network], Certified]


@dataclass(frozen=True)
class Row:
    """A row of the history: the critic after some steps.

    Attributes
    ----------
    step, seconds
        Steps so far, and the wall seconds that they took with all checks.
    objective
        Mean over the steps since the row before of what the method maximises on its batches; NaN
        in the first row.
    critic_loss, penalty, penalty_two_sided, dual_value, standard_error
        As `SampledDual` has them, the last that of the dual value; on samples that are the same in
        all rows, and not those of the training.
    certified_dual_value, suboptimality_lower, suboptimality_upper
        As `Certified` has them; NaN without a solution to compare with.
    """

    step: int
    seconds: float
    objective: float
    critic_loss: float
    penalty: float
    penalty_two_sided: float
    dual_value: float
    standard_error: float
    certified_dual_value: float = math.nan
    suboptimality_lower: float = math.nan
    suboptimality_upper: float = math.nan

    @property
    def score(self) -> float:
        """What the best critic has most of: −suboptimality if it is known, else dual value."""
        certified = not math.isnan(self.suboptimality_upper)
        return -self.suboptimality_upper if certified else self.dual_value


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """Write the history as a table with commas, in one step."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)])
    writer.writeheader()
    for row in rows:
        writer.writerow({name: repr(value) for name, value in dataclasses.asdict(row).items()})
    write_text(path, text.getvalue())


def read_history(path: Path) -> list[Row]:
    """Read what `write_history` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row_of(line) for line in csv.DictReader(file)]


def row_of(values: Mapping[str, Any]) -> Row:
    """Make a row from its values, numbers or their texts."""
    numbers = {name: float(value) for name, value in values.items() if name != "step"}
    return Row(step=int(values["step"]), **numbers)
