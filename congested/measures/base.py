"""What every measure offers, and the restriction of a measure to the cells of a mesh.

A measure gives its exact or error-controlled integral over each cell, maps uniform numbers to
samples, and knows a box that holds it. :func:`restricted_masses` turns the first into the data of
the problem: masses that sum to one, with what lay outside the domain recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested.errors import CongestedError, InfeasibleProblem, InputError, NotConverged
from congested.geometry import Cells, FloatArray

Value = TypeVar("Value")

# Largest part of a measure that may lie outside the domain.
LARGEST_OUTSIDE = 1e-2

# What rounding and the loosest quadrature (ray-monotone in 3D) may add to a mass.
_SLACK = 2e-5

_ERRORS = (InputError, NotConverged, InfeasibleProblem, CongestedError)


class Measure(Protocol):
    """A probability measure on R^d, d = 2 or 3."""

    @property
    def dimension(self) -> int:
        """Space dimension d."""

    @property
    def sample_dimension(self) -> int:
        """Number of uniform numbers that one sample needs."""

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integral of the measure over each owned cell (collective).

        Parameters
        ----------
        cells
            The cells, distributed over ``cells.comm``.
        tolerance
            Absolute error allowed in total over all cells of all ranks.

        Returns
        -------
        numpy.ndarray
            Masses (n,), not renormalised: their sum is below one if mass lies outside.
        """

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, sample_dimension) in [0, 1) to samples (m, d), row by row."""

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners (d,), (d,) of a box that holds all but about 1e-12 of the mass."""


@runtime_checkable
class OffersVertexMasses(Protocol):
    """A measure that knows what a piecewise affine function sees of it."""

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integrals ∫_T λ_i dμ of the barycentric coordinates (collective).

        Parameters
        ----------
        cells
            The cells, distributed over ``cells.comm``.
        tolerance
            Absolute error allowed in total over all vertices of all cells of all ranks.

        Returns
        -------
        numpy.ndarray
            Masses (n, d+1) ≥ 0, whose rows sum to ``cell_masses`` up to the tolerances.
        """


@runtime_checkable
class OffersDensityRange(Protocol):
    """A measure with a density that it can bound on a cell."""

    def density_range(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return rigorous bounds (n,), (n,) of the density on each owned cell (collective)."""


@runtime_checkable
class OffersAffineError(Protocol):
    """A measure with a density that is nearly affine on a small cell, and knows how nearly."""

    def affine_error(self, cells: Cells) -> FloatArray:
        """Return rigorous bounds (n,) of the distance of the density from an affine function.

        The distance is the root mean square over the cell of the difference, for the best of all
        affine functions. (Collective.)
        """


def affine_error_bound(measure: Measure, cells: Cells) -> FloatArray | None:
    """Return what bounds the distance of a density from an affine function on each cell.

    Parameters
    ----------
    measure
        The measure.
    cells
        The cells, distributed over ``cells.comm``. (Collective.)

    Returns
    -------
    numpy.ndarray or None
        The measure's ``affine_error`` (n,), or half of its ``density_range``, which is the largest
        distance from the constant in the middle; None if the measure offers neither.
    """
    if isinstance(measure, OffersAffineError):
        return measure.affine_error(cells)
    if isinstance(measure, OffersDensityRange):
        lower, upper = measure.density_range(cells)
        return 0.5 * (upper - lower)
    return None


@dataclass(frozen=True, eq=False)
class RestrictedMasses:
    """Cell masses of a measure restricted to the domain and renormalised.

    Attributes
    ----------
    masses
        Mass (n,) of each owned cell; all ranks' masses sum to one.
    outside
        Part of the measure that lay outside the domain before the renormalisation.
    """

    masses: FloatArray
    outside: float


def restricted_masses(
    measure: Measure, cells: Cells, name: str, tolerance: float = 1e-10
) -> RestrictedMasses:
    """Restrict a measure to the cells of a mesh and renormalise it (collective).

    Parameters
    ----------
    measure
        The measure.
    cells
        The cells, distributed over ``cells.comm``.
    name
        ``"source"`` or ``"target"``, for the texts of errors.
    tolerance
        Absolute error allowed in the cell masses, in total.

    Raises
    ------
    InputError
        If the dimensions differ, more than 1e-2 of the mass lies outside the domain, the mass
        exceeds one, or a cell mass is negative or not a number. Every rank raises it.
    """
    if measure.dimension != cells.dimension:
        raise InputError(
            f"found dimension {measure.dimension}, allowed {cells.dimension} as that of the mesh",
            key=name,
        )
    masses = measure.cell_masses(cells, tolerance)
    slack = max(_SLACK, 10.0 * tolerance)
    smallest = math.inf
    if cells.number:
        # NaN must win here, which Python's min does not promise.
        smallest = float(masses.min()) if np.isfinite(masses).all() else -math.inf
    smallest = cells.comm.allreduce(smallest, op=MPI.MIN)
    if smallest < -slack:
        found = "not a finite number" if math.isinf(smallest) else f"{smallest:.3g}"
        raise InputError(f"found a cell mass that is {found}; allowed: masses >= 0", key=name)
    masses = np.clip(masses, 0.0, None)
    total = float(cells.comm.allreduce(math.fsum(masses), op=MPI.SUM))
    outside = max(0.0, 1.0 - total)
    if total > 1.0 + slack:
        raise InputError(f"found the total mass {total:.8g} in the domain; allowed: 1", key=name)
    if outside > LARGEST_OUTSIDE:
        raise too_much_outside(outside, name)
    return RestrictedMasses(np.asarray(masses / total, dtype=np.float64), outside)


def too_much_outside(outside: float, name: str) -> InputError:
    """Return the error of a measure of which too much lies outside the domain.

    Parameters
    ----------
    outside
        The part outside, more than `LARGEST_OUTSIDE`.
    name
        ``"source"`` or ``"target"``.
    """
    return InputError(
        f"found {100 * outside:.3g} % of the mass outside the domain; allowed: "
        f"{100 * LARGEST_OUTSIDE:g} % (enlarge the domain or move the measure)",
        key=name,
    )


def run_collectively(comm: MPI.Comm, compute: Callable[[], Value]) -> Value:
    """Run a rank-local computation so that an error on one rank is raised on all (collective).

    Without this, the ranks that succeed would wait for ever in their next reduction.

    Parameters
    ----------
    comm
        Communicator whose ranks all call this function.
    compute
        Computation without communication.

    Raises
    ------
    CongestedError
        The class and text of the first rank's error, on the ranks that had none themselves.
    """
    error: Exception | None = None
    try:
        value = compute()
    except Exception as caught:  # raised again below, on every rank
        error = caught
    status = getattr(type(error), "exit_status", 1)
    found = comm.allgather((status, str(error)) if error is not None else None)
    if error is not None:
        raise error
    for entry in found:
        if entry is not None:
            raise next(kind for kind in _ERRORS if kind.exit_status == entry[0])(entry[1])
    return value


def as_array(
    value: npt.ArrayLike, key: str, allowed: str, shape: tuple[int | None, ...]
) -> FloatArray:
    """Return a finite float array of the given shape (None: any length), or raise InputError.

    Parameters
    ----------
    value
        What the user gave.
    key, allowed
        Name and description of the value, for the error's text.
    shape
        Lengths asked for.
    """
    try:
        raw = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"found {value!r:.80}; allowed: {allowed}", key=key) from error
    if raw.dtype.kind not in "iuf":  # text that looks like a number is a mistake, too
        raise InputError(f"found {value!r:.80}; allowed: {allowed}", key=key)
    array = raw.astype(np.float64)  # a copy that nobody else can change
    fits = array.ndim == len(shape) and all(
        wanted is None or length == wanted
        for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"found an array of shape {array.shape}; allowed: {allowed}", key=key)
    if not np.isfinite(array).all():
        raise InputError(f"found a number that is not finite; allowed: {allowed}", key=key)
    array.flags.writeable = False
    return array


def as_box(
    lower: npt.ArrayLike, upper: npt.ArrayLike, dimension: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the corners (d,), (d,) of a box, or raise InputError unless they span one.

    Parameters
    ----------
    lower, upper
        What the user gave.
    dimension
        Space dimension d; None: 2 or 3.
    """
    allowed = f"{dimension or '2 or 3'} numbers"
    lower = as_array(lower, "lower", allowed, (dimension,))
    check_dimension(len(lower), "lower")
    upper = as_array(upper, "upper", f"{len(lower)} numbers", (len(lower),))
    if (upper <= lower).any():
        raise InputError(
            f"found {upper.tolist()}; allowed: larger than lower = {lower.tolist()} in every "
            "coordinate",
            key="upper",
        )
    return lower, upper


def check_dimension(dimension: int, key: str) -> None:
    """Raise InputError unless the space dimension is 2 or 3."""
    if dimension not in (2, 3):
        raise InputError(f"found {dimension} coordinates; allowed: 2 or 3", key=key)


def normalised_weights(
    weights: npt.ArrayLike | None, number: int, key: str = "weights"
) -> FloatArray:
    """Return weights (number,) that sum to one; equal ones for None.

    Raises
    ------
    InputError
        If there is not one per item, one is negative, or the sum is not 1 to 1e-6.
    """
    if weights is None:
        array: FloatArray = np.full(number, 1.0 / number)
    else:
        array = as_array(weights, key, f"{number} numbers >= 0 with sum 1", (number,))
    total = math.fsum(array)
    if array.min() < 0:
        where = int(np.argmin(array))
        raise InputError(f"found {array[where]:.6g} at position {where}; allowed: >= 0", key=key)
    if abs(total - 1.0) > 1e-6:
        raise InputError(
            f"found the sum {total:.8g}; allowed: 1 to within 1e-6 (divide them by their sum)",
            key=key,
        )
    array = np.asarray(array / total, dtype=np.float64)
    array.flags.writeable = False
    return array


def check_uniforms(uniforms: npt.ArrayLike, sample_dimension: int) -> FloatArray:
    """Return the uniform numbers as an array (m, sample_dimension), or raise InputError."""
    array = np.asarray(uniforms, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != sample_dimension:
        raise InputError(
            f"found an array of shape {array.shape}; allowed: (m, {sample_dimension})",
            key="uniforms",
        )
    return array
