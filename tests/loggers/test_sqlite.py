"""`SQLiteLogger`: what it writes and when, its resume, locked and full disks."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_rl.loggers import SQLiteLogger, query_metrics
from lightning_rl.loggers import sqlite as module
from lightning_rl.loggers.database import MetricsDatabase, open_read_only
from lightning_rl.types import Episode

COLUMNS = "event, env_steps, episode, agent_id, metric_name, value, source"


def content(path):
    """All that a stopped and an unstopped run have in common."""
    with open_read_only(path) as connection:
        return list(
            connection.execute(f"SELECT {COLUMNS} FROM metrics ORDER BY event, metric_name")
        )


def log_events(logger, start, stop):
    for number in range(start, stop):
        components = {"speed": number / 7} if number % 2 else {}
        logger.log_episode(
            Episode(number, 0, 9, number * 1.5, 20, True, False, number * 20, components)
        )
        if number % 3 == 2:
            logger.log_metrics({"episode": number, "train/loss": 1 / number}, step=number * 20)


def test_what_is_written(tmp_path):
    with SQLiteLogger(tmp_path / "m.db") as logger:
        logger.log_episode(Episode(0, 3, 9, 2.5, 20, True, False, 160, {"speed": 0.5}))
        row = {"episode": 1, "train/loss": torch.tensor(0.25), "eval/mean_reward": np.float32(0.5)}
        logger.log_metrics(row, step=200_000_001)
    assert content(tmp_path / "m.db") == [
        (1, 160, 0, "agent_0", "episode/length", 20.0, "episode"),
        (1, 160, 0, "agent_0", "episode/reward", 2.5, "episode"),
        (1, 160, 0, "agent_0", "reward/speed", 0.5, "episode"),
        (2, 200_000_001, 1, "agent_0", "eval/mean_reward", 0.5, "log"),
        (2, 200_000_001, 1, "agent_0", "train/loss", 0.25, "log"),
    ]
    (read, *_) = query_metrics(tmp_path / "m.db")
    assert abs(read["wall_time"] - time.time()) < 60
    assert read["attempt"] == 1


def test_rows_appear_without_being_asked_for(tmp_path):
    logger = SQLiteLogger(tmp_path / "m.db")
    logger.log_metrics({"a": 1.0, "episode": 0}, step=1)
    deadline = time.monotonic() + 20
    while not (tmp_path / "m.db").exists() or not query_metrics(tmp_path / "m.db"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    logger.finalize("success")


def test_own_query_sees_everything_logged(tmp_path):
    logger = SQLiteLogger(tmp_path / "m.db")
    for number in range(5):
        log_events(logger, number, number + 1)
        assert len(logger.query_metrics(metric_name="episode/reward")) == number + 1
    logger.log_metrics({"b": math.nan}, step=None)
    (row,) = logger.query_metrics(metric_name="b")
    assert math.isnan(row["value"])
    assert (row["env_steps"], row["episode"]) == (None, None)
    logger.finalize("success")


@pytest.mark.parametrize("saved_at", [0, 1, 4, 9])
@pytest.mark.parametrize("killed_after", [0, 1, 6])
def test_resumed_table_equals_the_unstopped_one(tmp_path, saved_at, killed_after):
    whole = SQLiteLogger(tmp_path / "whole.db")
    log_events(whole, 0, 12)
    whole.finalize("success")
    first = SQLiteLogger(tmp_path / "run.db")
    log_events(first, 0, saved_at)
    state = first.state_dict()
    log_events(first, saved_at, saved_at + killed_after)
    first.flush()  # and never finalized: killed
    second = SQLiteLogger(tmp_path / "run.db")
    second.load_state_dict(state)
    assert second.state_dict() == state
    log_events(second, saved_at, 12)
    assert second.state_dict() == whole.state_dict()
    assert second.flush()
    assert content(second.path) == content(whole.path)
    second.finalize("success")
    first.finalize("success")


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_committed_event_survives_any_kill(tmp_path, kills):
    """Children that report what is committed are killed at random times after the first commit."""
    draws = random.Random(0)
    path = tmp_path / "m.db"
    for _ in range(kills):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # the parent's process must not go on in here, whatever happens
            try:
                _log_and_report(path, write)
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb", buffering=0) as reports:
            assert reports.read(1) == b"."
            time.sleep(draws.uniform(0.0, 0.05))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = 1 + reports.read().count(b".")
        with open_read_only(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (events,) = connection.execute("SELECT count(DISTINCT event) FROM metrics").fetchone()
        assert events >= acknowledged


def _log_and_report(path: Path, write: int) -> None:
    logger = SQLiteLogger(path)
    for number in range(100_000):
        logger.log_metrics({"a": number, "b": 1.0}, step=number)
        if logger.flush():
            os.write(write, b".")


def test_missing_file_at_resume_is_said_and_begun(tmp_path, caplog):
    logger = SQLiteLogger(tmp_path / "m.db")
    logger.load_state_dict({"events": 3})
    assert "holds 0 of the 3 events" in caplog.text
    log_events(logger, 0, 1)
    assert [row[0] for row in content_after(logger)] == [4, 4]
    assert logger.state_dict() == {"events": 4}
    logger.finalize("success")


def content_after(logger):
    assert logger.flush()
    return content(logger.path)


def test_file_of_another_run_is_kept_apart(tmp_path):
    with SQLiteLogger(tmp_path / "m.db") as other:
        other.log_metrics({"a": 1}, step=1)
    with SQLiteLogger(tmp_path / "m.db") as logger:
        logger.log_metrics({"b": 2}, step=1)
    assert [row[4] for row in content(tmp_path / "superseded-m.db")] == ["a"]
    assert [row[4] for row in content(tmp_path / "m.db")] == ["b"]


@pytest.mark.parametrize("damage", ["foreign", "garbage"])
def test_what_is_no_metrics_database_is_kept_apart(tmp_path, damage, caplog):
    path = tmp_path / "m.db"
    if damage == "garbage":
        path.write_bytes(b"SQLite format 4" + bytes(range(256)) * 20)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (a)")
        connection.close()
    logger = SQLiteLogger(path)
    logger.load_state_dict({"events": 2})
    logger.log_metrics({"b": 2}, step=1)
    assert [row[4] for row in content_after(logger)] == ["b"]
    assert (tmp_path / "damaged-m.db").exists()
    assert "Training goes on" in caplog.text
    logger.finalize("success")


def test_logging_goes_on_after_finalize(tmp_path):
    logger = SQLiteLogger(tmp_path / "m.db")
    log_events(logger, 0, 2)
    logger.finalize("success")
    log_events(logger, 2, 4)
    logger.finalize("success")
    with SQLiteLogger(tmp_path / "whole.db") as whole:
        log_events(whole, 0, 4)
    assert content(logger.path) == content(whole.path)
    with open_read_only(logger.path) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (1,)


def fail(error):
    def insert(*_):
        raise error

    return insert


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), sqlite3.OperationalError("disk is full")]
)
def test_full_disk_loses_nothing_and_is_said_once(tmp_path, monkeypatch, caplog, error):
    logger = SQLiteLogger(tmp_path / "m.db")
    log_events(logger, 0, 3)
    logger.flush()
    with monkeypatch.context() as patch:
        patch.setattr(MetricsDatabase, "insert", fail(error))
        for number in range(3, 8):
            log_events(logger, number, number + 1)
            assert not logger.flush()
    assert caplog.text.count("Training goes on") == 1
    log_events(logger, 8, 12)
    logger.finalize("success")
    with SQLiteLogger(tmp_path / "whole.db") as whole:
        log_events(whole, 0, 12)
    assert content(logger.path) == content(whole.path)


def test_waiting_rows_are_bounded_while_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 10)
    monkeypatch.setattr(module, "WRITE_AT_ROWS", 2)
    logger = SQLiteLogger(tmp_path / "m.db")
    with monkeypatch.context() as patch:
        patch.setattr(MetricsDatabase, "insert", fail(OSError(28, "full")))
        logger.log_metrics({"a": 0}, step=0)
        logger.flush()
        for step in range(1, 100):
            logger.log_metrics({"a": step}, step=step)
    logger.finalize("success")
    assert [row[5] for row in content(logger.path)] == [float(step) for step in range(90, 100)]
    assert logger.state_dict() == {"events": 100}
    logger.finalize("success")


def test_more_rows_than_fit_wait_for_a_writer_that_works(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 10)
    monkeypatch.setattr(module, "WRITE_AT_ROWS", 2)
    with SQLiteLogger(tmp_path / "m.db") as logger:
        for step in range(500):
            logger.log_metrics({"a": step}, step=step)
    assert len(content(logger.path)) == 500


def test_another_programs_lock_does_not_hold_up_training(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_rl.loggers.database.BUSY_TIMEOUT_S", 0.1)
    logger = SQLiteLogger(tmp_path / "m.db")
    log_events(logger, 0, 2)
    logger.flush()
    other = sqlite3.connect(logger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.perf_counter()
    log_events(logger, 2, 1000)
    assert time.perf_counter() - started < 2.0
    other.execute("ROLLBACK")
    other.close()
    assert len(logger.query_metrics(metric_name="episode/reward")) == 1000
    logger.finalize("success")


def test_twenty_thousand_rows_a_second(tmp_path):
    episodes, started = 25_000, time.perf_counter()
    with SQLiteLogger(tmp_path / "m.db") as logger:
        for index in range(episodes):
            logger.log_episode(Episode(index, 0, 0, 1.0, 20, True, False, index * 20))
    rate = 2 * episodes / (time.perf_counter() - started)
    assert rate >= 20_000


def test_no_thread_is_left(tmp_path):
    before = threading.active_count()
    with SQLiteLogger(tmp_path / "m.db") as logger:
        logger.log_metrics({"a": 1}, step=1)
    assert threading.active_count() == before


def test_place_in_a_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = SQLiteLogger()
    assert logger.path == Path("metrics.db")
    for name in ("one", "two"):
        logger.place_in(tmp_path / name)
        logger.log_metrics({name: 1}, step=1)
    logger.finalize("success")
    assert [content(tmp_path / n / "metrics.db")[0][4] for n in ("one", "two")] == ["one", "two"]
    given = SQLiteLogger(tmp_path / "given.db")
    given.place_in(tmp_path / "one")
    assert given.path == tmp_path / "given.db"


def test_lightning_finds_the_folder(tmp_path):
    logger = SQLiteLogger(tmp_path / "m.db")
    assert (logger.save_dir, logger.name, logger.version) == (str(tmp_path), "", "")
    logger.log_hyperparams({"a": 1})
    logger.save()
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sixteen_readers_and_an_open_transaction(tmp_path):
    """Training is never told that the database is locked, and the WAL stays small."""
    logger = SQLiteLogger(tmp_path / "m.db")
    log_events(logger, 0, 100)
    logger.flush()
    ended = threading.Event()

    def read():
        while not ended.is_set():
            query_metrics(logger.path, metric_name="episode/reward")
            time.sleep(0.02)

    readers = [threading.Thread(target=read) for _ in range(16)]
    for reader in readers:
        reader.start()
    times = []
    with open_read_only(logger.path) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT count(*) FROM metrics").fetchone()
        deadline, number = time.monotonic() + 60, 100
        while time.monotonic() < deadline:
            started = time.perf_counter()
            log_events(logger, number, number + 1)
            times.append(time.perf_counter() - started)
            number += 1
            time.sleep(0.001)
    ended.set()
    for reader in readers:
        reader.join()
    assert not logger._failing
    assert (tmp_path / "m.db-wal").stat().st_size <= 64e6
    assert np.percentile(times, 99) <= 0.01
    assert len(logger.query_metrics(metric_name="episode/reward")) == number
    logger.finalize("success")
