"""The schema of `metrics.db`, its rewinding, and reading it."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_rl.loggers.database import (
    MetricsDatabase,
    metric_names,
    move_aside,
    open_read_only,
    query_metrics,
)


def row(event, tag="episode/reward", value=1.0, agent_id="agent_0", episode=None, source="episode"):
    episode = event if episode is None else episode
    return (event, event * 10, episode, agent_id, tag, value, 1.5e9, source)


def all_rows(path):
    with open_read_only(path) as connection:
        return list(connection.execute("SELECT * FROM metrics ORDER BY event, metric_name"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.db"


def test_table_is_open_to_plain_sql(path):
    database = MetricsDatabase(path, 0)
    database.insert([row(1, value=2.5), row(1, "episode/length", 20.0), row(2, value=-1.0)])
    database.close()
    script = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT env_steps, "
        "episode, agent_id, metric_name, value FROM metrics ORDER BY event, value').fetchall())"
    )
    command = [sys.executable, "-c", script, str(path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == (
        "[(10, 1, 'agent_0', 'episode/reward', 2.5), (10, 1, 'agent_0', 'episode/length', 20.0), "
        "(20, 2, 'agent_0', 'episode/reward', -1.0)]\n"
    )
    assert not path.with_name("metrics.db-wal").exists()  # one file when nobody uses it


@pytest.mark.parametrize("count", [1, 4, 5, 49, 50, 499, 500, 501, 1234])
def test_every_row_of_a_batch_arrives(path, count):
    rows = [row(event, value=event / 3) for event in range(1, count + 1)]
    database = MetricsDatabase(path, 0)
    database.insert(rows)
    database.close()
    assert [(r[0], r[5]) for r in all_rows(path)] == [(r[0], r[5]) for r in rows]


def test_queries_by_agent_tag_and_episode(path):
    database = MetricsDatabase(path, 0)
    database.insert([row(e, agent_id=f"agent_{e % 2}", episode=e) for e in range(1, 9)])
    database.insert([row(9, "train/loss", math.nan, source="log"), row(9, "eval/x", math.inf)])
    database.close()

    def episodes(**conditions):
        return [r["episode"] for r in query_metrics(path, **conditions)]

    assert episodes(agent_id="agent_1", metric_name="episode/reward") == [1, 3, 5, 7]
    assert episodes(min_episode=7) == [7, 8, 9, 9]
    assert episodes(metric_name="episode/reward", min_episode=3, max_episode=5) == [3, 4, 5]
    assert episodes(max_episode=0) == []
    (loss,) = query_metrics(path, source="log")
    assert math.isnan(loss.pop("value"))
    assert loss == {
        "env_steps": 90,
        "episode": 9,
        "agent_id": "agent_0",
        "metric_name": "train/loss",
        "wall_time": 1.5e9,
        "attempt": 1,
        "source": "log",
    }
    assert query_metrics(path, metric_name="eval/x")[0]["value"] == math.inf
    names = [("episode/reward", "agent_0"), ("episode/reward", "agent_1")]
    assert metric_names(path) == [*names, ("eval/x", "agent_0"), ("train/loss", "agent_0")]


def test_rewinding_removes_later_events_of_every_tag(path):
    database = MetricsDatabase(path, 0)
    rows = [row(e, tag) for e in range(1, 8) for tag in ("a", "b", "c")]
    database.insert([r for r in rows if (r[0] + ord(r[4])) % 3])
    before = [r for r in all_rows(path) if r[0] <= 4]
    database.close()
    database = MetricsDatabase(path, 4)
    assert (database.found_events, database.attempt) == (4, 2)
    assert all_rows(path) == before
    database.insert([row(5)])
    database.close()
    with open_read_only(path) as connection:
        assert list(connection.execute("SELECT attempt, kept_events FROM attempts")) == [
            (1, 0),
            (2, 4),
        ]
        assert list(connection.execute("SELECT attempt FROM metrics WHERE event = 5")) == [(2,)]


def test_failed_insert_leaves_nothing_behind(path):
    database = MetricsDatabase(path, 0)
    with pytest.raises(sqlite3.IntegrityError):
        database.insert([row(1), (2, 0, 0, None, "tag", 0.0, 0.0, "log")])
    database.insert([row(3)])
    database.close()
    assert [r[0] for r in all_rows(path)] == [3]


def test_readers_and_an_open_read_transaction_hold_up_nobody(path):
    database = MetricsDatabase(path, 0)
    database.insert([row(1)])
    with open_read_only(path) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM metrics").fetchone() == (1,)
        slowest = 0.0
        for event in range(2, 200):
            started = time.perf_counter()
            database.insert([row(event)])
            slowest = max(slowest, time.perf_counter() - started)
        assert reader.execute("SELECT count(*) FROM metrics").fetchone() == (1,)
    assert slowest < 1.0  # the time-out that a lock would have cost is 5 s
    database.close()


def test_file_before_its_first_commit_is_empty(path):
    path.touch()
    assert query_metrics(path) == metric_names(path) == []


def test_reader_writes_nothing(path):
    MetricsDatabase(path, 0).close()
    with open_read_only(path) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("DELETE FROM metrics")
    with pytest.raises(FileNotFoundError):
        query_metrics(path.with_name("none.db"))
    assert not path.with_name("none.db").exists()


def test_file_in_a_folder_that_nobody_may_write_to(path):
    """WAL mode wants to make a file beside the database."""
    database = MetricsDatabase(path, 0)
    database.insert([row(1)])
    database.close()

    class Refusing(sqlite3.Connection):
        def execute(self, *arguments):
            raise sqlite3.OperationalError("unable to open database file")

    real = sqlite3.connect

    def connect(address, **options):
        factory = sqlite3.Connection if "immutable" in address else Refusing
        return real(address, factory=factory, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        assert len(query_metrics(path)) == 1


def test_foreign_database_is_refused_and_not_touched(path):
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE metrics (a)")
    foreign.close()
    with pytest.raises(sqlite3.DatabaseError, match="its format is 0, expected 1"):
        MetricsDatabase(path, 0)
    with sqlite3.connect(path) as foreign:
        assert list(foreign.execute("SELECT name FROM sqlite_master")) == [("metrics",)]
    foreign.close()


def test_a_file_is_moved_with_what_belongs_to_it(tmp_path: Path):
    for suffix in ("", "-wal"):
        (tmp_path / f"metrics.db{suffix}").write_text(suffix)
    move_aside(tmp_path / "metrics.db", "superseded")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "superseded-metrics.db",
        "superseded-metrics.db-wal",
    ]


@pytest.mark.slow
def test_a_million_rows(path):
    """A curve within 100 ms, opening after a kill within a second."""
    database = MetricsDatabase(path, 0)
    for start in range(1, 50_001, 1000):
        database.insert([row(e, f"tag/{t}") for e in range(start, start + 1000) for t in range(20)])
    started = time.perf_counter()
    assert len(query_metrics(path, metric_name="tag/7", min_episode=40_001)) == 10_000
    assert time.perf_counter() - started < 0.1
    database._connection.interrupt()
    started = time.perf_counter()
    again = MetricsDatabase(path, 49_999)
    assert time.perf_counter() - started < 1.0
    assert again.found_events == 49_999
    again.close()
