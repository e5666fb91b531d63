"""Make the parts of a problem from checked tables: the domain, the measures, the weight.

Here files that the tables name are read, so mistakes can still turn up; they are reported
with the key of the table that named the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from congested import problem_measures as measure_tables
from congested import problem_schema as schema
from congested import problem_weights as weight_tables
from congested.errors import InputError
from congested.problem import OutputOptions, Problem, ReadTable, SolverOptions
from congested.problem_table import Key, Table, dotted, resolve

if TYPE_CHECKING:
    from congested.domain import Domain
    from congested.geometry import FloatArray
    from congested.measures.base import Measure
    from congested.weights.kinds import Weight


def build_problem(
    title: str, tables: Mapping[str, Table], directory: Path, file: str | None
) -> Problem:
    """Make a problem from checked tables.

    Parameters
    ----------
    title
        Title of the problem.
    tables
        Every table of the schema by its name.
    directory
        Directory that relative paths start from.
    file
        Name of the problem file for error messages.

    Raises
    ------
    InputError
        If a file that a table names is wrong, or fits the other parts badly.
    """
    workshop = _Workshop(tables["domain"], directory, file)
    parts = {
        name: workshop.build((name,), tables[name])
        for name in ("domain", "source", "target", "weight")
    }

    solver = tables["solver"].model_dump()
    # A boolean of TOML is a word to PETSc.
    solver["petsc"] = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in solver["petsc"].items()
    }
    try:
        return Problem(
            **parts,
            strength=tables["penalty"].model_dump()["strength"],
            title=title,
            solver=SolverOptions(**solver),
            output=OutputOptions(**tables["output"].model_dump()),
            tables=tuple(workshop.read),
        )
    except InputError as error:
        raise InputError(error.message, key=error.key, file=file) from error


@dataclass(frozen=True)
class _Workshop:
    """What it takes to make a part from its table, and the tables of what was made."""

    domain: Table
    directory: Path
    file: str | None
    read: list[ReadTable] = field(default_factory=list)

    def build(self, place: Key, table: Table) -> Any:
        """Return the part that a table stands for."""
        if isinstance(table, weight_tables.MixtureTable):
            parts = [self.build((*place, *key), part) for key, part in table.inner()]
            return _mixture(parts, table.shares)
        table = _with_box(_with_role(table, str(place[0])), self.domain)
        table = _absolute(table, self.directory)
        try:
            part = self._made(table)
        except InputError as error:
            raise _at_table(error, place, table, self.file) from error
        self.read.append(ReadTable(part, table.effective()))
        return part

    def _made(self, table: Table) -> Any:
        if isinstance(table, measure_tables.PointsTable):
            part: Any = _build_points(table, self.domain)
        else:
            builder = next(_BUILDERS[kind] for kind in type(table).__mro__ if kind in _BUILDERS)
            part = builder(table)
        if isinstance(table, weight_tables.MassTable | weight_tables.DensityTable):
            return _measure_weight(part, table)
        return part


def _at_table(error: InputError, place: Key, table: Table, file: str | None) -> InputError:
    """Return the error with the key of the problem file that leads to it."""
    fields = type(table).model_fields
    own = (error.key or "").split(".")[-1].split("[")[0]
    files = [key for key in table.file_keys if getattr(table, key) == error.file is not None]
    key = (*place, own) if own in fields else (*place, *files[:1])
    message = error.message if error.file is None else f"{error.file}: {error.message}"
    return InputError(message, key=dotted(key), file=file)


def _with_role(table: Table, name: str) -> Table:
    """Return the table; a ray-monotone measure plays by default the role of its table."""
    if isinstance(table, measure_tables.RayMonotoneTable) and table.role is None:
        return table.model_copy(update={"role": name})
    return table


def _with_box(table: Table, domain: Table) -> Table:
    """Return the table; an image whose file does not say where it lies fills the domain's box."""
    if not (isinstance(table, measure_tables.ImageTable) and isinstance(domain, schema.BoxTable)):
        return table
    if table.knows_its_box or table.lower is not None:
        return table
    return table.model_copy(update={"lower": domain.lower, "upper": domain.upper})


def _absolute(table: Table, directory: Path) -> Table:
    """Return the table with absolute file names."""
    names = {
        key: resolve(value, directory).as_posix()
        for key in table.file_keys
        if isinstance(value := getattr(table, key), str)
    }
    return table.model_copy(update=names)


# --- one builder for each kind --------------------------------------------------------------


def _build_box(table: schema.BoxTable) -> Domain:
    from congested.domain import Box

    return Box(tuple(table.lower), tuple(table.upper), table.cells)


def _build_mesh(table: schema.MeshTable) -> Domain:
    from congested.domain import MeshFile

    return MeshFile(Path(table.file))


def _build_gaussian_mixture(table: measure_tables.GaussianMixtureTable) -> Measure:
    from congested.measures.gaussian_mixture import GaussianMixture

    means = np.array(table.means)
    count, dimension = means.shape
    if table.covariances is None:
        stds = np.broadcast_to(np.asarray(table.stds, dtype=np.float64), (count,))
        covariances = stds[:, None, None] ** 2 * np.eye(dimension)
    else:
        covariances = np.array(table.covariances)
    weights = np.full(count, 1.0 / count) if table.weights is None else np.array(table.weights)
    return GaussianMixture(means, covariances, weights)


def _build_uniform_box(table: measure_tables.UniformBoxTable) -> Measure:
    from congested.measures.uniform import UniformBox

    return UniformBox(np.array(table.lower), np.array(table.upper))


def _build_uniform_ball(table: measure_tables.UniformBallTable) -> Measure:
    from congested.measures.uniform import UniformBall

    return UniformBall(np.array(table.center), table.radius)


def _build_points(table: measure_tables.PointsTable, domain: Table) -> Measure:
    from congested.measures.points import Points, points_from_file

    if table.file is not None:
        # The dimension of a mesh is known when it has been read.
        dimension = len(domain.lower) if isinstance(domain, schema.BoxTable) else None
        read = points_from_file(table.file, table.weights, dimension)
        if isinstance(domain, schema.BoxTable):
            _check_inside(read.points, domain)
        return read
    points = np.array(table.points)
    count = len(points)
    weights = np.full(count, 1.0 / count) if table.weights is None else np.array(table.weights)
    return Points(points, weights)


def _check_inside(points: FloatArray, box: schema.BoxTable) -> None:
    outside = box.outside(points)
    if outside:
        raise InputError(
            f"found {len(outside)} points outside the domain, first number {outside[0]} "
            f"(from 0) at {points[outside[0]].tolist()}; allowed: points of the domain",
            key="file",
        )


def _build_image(table: measure_tables.ImageTable) -> Measure:
    from congested.measures.image_file import image_from_file

    return image_from_file(
        table.file,
        table.lower,
        table.upper,
        indexing=table.indexing,
        invert=table.invert,
        array=table.array,
    )


def _build_field(table: measure_tables.FieldTable) -> Measure:
    from congested.measures.mesh_field import mesh_field_from_file

    return mesh_field_from_file(table.file, table.array)


def _build_ray_monotone(table: measure_tables.RayMonotoneTable) -> Measure:
    from congested.measures.ray_file import pair_from_file
    from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
    from congested.measures.uniform import UniformBox

    if isinstance(table.pair, str):
        pair = pair_from_file(table.pair)
        if pair.dimension not in (2, 3):  # a pair has any dimension, a mesh has not
            raise InputError(
                f"centers: found {pair.dimension} coordinates; allowed: 2 or 3", file=table.pair
            )
    else:
        entries = table.pair
        pair = RayMonotonePair(
            entries.half_width, entries.power, np.array(entries.centers), np.array(entries.biases)
        )
    if table.role == "source":
        return RayMonotoneSource(pair)
    side = np.full(np.asarray(pair.centers).shape[1], pair.half_width)
    return UniformBox(-side, side)


def _build_interpolates(table: weight_tables.InterpolatesTable) -> Weight:
    return table.weight


def _build_end(table: weight_tables.EndTable) -> Weight:
    from congested.weights.kinds import Interpolates

    return Interpolates(coupling=table.kind)


def _build_constant(table: weight_tables.ConstantTable) -> Weight:
    from congested.weights.kinds import ConstantWeight

    return ConstantWeight(table.density)


def _build_uniform(table: weight_tables.UniformTable) -> Weight:
    from congested.weights.kinds import ConstantWeight

    return ConstantWeight()


def _measure_weight(
    measure: Any, table: weight_tables.MassTable | weight_tables.DensityTable
) -> Weight:
    from congested.weights.kinds import MeasureWeight

    if isinstance(table, weight_tables.DensityTable) and not table.normalise:
        return MeasureWeight(measure, measure.integral)
    return MeasureWeight(measure, 1.0 if table.mass is None else table.mass)


def _mixture(parts: list[Weight], shares: list[float]) -> Weight:
    from congested.weights.kinds import MixtureWeight

    return MixtureWeight(tuple(parts), tuple(shares))


_BUILDERS: dict[type[Table], Callable[[Any], Any]] = {
    schema.BoxTable: _build_box,
    schema.MeshTable: _build_mesh,
    measure_tables.GaussianMixtureTable: _build_gaussian_mixture,
    measure_tables.UniformBoxTable: _build_uniform_box,
    measure_tables.UniformBallTable: _build_uniform_ball,
    measure_tables.ImageTable: _build_image,
    measure_tables.FieldTable: _build_field,
    measure_tables.RayMonotoneTable: _build_ray_monotone,
    weight_tables.InterpolatesTable: _build_interpolates,
    weight_tables.EndTable: _build_end,
    weight_tables.ConstantTable: _build_constant,
    weight_tables.UniformTable: _build_uniform,
}
