"""What a solution says of a critic while it is trained: certified suboptimality."""

from __future__ import annotations

from congested.critics.evaluate import evaluate
from congested.critics.network import Network
from congested.critics.reference import Reference
from congested.critics.relative import relative_suboptimality
from congested.critics.training_history import Certified, Certifier
from congested.errors import InputError


def certifier(reference: Reference) -> Certifier:
    """Return what holds the critics of a training against a solution (collective, as it is).

    The suboptimality is relative to the cost, its interval true for any cost between the bounds
    (`relative_suboptimality`).

    Parameters
    ----------
    reference
        The solution. Its λ and the data of its cells define the dual value.

    Raises
    ------
    InputError
        If the lower bound is not positive.
    """
    lower, upper = reference.bounds.lower, reference.bounds.upper
    if not lower > 0.0:
        found = f"found a solution with the lower bound {lower:.3g}"
        raise InputError(f"{found}; allowed: one > 0", key="against")

    def certify(network: Network) -> Certified:
        evaluation = evaluate(reference, network, sign=1)
        relative = relative_suboptimality(evaluation.suboptimality, lower, upper)
        return Certified(evaluation.dual_value, *relative)

    return certify
