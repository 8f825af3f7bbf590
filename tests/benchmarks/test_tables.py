"""What a table costs beside its environment: what is timed, and how the page says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.tables import Costs, Stopwatch

GOOD = Costs(bare=8.0, learning={1: 16.0, 8: 10.0})


@pytest.mark.system
def test_every_environment_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text("<!-- tables: begin --><!-- tables: end -->", encoding="utf-8")
    monkeypatch.setattr(tables, "GOALS", dict.fromkeys(tables.GOALS, 1_000.0))
    words = ["--page", str(page), "--env-steps", "5000", "--repeats", "1"]
    assert tables.main(words) == 1  # nothing learns a thousand times as fast as it acts
    for env_id in tables.GOALS:
        assert f"| {env_id} | " in page.read_text(encoding="utf-8")


def test_the_first_units_are_not_timed() -> None:
    watch = Stopwatch()
    watch.marks = [(100, 5.0), (200, 5.5), (300, 6.0), (400, 6.001), (500, 6.004)]
    assert watch.us_per_step() == pytest.approx(20.0)


def test_missed_goals_are_named() -> None:
    slow = Costs(bare=8.0, learning={1: 16.1, 8: 20.0})
    assert tables.missed({"Taxi-v4": GOOD, "Blackjack-v1": slow}) == []
    assert tables.missed({"FrozenLake-v1": slow}) == [
        "FrozenLake-v1: 0.50 times the bare rate in 1 environments",
        "FrozenLake-v1: 0.40 times the bare rate in 8 environments",
    ]


def test_the_table() -> None:
    (_, _, line) = tables.render({"Taxi-v4": GOOD}).splitlines()
    assert line == "| Taxi-v4 | 8.0 µs | 16.0 µs (0.50 ×) | 10.0 µs (0.80 ×) |"
