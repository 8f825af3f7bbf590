"""Statistics over seeds: interquartile mean, bootstrap intervals, performance profiles.

They are those of Agarwal et al. (2021), https://arxiv.org/abs/2108.13264, computed by the authors'
package `rliable`, an optional requirement. Intervals are the same in every call.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from lightning_rl.errors import ConfigError
from lightning_rl.types import Array

RESAMPLES = 2_000
CONFIDENCE = 0.95
_MISSING = "intervals and performance profiles need a package: pip install 'lightning-rl[results]'"


def check_installed() -> None:
    """Raise unless `rliable` is there; imports nothing, which would take seconds.

    Raises:
        ConfigError: It is not installed.
    """
    if importlib.util.find_spec("rliable") is None:
        raise ConfigError(_MISSING)


def rliable_library() -> ModuleType:
    """Return `rliable.library`.

    Raises:
        ConfigError: It is not installed, or cannot be imported.
    """
    check_installed()
    try:
        from rliable import library
    except Exception as error:  # its own requirements may not fit each other
        raise ConfigError(f"{_MISSING} ({' '.join(str(error).split())})") from error
    return library


def mean(scores: Sequence[float] | Array) -> float:
    """Return the mean."""
    return float(np.mean(np.asarray(scores, dtype=float)))


def interquartile_mean(scores: Sequence[float] | Array) -> float:
    """Return the mean without the lowest and the highest quarter, each rounded down.

    Of five scores it is the mean of the middle three; of three it is the mean.
    """
    return float(interquartile_means(np.asarray(scores, dtype=float).reshape(-1, 1))[0])


def interquartile_means(scores: Array) -> Array:
    """Return the interquartile mean of each column, `(runs, n) -> (n,)`."""
    ordered = np.sort(scores, axis=0)
    cut = len(ordered) // 4
    return np.asarray(ordered[cut : len(ordered) - cut].mean(axis=0))


def interval(
    scores: Sequence[float] | Array,
    statistic: Callable[[Array], float] = interquartile_mean,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic over runs.

    Args:
        scores: One number per run, `(runs,)`, or per run and task, `(runs, tasks)`; runs are
            resampled within each task.
        statistic: From scores to a number.
        resamples: Bootstrap resamples.

    Raises:
        ConfigError: `rliable` is not installed.
    """
    low, high = bands(scores, lambda sample: np.array([statistic(sample)]), resamples)
    return float(low[0]), float(high[0])


def bands(
    scores: Sequence[float] | Array,
    function: Callable[[Array], Array],
    resamples: int = RESAMPLES,
) -> tuple[Array, Array]:
    """Return lower and upper ends of the 95 % intervals of several statistics, each `(n,)`.

    Args:
        scores: `(runs,)`, `(runs, tasks)` or `(runs, tasks, points)`.
        function: From scores of that form, with at least `(runs, tasks)`, to `(n,)` numbers.
        resamples: Bootstrap resamples.

    Raises:
        ConfigError: `rliable` is not installed.
    """
    table = np.asarray(scores, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    return _estimates(table, function, resamples)


def difference_interval(
    first: Sequence[float], second: Sequence[float], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % interval of `IQM(first) - IQM(second)`, two independent sets of runs.

    Raises:
        ConfigError: `rliable` is not installed.
    """
    tables = [np.asarray(scores, dtype=float)[:, None] for scores in (first, second)]
    low, high = _estimates(
        tables,
        lambda a, b: np.array([interquartile_mean(a) - interquartile_mean(b)]),
        resamples,
    )
    return float(low[0]), float(high[0])


def _estimates(
    scores: Array | list[Array], function: Callable[..., Array], resamples: int
) -> tuple[Array, Array]:
    library = rliable_library()
    state = np.random.get_state()
    np.random.seed(0)  # rliable resamples with NumPy's global stream, whatever it is given
    try:
        _, found = library.get_interval_estimates(
            {"scores": scores},
            function,
            reps=resamples,
            confidence_interval_size=CONFIDENCE,
        )
    finally:
        np.random.set_state(state)
    ends: Any = found["scores"]
    return ends[0], ends[1]
