"""What the commands share: types of arguments, the output directory, and how errors are said."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from congested.errors import InputError
from congested.problem import FORMATS

if TYPE_CHECKING:
    from congested.critics.network import Critic

# Exit status.
DONE, WRONG_INPUT, STOPPED = 0, 2, 3

#: Signs of critics by the words of the command line.
SIGNS = {"auto": None, "1": 1, "-1": -1}


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def say_error(text: str) -> None:
    """Write an error to stderr."""
    sys.stderr.write(f"error: {text}\n")
    sys.stderr.flush()


def positive(text: str) -> float:
    """Return a finite number > 0."""
    value = positive_or_inf(text)
    if math.isinf(value):
        raise argparse.ArgumentTypeError(f'found "{text}"; allowed: a number > 0')
    return value


def positive_or_inf(text: str) -> float:
    """Return a number > 0 or infinity."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f'found "{text}"; allowed: a number > 0')
    return value


def integer(least: int) -> Callable[[str], int]:
    """Return a function that reads an integer from a least one on."""

    def check(text: str) -> int:
        value: float = math.nan
        # All digits of a large one count; 2e6 is another way to write it.
        for read in (int, float):
            try:
                value = read(text)
                break
            except ValueError:
                continue
        if not (value >= least and float(value).is_integer()):
            message = f'found "{text}"; allowed: an integer >= {least}'
            raise argparse.ArgumentTypeError(message)
        return int(value)

    return check


def one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    """Return a function that lets only some words pass."""

    def check(text: str) -> str:
        if text not in allowed:
            words = " or ".join(allowed)
            raise argparse.ArgumentTypeError(f'found "{text}"; allowed: {words}')
        return text

    return check


def formats(text: str) -> tuple[str, ...]:
    """Return the names of field files in a list with commas."""
    check = one_of(FORMATS)
    return tuple(check(word) for word in text.split(",") if word)


def add_talk(parser: argparse.ArgumentParser) -> None:
    """Add -v and -q."""
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-v", "--verbose", action="store_true", help="log every detail")
    talk.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")


def add_critic_flags(parser: argparse.ArgumentParser) -> None:
    """Add what the files of critics do not tell."""
    add = parser.add_argument
    add(
        "--activation",
        metavar="NAME",
        help="what stands between the layers of state dicts: relu (default), leaky-relu, "
        "group-sort, absolute, tanh, softplus, silu or elu",
    )
    add("--group-size", type=integer(2), metavar="N", help="neighbours that group-sort sorts")
    add("--slope", type=float, metavar="S", help="of leaky-relu below zero (default 0.01)")
    add(
        "--orthogonal-map",
        metavar="MAP",
        help="of orthogonal layers: matrix_exp, cayley or householder (default: as PyTorch's)",
    )
    add(
        "--sign",
        type=one_of(tuple(SIGNS)),
        default="auto",
        metavar="SIGN",
        help="1 or -1: factor that makes critics high on the source; auto (default): found out",
    )


def critic_of_flags(path: Path, arguments: argparse.Namespace, dimension: int) -> Critic:
    """Read a critic as the flags of `add_critic_flags` say."""
    from congested.critics.load import load_critic

    return load_critic(
        path,
        activation=arguments.activation,
        slope=arguments.slope,
        group_size=arguments.group_size,
        orthogonal_map=arguments.orthogonal_map,
        dimension=dimension,
    )


def petsc_options(words: Sequence[str]) -> dict[str, str | None]:
    """Return PETSc options from words like ``-ksp_rtol 1e-10 -ksp_monitor``."""
    options: dict[str, str | None] = {}
    name = None
    for word in words:
        if len(word) > 1 and word[0] == "-" and word[1].isalpha():
            name = word[1:]
            options[name] = None
        elif name is not None and options[name] is None:
            options[name] = word
        else:
            message = f'found "{word}"; allowed: PETSc options: -name or -name value'
            raise InputError(message, key="--petsc")
    return options


def prepare_directory(directory: Path, last: str | None = None) -> None:
    """Make the directory, or find out before the work starts that nothing can be written.

    Parameters
    ----------
    directory
        What the user named.
    last
        Name of the file that stands for all others; one of an earlier run is removed. None: what
        is there stays for now.
    """
    allowed = "allowed: a directory that can be written"
    if directory.exists() and not directory.is_dir():
        raise InputError(f'found "{directory}", which is a file; {allowed}', key="--output")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        # Whatever happens next, nobody shall take an earlier run's numbers for those of this one.
        if last is not None:
            (directory / last).unlink(missing_ok=True)
    except OSError as error:
        message = f'found "{directory}" ({error.strerror}); {allowed}'
        raise InputError(message, key="--output") from error
