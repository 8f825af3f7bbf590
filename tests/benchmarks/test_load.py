"""What counts as a quiet machine."""

from __future__ import annotations

import pytest

from benchmarks.speed.load import Elsewhere, calibrate, noise, parse_busy

QUIET = {"core_share": 0.99, "elsewhere": 0.02, "calibration_ms": 10.0}


def test_busy_time_leaves_idle_and_iowait_out() -> None:
    text = "cpu  3 3 3 3 3 3 3 3\ncpu0 10 20 30 400 5 6 7 8 9 9\ncpu1 1 0 0 9 0 0 0 0\nintr 5\n"
    assert parse_busy(text) == {0: (81, 486), 1: (1, 10)}


def test_the_share_elsewhere_is_a_share() -> None:
    assert 0.0 <= Elsewhere(core=0).share() <= 1.0


def test_a_fixed_piece_of_work_takes_some_time() -> None:
    assert 0.1 < calibrate(repeats=2) < 10_000


def test_a_quiet_run_has_no_noise() -> None:
    assert noise(QUIET, usual_calibration_ms=9.5) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"core_share": 0.5}, "had its core 50% of the time"),
        ({"elsewhere": 0.9}, "other cores 90% busy"),
        ({"calibration_ms": 20.0}, "core 2.00 times slower than usual"),
    ],
)
def test_each_disturbance_is_named(change: dict[str, float], words: str) -> None:
    assert noise({**QUIET, **change}, usual_calibration_ms=10.0) == [words]
