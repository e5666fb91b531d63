"""How a critic is trained: the options, and what they may be."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass
from typing import Any

from congested.critics.network import LEAKY_SLOPE, Activation
from congested.critics.objectives import Method
from congested.errors import InputError

DEVICES = ("cpu", "cuda", "auto")
SCHEDULES = ("cosine", "constant")
# Options that a training that goes on may be given anew: they do not change its steps, apart from
# `steps`, which moves the end of the schedule.
RENEWABLE = ("steps", "device", "check_every", "checkpoint_every", "stop_at", "max_seconds")


@dataclass(frozen=True)
class Training:
    """How a critic is trained.

    Attributes
    ----------
    method
        See `Method`.
    steps
        Steps of the optimiser (Adam).
    batch
        Points of source, target and weight per step, each.
    width, depth
        Entries of a hidden layer; number of hidden layers.
    activation
        None: GroupSort for ``sorting``, ReLU for the others.
    group_size, slope
        Of GroupSort and of the leaky ReLU, see `Network`.
    learning_rate
        Of Adam, in the first step.
    schedule
        ``"cosine"``: the rate falls to zero along half a cosine; ``"constant"``.
    strength
        λ of penalty and dual value; ``lsot`` weighs its penalty on pairs with it (1/4ε there).
        ``math.inf`` only for methods whose slope cannot exceed one.
    clip
        With ``clipping``: bound of every entry.
    seed
        Seed ≥ 0 of the start and of all samples.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where there is one.
    check_every
        Steps between two rows of the history; the best critic is one of these.
    check_samples
        Points of each law that estimate the dual value in a check, the same in all of them.
    checkpoint_every
        Steps between two checkpoints, a multiple of which need not be one of `check_every`.
    stop_at
        Relative suboptimality, certified, at which to stop; None: never.
    max_seconds
        Stop after so many seconds; None: no limit.

    Raises
    ------
    InputError
        If a value is not allowed; the key is the name.
    """

    method: Method = Method.LP
    steps: int = 10_000
    batch: int = 256
    width: int = 64
    depth: int = 3
    activation: Activation | None = None
    group_size: int | None = 2
    slope: float = LEAKY_SLOPE
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    strength: float = 10.0
    clip: float = 0.1
    seed: int = 0
    device: str = "cpu"
    check_every: int = 250
    check_samples: int = 1 << 14
    checkpoint_every: int = 1000
    stop_at: float | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Check and convert the values."""
        object.__setattr__(self, "method", _word(Method, self.method, "method"))
        activation = self.activation
        if activation is None:
            sorts = self.method is Method.SORTING
            activation = Activation.GROUP_SORT if sorts else Activation.RELU
        activation = _word(Activation, activation, "activation")
        object.__setattr__(self, "activation", activation)
        if activation is not Activation.GROUP_SORT:
            object.__setattr__(self, "group_size", None)
        elif self.group_size is not None and (self.group_size < 2 or self.width % self.group_size):
            allowed = f"an integer >= 2 that divides the width, {self.width}"
            raise InputError(f"found {self.group_size}; allowed: {allowed}", key="group_size")
        for name, words in (("device", DEVICES), ("schedule", SCHEDULES)):
            if getattr(self, name) not in words:
                allowed = " or ".join(words)
                raise InputError(f'found "{getattr(self, name)}"; allowed: {allowed}', key=name)
        for name, least in _INTEGERS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"found {value!r}; allowed: an integer >= {least}", key=name)
        for name in ("learning_rate", "clip", "stop_at", "max_seconds"):
            value = getattr(self, name)
            optional = name in ("stop_at", "max_seconds")
            if not (value is None and optional) and not 0.0 < (value or 0.0) < math.inf:
                raise InputError(f"found {value!r}; allowed: a number > 0", key=name)
        if not self.strength > 0.0:
            raise InputError(f"found {self.strength!r}; allowed: a number > 0", key="strength")
        if math.isinf(self.strength) and not self.method.lipschitz:
            bounded = " or ".join(method for method in Method if method.lipschitz)
            raise InputError(
                f'found inf with method "{self.method}", which has a penalty; allowed: a finite '
                f"number, or method {bounded}",
                key="strength",
            )
        if math.isinf(self.strength) and activation is Activation.SILU:
            raise InputError(
                'found "silu", whose slope exceeds one, with strength inf; allowed: another '
                "activation, or a finite strength",
                key="activation",
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))

    def description(self) -> dict[str, Any]:
        """Return the options as numbers and texts."""
        content = dataclasses.asdict(self)
        for name, value in content.items():
            if isinstance(value, enum.Enum):
                content[name] = str(value)
        return content


_INTEGERS = {
    "steps": 1,
    "batch": 2,
    "width": 1,
    "depth": 1,
    "seed": 0,
    "check_every": 1,
    "check_samples": 2,
    "checkpoint_every": 1,
}


def _word(kind: Any, value: object, key: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        allowed = " or ".join(kind)
        raise InputError(f'found "{value}"; allowed: {allowed}', key=key) from error
