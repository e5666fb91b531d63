"""Compiling loops with Numba, with machine code on disk that knows which files it was made from.

Numba keeps compiled code in `__pycache__` and makes it anew when the function's own file changes.
A function that calls compiled functions of other files contains their code, too; here the files
that it depends on count as its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

_Stamp = tuple[tuple[float, int], ...]


def compiler(*files: str, fastmath: set[str] | bool = False) -> Callable[[Any], Any]:
    """Return a decorator that compiles functions.

    IEEE arithmetic as written unless `fastmath` says otherwise; division by zero gives infinity.

    Parameters
    ----------
    files
        ``__file__`` of the module, and of every module whose compiled functions it calls.
    fastmath
        What LLVM may do with floating-point numbers, as Numba names it.
    """
    stamp: _Stamp = tuple(
        (status.st_mtime, status.st_size) for status in (Path(file).stat() for file in files)
    )

    def compiled(function: Any) -> Any:
        dispatcher = njit(cache=True, error_model="numpy", fastmath=fastmath)(function)
        # Numba has no public way to say this; tests/test_compiled.py tells if this one is gone.
        # With NUMBA_DISABLE_JIT there is no cache.
        cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if cache_file is not None:
            cache_file._source_stamp = stamp
        return dispatcher

    return compiled
