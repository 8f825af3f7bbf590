"""Statistics over seeds against numbers worked out by hand and against rliable's own."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.statistics import (
    bands,
    check_installed,
    difference_interval,
    interquartile_mean,
    interquartile_means,
    interval,
    mean,
    rliable_library,
)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([20.0, 1.0, 4.0, 8.0, 3.0], 5.0),
        ([1.0, 2.0, 6.0], 3.0),
        ([7.0], 7.0),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0], 3.5),
    ],
)
def test_interquartile_mean(scores: list[float], expected: float) -> None:
    assert interquartile_mean(scores) == expected


def test_interquartile_means_are_rliables() -> None:
    from rliable import metrics

    draws = np.random.default_rng(5)
    for runs in range(1, 12):
        table = draws.normal(size=(runs, 3))
        columns = [metrics.aggregate_iqm(table[:, [column]]) for column in range(3)]
        assert interquartile_means(table) == pytest.approx(columns)
        assert interquartile_mean(table) == pytest.approx(metrics.aggregate_iqm(table))


def test_interval_of_equal_scores_has_no_width() -> None:
    assert interval([500.0] * 5) == (500.0, 500.0)


def test_interval_of_two_seeds_reaches_from_one_to_the_other() -> None:
    # A quarter of all resamples is (0, 0) and a quarter (1, 1): both tails are hit.
    assert interval([0.0, 1.0], mean) == (0.0, 1.0)


def test_interval_is_the_same_in_every_call_and_near_the_normal_one() -> None:
    scores = [float(number) for number in range(100)]
    low, high = interval(scores, mean)
    assert (low, high) == interval(scores, mean)
    # Deviation 28.87 of 100 numbers: 49.5 -+ 1.96 * 2.887.
    assert low == pytest.approx(43.84, abs=0.5)
    assert high == pytest.approx(55.16, abs=0.5)


def test_the_callers_random_stream_stays_where_it_is() -> None:
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    interval([1.0, 2.0, 3.0])
    assert np.random.rand() == expected


def test_runs_are_resampled_within_each_task() -> None:
    # Two tasks of equal runs: resampling within a task changes nothing.
    table = np.array([[0.0, 10.0], [0.0, 10.0], [0.0, 10.0]])
    assert interval(table, mean) == (5.0, 5.0)


def test_bands_have_one_interval_per_point() -> None:
    curves = np.array([[0.0, 5.0, 7.0], [1.0, 5.0, 9.0]])[:, None, :]
    low, high = bands(curves, lambda sample: sample[:, 0].mean(axis=0), 500)
    assert low.tolist() == [0.0, 5.0, 7.0]
    assert high.tolist() == [1.0, 5.0, 9.0]


def test_difference_of_independent_runs() -> None:
    assert difference_interval([3.0] * 4, [1.0] * 6) == (2.0, 2.0)
    low, high = difference_interval([0.0, 1.0], [0.0, 1.0])
    assert (low, high) == (-1.0, 1.0)
    low, high = difference_interval([5.0, 6.0, 7.0], [1.0, 2.0, 3.0])
    assert 1.0 <= low < 4.0 < high <= 6.0


def test_without_rliable_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rliable" else find(name)
    )
    for function in (check_installed, rliable_library, lambda: interval([1.0, 2.0])):
        with pytest.raises(ConfigError, match=r"pip install 'lightning-rl\[results\]'") as caught:
            function()
        assert len(str(caught.value).splitlines()) == 1


def test_an_rliable_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rliable.library", None)
    monkeypatch.delattr("rliable.library", raising=False)
    with pytest.raises(ConfigError, match=r"lightning-rl\[results\].*rliable"):
        rliable_library()
