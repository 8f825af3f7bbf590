"""Choices and values from one row of a table of action values, as functions of Python numbers.

Between two env steps a row is a handful of numbers, which Python has handled before NumPy's first
operation on them is over.
"""

from __future__ import annotations

from collections.abc import Sequence


def epsilon_greedy(values: Sequence[float], epsilon: float, uniform: float) -> int:
    """Return a random action with probability `epsilon`, else one of the best at random.

    One random number decides everything: below `epsilon` its place in `[0, epsilon)` picks the
    action, above it the place in `[epsilon, 1)` picks among equals.

    Args:
        values: The action values, finite.
        epsilon: In [0, 1].
        uniform: Drawn from [0, 1).
    """
    if uniform < epsilon:
        count = len(values)
        return min(int(uniform / epsilon * count), count - 1)  # the quotient can round up to 1
    best = max(values)
    ties = values.count(best)
    if ties == 1:
        return values.index(best)
    place = int((uniform - epsilon) / (1.0 - epsilon) * ties)
    return [action for action, value in enumerate(values) if value == best][min(place, ties - 1)]


def epsilon_greedy_value(values: Sequence[float], epsilon: float) -> float:
    """Return the expected value of an epsilon-greedy action (Sutton and Barto, 2018, eq. 6.9).

    Args:
        values: The action values.
        epsilon: Probability of a random action; 0 gives the greatest value, 1 the mean.
    """
    return (1.0 - epsilon) * max(values) + epsilon * sum(values) / len(values)
