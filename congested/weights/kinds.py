"""What the weight σ can be, as data: frozen descriptions that `compute.cell_weight` evaluates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from congested.errors import InputError

if TYPE_CHECKING:  # problem files are checked without what these import
    from congested.geometry import FloatArray
    from congested.measures.base import Measure

Coupling = Literal["independent", "optimal", "source", "target"]
Rule = Literal["auto", "closed-form", "rays", "raster", "segments"]

COUPLINGS: tuple[str, ...] = get_args(Coupling)
RULES: tuple[str, ...] = get_args(Rule)
# Couplings without segments: the weight is one of the two measures.
ENDS = ("source", "target")
# What the sum of shares may differ from one without being scaled.
_ROUNDING = 1e-14
# Smallest error that any rule can be asked for.
SMALLEST_TOLERANCE = 1e-13


def _one_of(words: tuple[str, ...]) -> str:
    return " or ".join(f'"{word}"' for word in words)


@dataclass(frozen=True)
class Interpolates:
    """The weight of WGAN-GP: the law of points on segments from source to target.

    The measures are taken as they are: what they have outside the domain is not cut off first,
    and the part of the weight that falls outside the domain is lost (and recorded). The difference
    to the weight of the restricted measures is at most twice the mass they have outside.

    Attributes
    ----------
    coupling
        How the ends of a segment are drawn: ``"independent"`` as in WGAN-GP; ``"optimal"`` from an
        optimal transport plan, so that σ is the time average of the displacement interpolation;
        ``"source"`` and ``"target"`` have no segments, σ is the measure itself.
    order
        With ``"optimal"``: 1 or 2, the power of the distance that the plan minimises. For 1 there
        may be many plans, and the weight is that of one of them.
    rule
        How the cell masses are computed; ``"auto"`` takes the first that can do it of
        ``"closed-form"`` (Gaussian mixtures; two Gaussians if coupled optimally with order 2),
        ``"rays"`` (shapes, points, ray-monotone pairs), ``"raster"`` (any other densities) and
        ``"segments"`` (everything that can be sampled).
    samples
        Number of segments where the weight is sampled, rounded up to 8 times a power of two; with
        it ``"auto"`` takes segments wherever there is no closed form. For
        two point sets: the largest number of pairs that are all used. None: as many as
        `tolerance` needs, or, without one, a number that goes with that of the cells (points:
        all pairs up to 2^20). Coupled optimally: points of each measure in all 8 plans together
        (None: 8,192), for a ray-monotone pair with order 1 segments; two point sets have one exact
        plan, whatever this says, if they are not too large (2^24 pairs).
    seed
        Seed ≥ 0 of the sampling. The samples are the same on any number of ranks.
    tolerance
        Error allowed in the cell masses, in total over all cells and relative to the mass: for
        sampled weights the sum of the standard errors. None: 1e-9 in closed form, 3e-4 for rays
        (2e-3 with a ray-monotone source), 2e-3 for rasters, whatever `samples` gives for segments.

    Raises
    ------
    InputError
        If a value is not allowed.
    """

    coupling: str = "independent"
    order: int = 2
    rule: str = "auto"
    samples: int | None = None
    seed: int = 0
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name, words in (("coupling", COUPLINGS), ("rule", RULES)):
            if getattr(self, name) not in words:
                found = f'found "{getattr(self, name)}"; allowed: {_one_of(words)}'
                raise InputError(found, key=f"weight.{name}")
        if self.order not in (1, 2):
            raise InputError(f"found {self.order}; allowed: 1 or 2", key="weight.order")
        if self.samples is not None and self.samples < 1:
            raise InputError(f"found {self.samples}; allowed: >= 1", key="weight.samples")
        if self.seed < 0:
            raise InputError(f"found {self.seed}; allowed: >= 0", key="weight.seed")
        if self.tolerance is not None and not SMALLEST_TOLERANCE <= self.tolerance < 1.0:
            raise InputError(
                f"found {self.tolerance:g}; allowed: from {SMALLEST_TOLERANCE:g} to 1",
                key="weight.tolerance",
            )
        if self.samples is not None and self.rule not in ("auto", "segments"):
            raise InputError(
                f'found {self.samples}; allowed: nothing, as rule = "{self.rule}" has no segments',
                key="weight.samples",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The coupling and the values that it makes use of, as far as there are any."""
        names = ("coupling", *options_of(self.coupling))
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def refused_rule(rule: str, serving: Sequence[str], pair: str) -> InputError:
    """Return the error of a rule that does not serve a pair.

    Parameters
    ----------
    rule
        The rule.
    serving
        The rules that do serve it, besides "auto".
    pair
        What the pair is, in words.
    """
    allowed = _one_of(("auto", *serving))
    return InputError(
        f'found "{rule}", which is not available for {pair}; allowed: {allowed}', key="weight.rule"
    )


def options_of(coupling: str) -> tuple[str, ...]:
    """Return the names of the other values of `Interpolates` that a coupling makes use of."""
    if coupling in ENDS:
        return ()
    others = ("rule", "samples", "seed", "tolerance")
    return ("order", *others) if coupling == "optimal" else others


@dataclass(frozen=True)
class ConstantWeight:
    """A weight with constant density.

    Attributes
    ----------
    density
        Density > 0 per volume; None: one over the volume of the domain, the uniform law.

    Raises
    ------
    InputError
        If the density is not a positive number.
    """

    density: float | None = None

    def __post_init__(self) -> None:
        """Check the value."""
        if self.density is not None and not 0.0 < self.density < math.inf:
            raise InputError(f"found {self.density:g}; allowed: > 0", key="weight.density")


@dataclass(frozen=True)
class DensityWeight:
    """A weight given by a density, in Python only.

    Attributes
    ----------
    function
        Maps points (k, d) to densities (k,) ≥ 0; they need not integrate to one.
    tolerance
        Absolute error allowed in the cell masses, in total over all cells.
    """

    function: Callable[[FloatArray], FloatArray]
    tolerance: float = 1e-9


@dataclass(frozen=True, eq=False)
class MeasureWeight:
    """A weight that is a measure of its own: points, an image, a field on a mesh file, a mixture.

    Attributes
    ----------
    measure
        Where the weight is. What it has outside the domain is lost, and recorded.
    mass
        Number > 0: σ is `mass` times the measure.

    Raises
    ------
    InputError
        If the mass is not a positive number.
    """

    measure: Measure
    mass: float = 1.0

    def __post_init__(self) -> None:
        """Check the mass."""
        if not 0.0 < self.mass < math.inf:
            raise InputError(f"found {self.mass:g}; allowed: > 0", key="weight.mass")


@dataclass(frozen=True, eq=False)
class MixtureWeight:
    """Σ_k share_k σ_k of other weights.

    Attributes
    ----------
    parts
        The weights σ_k.
    shares
        Numbers share_k > 0 with sum 1 (normalised if within 1e-6); equal ones if None.

    Raises
    ------
    InputError
        If there is no part, or the shares are not one positive number for each.
    """

    parts: tuple[Weight, ...]
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check and convert the values."""
        parts = tuple(self.parts)
        if not parts:
            raise InputError("found no part; allowed: at least one weight", key="weight.parts")
        given = [1.0 / len(parts)] * len(parts) if self.shares is None else self.shares
        shares = np.asarray(given, dtype=np.float64)
        if shares.shape != (len(parts),) or not (shares > 0.0).all():
            raise InputError(
                f"found {shares.tolist()}; allowed: {len(parts)} numbers > 0, one for each part",
                key="weight.shares",
            )
        total = math.fsum(shares)
        if not abs(total - 1.0) <= 1e-6:
            raise InputError(
                f"found the sum {total:.8g}; allowed: 1 to within 1e-6", key="weight.shares"
            )
        # Shares that were normalised before stay what they are.
        scale = total if abs(total - 1.0) > _ROUNDING else 1.0
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "shares", tuple(float(share) / scale for share in shares))


Weight: TypeAlias = Interpolates | ConstantWeight | DensityWeight | MeasureWeight | MixtureWeight
