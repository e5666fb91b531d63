"""`flow.h5`: rows of numbers about particles, written batch by batch as they come.

The file grows under a hidden name and takes its own when it is closed. What is there after each
batch survives the end of the process, and a later one goes on from any number of particles.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from congested.errors import InputError
from congested.io.files import partial_name

_CHUNK = 2**17  # bytes


class FlowStore:
    """A file that particles are appended to (one rank).

    As a context it publishes the file at the end; after an exception it leaves it unfinished, to be
    gone on with.

    Parameters
    ----------
    path
        The file to write.
    columns
        The shape of a particle's row by the name of the data set: () for a number, (d,) for a
        place. All are in double precision.
    attributes
        Numbers and texts that say what the file is of. A run that goes on must have the same.
    keep
        Particles that an earlier run wrote and that count: 0 begins a new file, otherwise those
        that came later are cut off.

    Raises
    ------
    InputError
        If particles are to be kept but the unfinished file is not there, is damaged, has fewer, or
        has other columns or attributes.
    OSError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, tuple[int, ...]],
        *,
        attributes: Mapping[str, str | int | float] | None = None,
        keep: int = 0,
    ) -> None:
        self.path = path
        self.columns = dict(columns)
        self.number = keep
        attributes = dict(attributes or {})
        if keep:
            self._file = self._reopen(attributes)
        else:
            self._file = h5py.File(partial_name(path), "w")
            self._file.attrs.update(attributes)
            for name, shape in self.columns.items():
                rows = max(_CHUNK // (8 * int(np.prod(shape, dtype=int))), 1)
                self._file.create_dataset(
                    name, (0, *shape), np.float64, maxshape=(None, *shape), chunks=(rows, *shape)
                )
        self._file.flush()

    def _reopen(self, attributes: Mapping[str, Any]) -> h5py.File:
        partial = partial_name(self.path)
        try:
            file = h5py.File(partial, "r+")
        except FileNotFoundError:
            raise InputError("no such file to go on with", file=str(partial)) from None
        except OSError as error:
            raise InputError(f"damaged, nothing can be kept: {error}", file=str(partial)) from error
        try:
            self._check(file, attributes)
            for name in self.columns:
                file[name].resize(self.number, axis=0)
        except BaseException:
            file.close()
            raise
        return file

    def _check(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        def wrong(what: str, found: object, allowed: object) -> InputError:
            text = f"found {what} {found}; allowed here: {allowed}"
            return InputError(text, file=str(partial_name(self.path)))

        shapes = {name: tuple(file[name].shape[1:]) for name in file}
        if shapes != self.columns:
            raise wrong("columns", shapes, self.columns)
        stored = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in file.attrs.items()
        }
        if stored != dict(attributes):
            raise wrong("attributes", stored, dict(attributes))
        fewest = min((file[name].shape[0] for name in file), default=0)
        if fewest < self.number:
            raise wrong("particles", fewest, f"{self.number} or more")

    def append(self, rows: Mapping[str, npt.ArrayLike]) -> int:
        """Append particles, and return how many there are now.

        Parameters
        ----------
        rows
            Numbers (n, …) for each column.

        Raises
        ------
        ValueError
            If a column is missing, or has another shape than it should.
        OSError
            If the system refuses. What was there before is still there.
        """
        arrays = {name: np.asarray(values) for name, values in rows.items()}
        if arrays.keys() != self.columns.keys():
            raise ValueError(f"found columns {sorted(arrays)}; allowed: {sorted(self.columns)}")
        batch = len(next(iter(arrays.values()), ()))
        for name, shape in self.columns.items():
            if arrays[name].shape != (batch, *shape):
                raise ValueError(
                    f"column {name} has shape {arrays[name].shape}; allowed: {(batch, *shape)}"
                )
        end = self.number + batch
        for name, values in arrays.items():
            data = self._file[name]
            data.resize(end, axis=0)
            data[self.number : end] = values
        self._file.flush()
        self.number = end
        return end

    def close(self) -> Path:
        """Publish the file under its name, complete and on the disk; nothing after the first call.

        Raises
        ------
        OSError
            If the system refuses.
        """
        if self._file:
            self._file.close()
            partial = partial_name(self.path)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self.path)
        return self.path

    def leave(self) -> None:
        """Close the file unfinished, for a later run to go on with."""
        if self._file:
            self._file.close()

    def __enter__(self) -> FlowStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.leave()
