"""The file `metrics.db`: its schema, its one writer, and reading it while a run goes on.

When rows are written, and what a logger makes of a full disk, stands in `sqlite.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from lightning_rl.storage.kill_points import kill_point

Row: TypeAlias = tuple[int, int | None, int | None, str, str, float, float, str]
"""event, env_steps, episode, agent_id, metric_name, value, wall_time, source."""

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another program that holds the file locked."""
FORMAT = 1
_SUFFIXES = ("", "-wal", "-shm")
_SCHEMA = (
    # Clustered by tag: a curve is one range of the file, and the key says that rows are unique.
    """CREATE TABLE IF NOT EXISTS metrics (
        event INTEGER NOT NULL,      -- number of the logged row or finished episode, from 1
        env_steps INTEGER,
        episode INTEGER,             -- index of the episode; of a logged row: episodes finished
        agent_id TEXT NOT NULL,
        metric_name TEXT NOT NULL,
        value REAL,                  -- NULL where the value is not a number
        wall_time REAL NOT NULL,     -- seconds since 1970
        attempt INTEGER NOT NULL,    -- which start or resume of the run wrote it, from 1
        source TEXT NOT NULL,        -- 'log' for a logged row, 'episode' for one episode
        PRIMARY KEY (metric_name, agent_id, event)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS attempts (
        attempt INTEGER PRIMARY KEY,
        started REAL NOT NULL,       -- seconds since 1970
        kept_events INTEGER NOT NULL -- events that this attempt found and went on from
    )""",
    f"PRAGMA user_version = {FORMAT}",
)
_PARAMETERS = 8
# Rows of one statement. SQLite lets go of Python's lock once for each statement, so that one row
# at a time would wait for the training thread at every row.
_CHUNKS = (500, 50, 5, 1)
_FIRST_TAG = "SELECT metric_name, agent_id FROM metrics ORDER BY metric_name, agent_id LIMIT 1"
_NEXT_TAG = (
    "SELECT metric_name, agent_id FROM metrics WHERE (metric_name, agent_id) > (?, ?) "
    "ORDER BY metric_name, agent_id LIMIT 1"
)
_COLUMNS = "env_steps, episode, agent_id, metric_name, value, wall_time, attempt, source"


class MetricsDatabase:
    """The writer's connection to a metrics file, kept in WAL mode so that nobody waits for readers.

    Rows of one `insert` are committed together. A commit survives a kill of the process; after a
    power cut the last ones may be missing, the file is whole in any case.

    Args:
        path: The file.
        kept_events: Events of an existing file to go on from; later ones are removed.
        attempt: Number of this start or resume, if it has one already; default the next one.

    Attributes:
        attempt: Number of this start or resume.
        found_events: Number of the last event that was in the file, at most `kept_events`.

    Raises:
        sqlite3.Error: The file cannot be opened, or is none of ours.
    """

    def __init__(self, path: Path, kept_events: int, attempt: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA journal_size_limit = 16777216")
            self.found_events, self.attempt = self._begin(kept_events, attempt)
        except BaseException:
            self._connection.close()
            raise

    def insert(self, rows: Sequence[Row]) -> None:
        """Append rows in one transaction."""
        with self._transaction():
            start = 0
            for size in _CHUNKS:
                statement = self._insert_statement(size)
                while len(rows) - start >= size:
                    chunk = rows[start : start + size]
                    self._connection.execute(statement, list(chain.from_iterable(chunk)))
                    start += size
            kill_point("sqlite:before_commit")
        kill_point("sqlite:after_commit")

    def close(self) -> None:
        """Close the file; the last one to do so folds the WAL file into it."""
        self._connection.close()

    def _insert_statement(self, rows: int) -> str:
        marks = ", ".join("?" * (_PARAMETERS - 1)) + f", {self.attempt}, ?"
        # A repeated key would be an error of ours; the newer value is the better answer to it.
        values = ", ".join([f"({marks})"] * rows)
        return (
            "INSERT OR REPLACE INTO metrics (event, env_steps, episode, agent_id, metric_name, "
            f"value, wall_time, attempt, source) VALUES {values}"
        )

    def _begin(self, kept_events: int, attempt: int | None) -> tuple[int, int]:
        """Rewind to the kept events and note a new attempt, in one transaction."""
        (form,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and form != FORMAT:
            raise sqlite3.DatabaseError(f"its format is {form}, expected {FORMAT}")
        with self._transaction():
            for statement in _SCHEMA:
                self._connection.execute(statement)
            last = self._rewind(kept_events)
            kill_point("sqlite:mid_rewind")
            cursor = self._connection.execute(
                "INSERT OR IGNORE INTO attempts VALUES (?, ?, ?)", (attempt, time.time(), last)
            )
            return last, int(attempt or cursor.lastrowid or 1)

    def _rewind(self, kept_events: int) -> int:
        """Remove later events; return the last one that is left."""
        last = 0
        for tag in list(_tags(self._connection)):
            where = "FROM metrics WHERE metric_name = ? AND agent_id = ?"
            self._connection.execute(f"DELETE {where} AND event > ?", (*tag, kept_events))
            (newest,) = self._connection.execute(f"SELECT max(event) {where}", tag).fetchone()
            last = max(last, newest or 0)
        return last

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite ends it by itself on a full disk
                self._connection.execute("ROLLBACK")
            raise


def move_aside(path: Path, prefix: str) -> None:
    """Rename a database file with what belongs to it, so that a new one can take its place."""
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            target = path.with_name(f"{prefix}-{path.name}{suffix}")
            os.replace(path.with_name(path.name + suffix), target)


def query_metrics(
    path: str | Path,
    agent_id: str | None = None,
    metric_name: str | None = None,
    min_episode: int | None = None,
    max_episode: int | None = None,
    source: str | None = None,
) -> list[dict[str, Any]]:
    """Read metrics of a run, which may be going on: reading never makes it wait.

    Args:
        path: The `metrics.db`.
        agent_id: Only of this agent; single-agent runs have `agent_0`.
        metric_name: Only of this tag.
        min_episode: Only from this episode on.
        max_episode: Only up to this episode, itself included.
        source: `log` for logged rows only, `episode` for single episodes only.

    Returns:
        One dictionary per value with `env_steps`, `episode`, `agent_id`, `metric_name`, `value`,
        `wall_time` (seconds since 1970), `attempt` and `source`, in the order of logging.

    Raises:
        FileNotFoundError: If there is no such file.
        sqlite3.Error: If it is no metrics database.
    """
    conditions = {
        "metric_name = ?": metric_name,
        "agent_id = ?": agent_id,
        "episode >= ?": min_episode,
        "episode <= ?": max_episode,
        "source = ?": source,
    }
    used = {text: value for text, value in conditions.items() if value is not None}
    where = f"WHERE {' AND '.join(used)} " if used else ""
    with open_read_only(path) as connection:
        if _is_empty(connection):
            return []
        cursor = connection.execute(
            f"SELECT {_COLUMNS} FROM metrics {where}ORDER BY event, metric_name, agent_id",
            tuple(used.values()),
        )
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    for row in rows:
        if row["value"] is None:
            row["value"] = math.nan
    return rows


def metric_names(path: str | Path) -> list[tuple[str, str]]:
    """Return the (metric name, agent id) pairs of a metrics file, sorted.

    Takes as long as there are pairs, not as there are rows.

    Raises:
        FileNotFoundError: If there is no such file.
        sqlite3.Error: If it is no metrics database.
    """
    with open_read_only(path) as connection:
        return [] if _is_empty(connection) else list(_tags(connection))


@contextlib.contextmanager
def open_read_only(path: str | Path) -> Iterator[sqlite3.Connection]:
    """Open a metrics file for reading only, also one in a folder that nobody may write to.

    Raises:
        FileNotFoundError: If there is no such file.
        sqlite3.Error: If it cannot be read.
    """
    path = Path(path)
    path.stat()
    address = path.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        connection.close()
        # WAL mode wants to make its index beside the file. Without a WAL nothing is going on.
        wal = path.with_name(path.name + "-wal")
        if not isinstance(error, sqlite3.OperationalError) or wal.exists():
            raise
        connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True)
    with contextlib.closing(connection):
        yield connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Return whether the file exists and its first transaction is not yet committed."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables == 0)


def _tags(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Yield the (metric name, agent id) pairs by jumping from one to the next in the key."""
    tag = connection.execute(_FIRST_TAG).fetchone()
    while tag is not None:
        yield tag
        tag = connection.execute(_NEXT_TAG, tag).fetchone()
