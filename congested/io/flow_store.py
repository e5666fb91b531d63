"""`flow.h5`: rows of numbers about particles, written batch by batch as they come.

So no more than a batch has to be in memory. The file appears under its name when it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from congested.geometry import FloatArray
from congested.io.files import atomic_path

_CHUNK = 2**17  # bytes


class FlowStore:
    """Data sets that grow by particles; `flow_store` opens it.

    Parameters
    ----------
    file
        An empty file, open for writing.
    columns
        The shape of a particle's row by the name of the data set: () for a number, (d,) for a
        place. All are in double precision.
    """

    def __init__(self, file: h5py.File, columns: Mapping[str, tuple[int, ...]]) -> None:
        self.columns = dict(columns)
        self.number = 0
        self._file = file
        for name, shape in self.columns.items():
            rows = max(_CHUNK // (8 * int(np.prod(shape, dtype=int))), 1)
            file.create_dataset(
                name, (0, *shape), np.float64, maxshape=(None, *shape), chunks=(rows, *shape)
            )

    def append(self, rows: Mapping[str, npt.ArrayLike]) -> None:
        """Append particles.

        Parameters
        ----------
        rows
            Numbers (n, …) for each column.

        Raises
        ------
        ValueError
            If a column is missing, or has another shape than it should.
        OSError
            If the system refuses.
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
        self.number = end


@contextmanager
def flow_store(
    path: Path,
    columns: Mapping[str, tuple[int, ...]],
    times: FloatArray,
    attributes: Mapping[str, str | int | float] | None = None,
) -> Iterator[FlowStore]:
    """Open a file that particles are appended to (one rank).

    Parameters
    ----------
    path
        The file to write.
    columns
        As for `FlowStore`.
    times
        Times (f,) of the positions, a data set of its own.
    attributes
        Numbers and texts that say what the file is of.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then still there.
    """
    with atomic_path(path) as partial:
        with h5py.File(partial, "w") as file:
            file.attrs.update(attributes or {})
            file.create_dataset("times", data=times)
            yield FlowStore(file, columns)
