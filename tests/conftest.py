"""What all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """Give the log back to pytest when a command that ran in this process has taken it."""
    logger = logging.getLogger("congested")
    before = logger.propagate, logger.level, list(logger.handlers)
    yield
    logger.propagate, _, logger.handlers = before
    logger.setLevel(before[1])
