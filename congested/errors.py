"""Exceptions with the exit status that the command line gives them."""

from __future__ import annotations

from typing import ClassVar


class CongestedError(Exception):
    """Base of every error that the package raises on purpose."""

    exit_status: ClassVar[int] = 1


class InputError(CongestedError):
    """The input is wrong: the text names the key, what was found and what is allowed.

    Parameters
    ----------
    message
        What was found and what is allowed.
    key
        Dotted key of the problem file (``source.means``) or argument name.
    file
        File that holds the mistake.
    """

    exit_status = 2

    def __init__(self, message: str, *, key: str | None = None, file: str | None = None) -> None:
        self.message, self.key, self.file = message, key, file
        super().__init__(": ".join(part for part in (file, key, message) if part))

    def within(self, place: str) -> InputError:
        """Return the error with its key as one of a table at the given place."""
        key = f"{place}.{self.key}" if self.key else place
        return InputError(self.message, key=key, file=self.file)


class NotConverged(CongestedError):
    """An iteration stopped before it reached its goal; the text names the remedy."""

    exit_status = 3


class InfeasibleProblem(CongestedError):
    """No flux satisfies the constraints; the text names the part that cannot balance its mass."""

    exit_status = 4
