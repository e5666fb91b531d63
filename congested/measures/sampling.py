"""Quasi-random points, and means of samples with their standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import __version__ as scipy_version
from scipy.special import ndtri
from scipy.stats import qmc

from congested.errors import InputError
from congested.geometry import FloatArray

# version difference: SciPy renamed the argument in 1.15 and will drop the old name.
_SEED = "rng" if tuple(int(part) for part in scipy_version.split(".")[:2]) >= (1, 15) else "seed"


@dataclass(frozen=True)
class Estimate:
    """A mean of samples.

    Attributes
    ----------
    value
        The mean.
    standard_error
        Its standard error; infinite where one sample cannot show it.
    """

    value: float
    standard_error: float

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the two-sided confidence interval of the expectation (central limit theorem).

        Parameters
        ----------
        confidence
            Probability, between 0 and 1, with which such an interval holds the expectation.
        """
        half = _quantile(0.5 + 0.5 * confidence, confidence) * self.standard_error
        return self.value - half, self.value + half

    def lower(self, confidence: float = 0.95) -> float:
        """Return a number that is below the expectation with the given probability."""
        return self.value - _quantile(confidence, confidence) * self.standard_error


def _quantile(probability: float, confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise InputError(f"found {confidence:g}; allowed: between 0 and 1", key="confidence")
    return float(ndtri(probability))


def estimate_mean(samples: FloatArray) -> Estimate:
    """Return the mean of independent samples (m,), m ≥ 1."""
    number = len(samples)
    error = float(np.std(samples, ddof=1)) / math.sqrt(number) if number > 1 else math.inf
    return Estimate(float(np.mean(samples)), error)


def scrambled_sobol(dimension: int, key: tuple[int, ...]) -> qmc.Sobol:
    """Return a Sobol sequence with the scrambling that belongs to a key."""
    return qmc.Sobol(dimension, scramble=True, **{_SEED: np.random.default_rng(key)})
