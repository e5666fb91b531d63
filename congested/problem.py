"""The frozen problem: what is transported where, at which price, and how it shall be solved.

A :class:`Problem` holds only data. ``problem_file.py`` makes one from a TOML file, Python users
make one from the parts; every later stage reads it and none changes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from congested.errors import InputError
from congested.weights.kinds import Interpolates, MeasureWeight, MixtureWeight, Weight

if TYPE_CHECKING:
    from congested.domain import Domain
    from congested.measures.base import Measure

Method = Literal["newton", "augmented-lagrangian"]
Refinement = Literal["uniform", "none", "adaptive"]
LowerBound = Literal["auto", "p1", "p2"]
Scope = Literal["cell-data", "continuum"]
Format = Literal["vtu", "xdmf", "vtx"]

METHODS: tuple[str, ...] = get_args(Method)
REFINEMENTS: tuple[str, ...] = get_args(Refinement)
LOWER_BOUNDS: tuple[str, ...] = get_args(LowerBound)
SCOPES: tuple[str, ...] = get_args(Scope)
FORMATS: tuple[str, ...] = get_args(Format)

CELL_DATA, CONTINUUM = SCOPES

# Arrays with more numbers than this are summarised in a description instead of listed.
_LISTED_NUMBERS = 1000

_KINDS = {
    "Box": {"kind": "box"},
    "MeshFile": {"kind": "mesh"},
    "GaussianMixture": {"kind": "gaussian-mixture"},
    "UniformBox": {"kind": "uniform", "shape": "box"},
    "UniformBall": {"kind": "uniform", "shape": "ball"},
    "Points": {"kind": "points"},
    "RayMonotoneSource": {"kind": "ray-monotone", "role": "source"},
    "RayMonotonePair": {},
    "Image": {"kind": "image"},
    "MeshField": {"kind": "field"},
    "Interpolates": {"kind": "interpolates"},
    "ConstantWeight": {"kind": "constant"},
}


def _require(condition: bool, key: str, found: object, allowed: str) -> None:
    if not condition:
        raise InputError(f"found {found!r}; allowed: {allowed}", key=key)


def _one_of(words: tuple[str, ...]) -> str:
    return " or ".join(f'"{word}"' for word in words)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


@dataclass(frozen=True)
class SolverOptions:
    """How the problem is solved and when the solver stops.

    Attributes
    ----------
    method
        Solver: ``"newton"``, or ``"augmented-lagrangian"`` (slower; see `AugmentedLagrangian`).
    relative_gap
        Goal: stop when (upper − lower) / max(|upper|, |lower|) is certified to be this small.
    refine
        ``"uniform"``: refine the whole mesh until the goal is met; ``"adaptive"``: the cells that
        make the gap and the error of the cell data; ``"none"``: only the starting mesh.
    max_cells
        Never refine beyond this number of cells.
    max_seconds
        Do not start anything new after so many seconds; None: no limit.
    lower_bound
        Conforming potential of the lower bound: ``"p1"``, ``"p2"`` or ``"auto"``.
    scope
        What the bounds hold for: ``"cell-data"``, the problem with the masses of the cells, or
        ``"continuum"``, that with the original densities, where such bounds are known.
    petsc
        PETSc options of the linear solves without their leading dash; None: a flag.

    Raises
    ------
    InputError
        If a value is not allowed; the key is that of the problem file (``solver.method``).
    """

    method: str = "newton"
    relative_gap: float = 1e-3
    refine: str = "uniform"
    max_cells: int = 2_000_000
    max_seconds: float | None = None
    lower_bound: str = "auto"
    scope: str = "cell-data"
    petsc: Mapping[str, str | int | float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        _require(self.method in METHODS, "solver.method", self.method, _one_of(METHODS))
        _require(
            _is_number(self.relative_gap) and 0 < self.relative_gap < math.inf,
            "solver.relative_gap",
            self.relative_gap,
            "a number > 0",
        )
        _require(self.refine in REFINEMENTS, "solver.refine", self.refine, _one_of(REFINEMENTS))
        _require(
            isinstance(self.max_cells, (int, np.integer))
            and not isinstance(self.max_cells, bool)
            and self.max_cells >= 1,
            "solver.max_cells",
            self.max_cells,
            "an integer >= 1",
        )
        _require(
            self.max_seconds is None or (_is_number(self.max_seconds) and self.max_seconds > 0),
            "solver.max_seconds",
            self.max_seconds,
            "a number > 0",
        )
        _require(
            self.lower_bound in LOWER_BOUNDS,
            "solver.lower_bound",
            self.lower_bound,
            _one_of(LOWER_BOUNDS),
        )
        _require(self.scope in SCOPES, "solver.scope", self.scope, _one_of(SCOPES))
        if self.scope == CONTINUUM and self.lower_bound == "p2":
            raise InputError(
                'found "continuum", whose lower bound comes from a P1 potential, with lower_bound '
                '= "p2"; allowed: lower_bound = "auto" or "p1"',
                key="solver.scope",
            )


@dataclass(frozen=True)
class OutputOptions:
    """Which files are written for people.

    Attributes
    ----------
    formats
        Field files: any of ``"vtu"``, ``"xdmf"``, ``"vtx"``.
    overview
        Whether ``overview.png`` is drawn.

    Raises
    ------
    InputError
        If a format is unknown.
    """

    formats: tuple[str, ...] = ("vtu",)
    overview: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "formats", tuple(self.formats))
        for name in self.formats:
            _require(name in FORMATS, "output.formats", name, _one_of(FORMATS))


@dataclass(frozen=True, eq=False)
class ReadTable:
    """A part of a problem together with the table of the problem file that it was made from."""

    part: object
    table: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """Transport of ``source`` to ``target`` in ``domain`` with the congestion cost H.

    Attributes
    ----------
    domain
        Box or mesh file, in 2D or 3D.
    source, target
        The probability measures μ and ν.
    weight
        The weight σ; by default that of the WGAN-GP for the pair of measures.
    strength
        The penalty λ > 0; ``math.inf`` gives W₁.
    title
        Free text for tables and pictures.
    solver, output
        How to solve, what to write.
    tables
        The tables of the problem file that parts came from (filled by :meth:`from_file`). They
        belong to the objects, so ``dataclasses.replace(problem, source=…)`` cannot leave a wrong
        description behind.

    Raises
    ------
    InputError
        If the dimensions do not agree or the strength is not positive.
    """

    domain: Domain
    source: Measure
    target: Measure
    weight: Weight = field(default_factory=Interpolates)
    strength: float = 10.0
    title: str = ""
    solver: SolverOptions = field(default_factory=SolverOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    tables: tuple[ReadTable, ...] = ()

    def __post_init__(self) -> None:
        """Check what concerns more than one part."""
        _require(
            _is_number(self.strength) and self.strength > 0,
            "penalty.strength",
            self.strength,
            "a number > 0 or inf",
        )
        object.__setattr__(self, "strength", float(self.strength))
        lower = getattr(self.domain, "lower", None)
        if lower is not None:  # the dimension of a mesh file is known when it has been read
            check_dimensions(self, len(lower))
        elif self.source.dimension != self.target.dimension:
            raise InputError(
                f"found dimension {self.target.dimension}; "
                f"allowed: {self.source.dimension} as that of the source",
                key="target",
            )

    @classmethod
    def from_file(cls, path: str | Path) -> Problem:
        """Read a problem file (TOML).

        Parameters
        ----------
        path
            The file; relative paths in it are relative to its directory.

        Raises
        ------
        InputError
            If the file has a mistake; the text names the key, what was found, what is allowed.
        """
        from congested.problem_file import read_problem

        return read_problem(path)

    @property
    def description(self) -> dict[str, Any]:
        """The effective problem, defaults filled in, as data that JSON can hold.

        It has the shape of a problem file with absolute paths, so that it can be solved again.
        An infinite number is the string ``"inf"``; what has no value is left out. Parts made in
        Python are described as well as their fields allow.
        """
        solver = dataclasses.asdict(self.solver)
        # A flag has no value; an empty string says the same to PETSc, and TOML can hold it.
        solver["petsc"] = {
            name: "" if value is None else value for name, value in self.solver.petsc.items()
        }
        parts: dict[str, Any] = {
            "title": self.title,
            "domain": self._describe(self.domain),
            "source": self._describe(self.source),
            "target": self._describe(self.target),
            "weight": self._describe(self.weight),
            "penalty": {"strength": self.strength},
            "solver": solver,
            "output": dataclasses.asdict(self.output),
        }
        described: dict[str, Any] = _as_json(parts)
        return described

    def _describe(self, part: object) -> Mapping[str, Any]:
        for read in self.tables:
            if read.part is part:
                return read.table
        if isinstance(part, MeasureWeight):
            return {**self._describe(part.measure), "mass": part.mass}
        if isinstance(part, MixtureWeight):
            return {"kind": "mixture", "parts": list(self._describe_parts(part, 1.0))}
        return _describe_object(part)

    def _describe_parts(self, mixture: MixtureWeight, share: float) -> Iterator[Mapping[str, Any]]:
        """Yield the parts of a mixture; those of a mixture in it are parts of its own."""
        for part_share, part in zip(mixture.shares or (), mixture.parts, strict=True):
            if isinstance(part, MixtureWeight):
                yield from self._describe_parts(part, share * part_share)
            else:
                yield {"share": share * part_share, **self._describe(part)}


def check_dimensions(problem: Problem, dimension: int) -> None:
    """Check that source and target live in the dimension of the domain.

    Parameters
    ----------
    problem
        The problem.
    dimension
        Dimension of the box or of the mesh that was read.

    Raises
    ------
    InputError
        If they do not.
    """
    for key, measure in (("source", problem.source), ("target", problem.target)):
        if measure.dimension != dimension:
            raise InputError(
                f"found dimension {measure.dimension}; allowed: {dimension} as that of the domain",
                key=key,
            )


def _describe_object(part: object) -> dict[str, Any]:
    name = type(part).__name__
    table: dict[str, Any] = dict(_KINDS.get(name, {"kind": name}))
    if dataclasses.is_dataclass(part):
        table |= {
            entry.name: getattr(part, entry.name)
            for entry in dataclasses.fields(part)
            if not entry.name.startswith("_")
        }
    if isinstance(part, Interpolates):
        table = {"kind": table["kind"], **part.settings}
    return table


def _as_json(value: object) -> Any:
    """Return ``value`` with only the types that JSON has; entries that are None are left out."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, np.ndarray):
        if value.size > _LISTED_NUMBERS:
            return f"array of shape {value.shape}"
        return _as_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, np.generic):
        return _as_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Path):
        return value.resolve().as_posix()
    if dataclasses.is_dataclass(value):
        return _as_json(_describe_object(value))
    return getattr(value, "__qualname__", type(value).__name__)
