"""What run directories say about themselves, whatever stands in them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.runs.catalog import (
    RunSummary,
    age_s,
    find_run,
    find_runs,
    is_locked,
    remove_run,
    size_bytes,
    summarize,
)
from lightning_rl.runs.directory import RunDirectory

RECORD = {
    "status": "finished",
    "error": None,
    "env_steps": 500,
    "algorithm": "PPO",
    "environment": "CartPole-v1",
    "seed": 3,
    "description": "first",
    "tags": ["a"],
    "created": "2026-01-02T03:04:05.000+00:00",
    "attempts": [{}, {}],
    "budget": {"total_env_steps": 1000, "total_episodes": None},
}
METRICS = {
    "best": {"env_steps": 400, "episode": 9, "eval/mean_reward": 20.5},
    "final": {"eval/mean_reward": 18.0},
    "training": {"mean_reward": 11.0, "episodes_completed": 12, "wall_time_s": 3.5},
}


def make_run(path: Path, **changes: Any) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({**RECORD, **changes}))
    (path / "metrics.json").write_text(json.dumps(METRICS))
    return path


def test_a_run_is_summarized(tmp_path: Path) -> None:
    run = make_run(tmp_path / "e" / "r")
    summary = summarize(run)
    assert summary == RunSummary(
        str(run),
        "finished",
        "PPO",
        "CartPole-v1",
        3,
        500,
        "1,000",
        20.5,
        400,
        18.0,
        11.0,
        12,
        3.5,
        "2026-01-02T03:04:05.000+00:00",
        2,
        None,
        "first",
        ["a"],
    )
    day_after = datetime(2026, 1, 3, 3, 4, 5, tzinfo=timezone.utc)
    assert age_s(summary, day_after) == 86_400.0
    assert age_s(RunSummary("x", "failed", created="yesterday")) == math.inf


def test_a_run_whose_record_is_unreadable_is_as_old_as_its_folder(tmp_path: Path) -> None:
    """Or `runs prune --older_than` would remove a run of today."""
    os.utime(tmp_path, (1_000.0, 1_000.0))
    an_hour_later = datetime.fromtimestamp(4_600.0, timezone.utc)
    assert age_s(RunSummary(str(tmp_path), "unreadable"), an_hour_later) == 3_600.0


def test_runs_are_found_at_any_depth_but_not_inside_runs_or_links(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("a/one", "study/cells/two", "b/three")]
    make_run(tmp_path / "a/one/superseded/1")
    make_run(tmp_path / ".hidden/four")
    make_run(tmp_path / "1/2/3/4/5/6/7/deep")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_runs(tmp_path) == sorted(runs)
    assert find_runs(tmp_path / "a" / "one") == [tmp_path / "a" / "one"]
    with pytest.raises(ConfigError, match="no such folder"):
        find_runs(tmp_path / "none")


def test_a_run_is_found_by_path_by_name_and_not_by_a_doubtful_one(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "a/one"), make_run(tmp_path / "b/two")
    make_run(tmp_path / "c/two")
    for name in (str(one), "a/one", "one"):
        assert find_run(name, tmp_path) == one
    assert find_run("b/two", tmp_path) == two
    with pytest.raises(ConfigError, match=r"'two' is the name of 2 runs: .*b/two, .*c/two"):
        find_run("two", tmp_path)
    with pytest.raises(ConfigError, match=r"no run 'onee' in .*; did you mean 'one'"):
        find_run("onee", tmp_path)
    for name in ("", "..", "/", "x\0y"):
        with pytest.raises(ConfigError, match="no run"):
            find_run(name, tmp_path)


def test_a_record_that_says_running_is_believed_only_with_the_lock(tmp_path: Path) -> None:
    run = make_run(tmp_path / "e/r", status="running")
    assert summarize(run).status == "killed"
    with RunDirectory.claim(run, resume=True):
        assert is_locked(run)
        assert summarize(run).status == "running"
        with pytest.raises(ConfigError, match="is in use by"):
            remove_run(run)
    assert not is_locked(run)
    code = (
        "import sys, time; from lightning_rl.runs.directory import RunDirectory;"
        "d = RunDirectory.claim(sys.argv[1], resume=True); print('held', flush=True);"
        "time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"held\n"
        assert summarize(run).status == "running"
    finally:
        owner.kill()
        owner.communicate()
    assert summarize(run).status == "killed"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"status": "dancing"}',
        '{"status": ["finished"]}',
        '{"status": 7}',
        "\xff",
    ],
)
def test_a_damaged_record_is_one_unreadable_run(content: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "e/r")
    (run / "run.json").write_bytes(content.encode("latin-1"))
    summary = summarize(run)
    assert summary.status == "unreadable"
    assert "run.json" in summary.error
    assert "\n" not in summary.error
    assert find_runs(tmp_path) == [run]


def test_entries_of_the_wrong_kind_are_left_out(tmp_path: Path) -> None:
    wrong = {name: {"x": [1]} for name in RECORD if name != "status"}
    run = make_run(tmp_path / "e/r", **wrong)
    (run / "metrics.json").write_text('{"best": 3, "final": [], "training": {"mean_reward": "x"}}')
    summary = summarize(run)
    assert (summary.status, summary.algorithm, summary.seed) == ("finished", None, None)
    assert (summary.best_reward, summary.training_reward, summary.tags) == (None, None, [])


def test_a_pipe_or_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "e/r")
    (run / "metrics.json").unlink()
    os.mkfifo(run / "metrics.json")
    assert "metrics.json is no plain file" in summarize(run).error
    (run / "metrics.json").unlink()
    monkeypatch.setattr("lightning_rl.runs.catalog.MAX_JSON_BYTES", 10)
    assert "run.json is no plain file" in summarize(run).error


def test_removing_takes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "e/r")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x" * 5_000)
    (run / "link").symlink_to(tmp_path / "precious")
    assert 0 < size_bytes(run) < 50_000
    remove_run(run)
    assert not run.exists()
    assert (tmp_path / "precious" / "file").exists()
    other = make_run(tmp_path / "e/s")
    (tmp_path / "e" / "t").symlink_to(other)
    for path in (tmp_path / "e" / "t", tmp_path / "precious", tmp_path / "none"):
        with pytest.raises(ConfigError, match="no run directory"):
            remove_run(path)
    assert other.exists()
