"""Statistics over seeds: mean, interquartile mean, and a bootstrap interval.

The interquartile mean and the percentile bootstrap are those of Agarwal et al. (2021),
https://arxiv.org/abs/2108.13264, for a single task. The authors' package `rliable` 1.2 is not used:
it fails at import beside pandas 3 (through `arch`), and a single task needs no more than this.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95


def mean(scores: list[float]) -> float:
    """Return the mean."""
    return float(np.mean(scores))


def interquartile_mean(scores: list[float]) -> float:
    """Return the mean without the lowest and the highest quarter, each rounded down.

    Of five scores it is the mean of the middle three; of three it is the mean.
    """
    cut = len(scores) // 4
    return float(np.mean(sorted(scores)[cut : len(scores) - cut]))


def interval(scores: list[float], statistic: Callable[[list[float]], float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic; the same in every call.

    Args:
        scores: One number per seed.
        statistic: From scores to a number.
    """
    random = np.random.default_rng(0)
    samples = random.choice(np.asarray(scores, dtype=float), size=(RESAMPLES, len(scores)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile([statistic(list(sample)) for sample in samples], [tail, 100 - tail])
    return float(low), float(high)
