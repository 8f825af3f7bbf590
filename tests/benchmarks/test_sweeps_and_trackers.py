"""What the benchmarks of sweeps and trackers make of their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweeps, trackers
from benchmarks.page import replace_part
from lightning_rl.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"


def trial(score: float | None, env_steps: int = sweeps.BUDGET) -> dict[str, Any]:
    state = "pruned" if score is None else "complete"
    return {"state": state, "score": score, "env_steps": env_steps}


TPE = [trial(200.0), trial(None, 1_024), trial(None, 3_072), trial(90.0)]
RANDOM = [trial(10.0), trial(20.0), trial(40.0), trial(500.0)]


def test_the_figures_of_a_sweep_seed() -> None:
    row = sweeps.summary(7, TPE, RANDOM)
    assert (row["best_tpe"], row["best_random"], row["median_random"]) == (200.0, 500.0, 30.0)
    assert (row["pruned"], row["used_by_pruned"]) == (2, 0.25)
    assert row["used_by_all"] == 0.625
    (line,) = [x for x in sweeps.render([row], 4).splitlines() if x.startswith("| 7 |")]
    assert line == "| 7 | 200.0 | 500.0 | 30.0 | 2 of 4 | 25% | 62% |"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"best_tpe": 30.0}, False),  # no better than the median
        ({"used_by_pruned": 0.61}, False),
        ({"pruned": 0, "used_by_pruned": 0.0}, False),  # nothing was pruned: nothing is shown
    ],
)
def test_what_a_sweep_promises_must_hold_on_every_seed(
    changes: dict[str, float], expected: bool
) -> None:
    good = sweeps.summary(1, TPE, RANDOM)
    assert sweeps.holds([good, {**good, **changes}]) is expected


def test_the_sweeps_are_ones_that_can_be_run(tmp_path: Path) -> None:
    file = sweeps.write_sweep(tmp_path, "tpe", 1, 20, 2)
    assert main(["sweep", "--config", str(file), "--dry-run"]) == 0


def overhead(**changes: float | str) -> dict[str, Any]:
    usual = {"case": "ppo", "plain": 10_000.0, "trackers": 9_700.0, "wall_ratio": 0.97}
    shares = {"cpu_ratio": 0.96, "logging_share": 0.004, "logging_share_hanging": 0.005}
    return {**usual, **shares, **changes}


def test_missed_goals_are_named() -> None:
    assert trackers.missed([overhead()], 30_000.0) == []
    assert trackers.missed([overhead(wall_ratio=0.94)], 30_000.0) == [
        "ppo: throughput 0.94 × without"
    ]
    assert trackers.missed([overhead(logging_share_hanging=0.02)], 10_000.0) == [
        "ppo: logging_share_hanging 2.0%",
        "SQLite: 10,000 rows/s",
    ]


def test_the_table_of_overheads() -> None:
    text = trackers.render([overhead()], 31_000.4, 5, 0.5)
    assert "| ppo | 10,000 | 9,700 | 0.97 | 0.96 | 0.40% | 0.50% |" in text
    assert "31,000 rows/s" in text


@pytest.mark.parametrize(
    ("page", "name"),
    [("sweeps.md", "sweeps"), ("trackers.md", "overhead"), ("results.md", "results")],
)
def test_the_pages_have_their_places(page: str, name: str, tmp_path: Path) -> None:
    copy = tmp_path / page
    copy.write_text((DOCS / page).read_text(encoding="utf-8"), encoding="utf-8")
    replace_part(copy, name, "first")
    replace_part(copy, name, "second")
    text = copy.read_text(encoding="utf-8")
    assert f"<!-- {name}: begin -->\n\nsecond\n\n<!-- {name}: end -->" in text
    assert "first\n\n<!--" not in text


def test_a_page_without_the_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(ValueError, match="expected the markers"):
        replace_part(tmp_path / "a.md", "sweeps", "table")
