"""What saving costs: only what is new is written, in little memory, and the table says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import saving
from benchmarks.saving import Save

GOOD = Save(added=4_000, seconds=1.2, written_mb=154.0, state_mb=1_203.0, memory_mb=66.0)
ROW_MB = 2 * 4 * saving.NUM_FEATURES / 1e6


@pytest.mark.system
def test_a_checkpoint_costs_what_is_new_in_bytes_and_a_segment_in_memory() -> None:
    """Also when the buffer is full, and when all of it is new."""
    saves = saving.measure(2_000, every=1_000, total=3_000)
    assert [save.added for save in saves] == [1_000] * 3
    weights_mb = saves[0].written_mb - 1_000 * ROW_MB
    assert 0 < weights_mb < 60
    for save in saves:
        assert save.written_mb == pytest.approx(weights_mb + 1_000 * ROW_MB, rel=0.01)
    assert saves[-1].state_mb == pytest.approx(weights_mb + 2_000 * ROW_MB, rel=0.01)
    (at_once, *_) = saving.measure(2_000, every=2_000, total=2_000)
    assert at_once.written_mb == pytest.approx(weights_mb + 2_000 * ROW_MB, rel=0.02)
    # The content was copied twice before it was cut into segments: 1.1.
    assert at_once.memory_mb < 0.9 * at_once.state_mb


@pytest.mark.slow
def test_a_buffer_of_more_than_one_gigabyte(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("<!-- saving: begin --><!-- saving: end -->", encoding="utf-8")
    assert saving.main(["--page", str(page)]) == 0
    assert "| the first, of a full buffer | 36,000 |" in page.read_text(encoding="utf-8")


def test_missed_goals_are_named() -> None:
    slow, large = replace(GOOD, seconds=3.1), replace(GOOD, memory_mb=1_400.0)
    assert saving.missed([GOOD], at_once=slow) == []
    assert saving.missed([slow], at_once=large) == [
        "pause 3.1 s after 4000 transitions",
        "memory 1400 MB for 1203 MB",
    ]


def test_the_table() -> None:
    (_, _, line) = saving.render({"slowest": GOOD}).splitlines()
    assert line == "| slowest | 4,000 | 1.20 s | 2.0% | 154 MB | 1,203 MB | 66 MB | 0.05 |"
