"""The logger behind `metrics.db`: every logged value and every episode, open to plain SQL."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_rl.loggers.axis import env_steps_of
from lightning_rl.loggers.database import (
    BUSY_TIMEOUT_S,
    MetricsDatabase,
    Row,
    move_aside,
    query_metrics,
)
from lightning_rl.loggers.local import LocalLogger
from lightning_rl.types import Episode

DEFAULT_NAME = "metrics.db"
SINGLE_AGENT = "agent_0"
WRITE_EVERY_S = 0.5
"""Longest time that a row waits before it is committed, when nothing is wrong."""
WRITE_AT_ROWS = 5_000
MAX_WAITING_ROWS = 100_000
"""Rows kept in memory while they cannot be written, about 25 MB."""


class SQLiteLogger(LocalLogger):
    """Write every logged value and every finished training episode to a SQLite database.

    One row of table `metrics` holds one value: `env_steps`, `episode`, `agent_id`, `metric_name`,
    `value`, `wall_time`, `attempt` and `source`. An episode gives `episode/reward`,
    `episode/length` and `reward/<component>` with its run-wide index (`source` is `episode`); a
    logged row gives each of its tags (`source` is `log`). NaN is stored as NULL.

    The training thread only appends to a list: a thread of its own commits at least twice a second,
    so neither readers, which a WAL database does not know as an obstacle anyway, nor a slow disk
    are waited for. A checkpoint first waits until everything is committed and then carries the
    number of events, to which a resumed run rewinds the database in one transaction.

    Attributes:
        path: The file.
        clock: Of the run that is under way.

    Args:
        path: The file; default `metrics.db` in the run directory, or in the current one under a
            stock trainer.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__(Path(DEFAULT_NAME if path is None else path))
        self._follows_run = path is None
        self._begin_file(self.path)

    def _begin_file(self, path: Path) -> None:
        self.path = path
        self._events = 0  # logged so far, those waiting included
        self._committed_events = 0  # where an existing file is rewound to when it is opened
        self._is_new = True  # no checkpoint speaks for what stands in an existing file
        self._attempt: int | None = None
        self._waiting: list[Row] = []
        self._database: MetricsDatabase | None = None
        self._file = threading.Lock()  # around every use of the database
        self._state = threading.Condition()  # around everything else
        self._asked = self._done = 0  # rounds of writing
        self._failing = self._stopping = False
        self._writer: threading.Thread | None = None
        self._process = os.getpid()

    def place_in(self, run_directory: Path) -> None:
        """Begin the run directory's `metrics.db`, unless a path was given."""
        path = run_directory / DEFAULT_NAME
        if self._follows_run and self.path != path:
            self.finalize("success")
            self._begin_file(path)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append one row per tag.

        Args:
            metrics: Tag to number; `episode` is the number of finished episodes and stands in a
                column of its own.
            step: Env steps.
        """
        step = env_steps_of(self.clock, metrics, step)
        episode = metrics.get("episode")
        values = {tag: _number(value) for tag, value in metrics.items() if tag != "episode"}
        self._append(
            values,
            None if step is None else int(step),
            None if episode is None else int(episode),
            SINGLE_AGENT,
            "log",
        )

    @rank_zero_only
    def log_episode(self, episode: Episode) -> None:
        """Append reward, length and reward components of one finished training episode."""
        values = {"episode/reward": float(episode.reward), "episode/length": float(episode.length)}
        for name, value in episode.reward_components.items():
            values[f"reward/{name}"] = float(value)
        self._append(values, episode.env_steps, episode.index, episode.agent_id, "episode")

    def query_metrics(
        self,
        agent_id: str | None = None,
        metric_name: str | None = None,
        min_episode: int | None = None,
        max_episode: int | None = None,
        source: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return what `lightning_rl.loggers.query_metrics` reads, everything logged included."""
        self.flush()
        return query_metrics(self.path, agent_id, metric_name, min_episode, max_episode, source)

    def flush(self, timeout_s: float = 2 * BUSY_TIMEOUT_S) -> bool:
        """Wait until everything logged so far is committed; return whether that worked.

        Args:
            timeout_s: Longest time to wait, in seconds.
        """
        if self._process != os.getpid():
            return False
        with self._state:
            self._start_writer()
            self._asked += 1
            asked = self._asked
            self._state.notify_all()
            return self._state.wait_for(lambda: self._done >= asked, timeout_s) and not (
                self._failing
            )

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is waiting and close the file; logging may go on afterwards."""
        writer = self._writer
        if writer is None or self._process != os.getpid():
            return
        with self._state:
            self._stopping = True
            self._state.notify_all()
        writer.join(2 * BUSY_TIMEOUT_S)
        self._writer, self._stopping = None, False

    def __enter__(self) -> SQLiteLogger:
        """Return the logger itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Write what is waiting and close the file."""
        self.finalize("success")

    def state_dict(self) -> dict[str, Any]:
        """Return how many events belong to this moment; `flush` before you rely on it."""
        return {"events": self._events}

    @rank_zero_only
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Rewind the existing file to the events of a `state_dict`, and continue it."""
        events = int(state_dict["events"])
        with self._file, self._state:
            self._close()
            self._waiting.clear()
            self._is_new, self._attempt = False, None
            self._events = self._committed_events = events
        if self.flush():
            self._warn_of_lost(self._committed_events, events, "events")

    # The training thread's half: appending.

    def _append(
        self,
        values: Mapping[str, float],
        env_steps: int | None,
        episode: int | None,
        agent_id: str,
        source: str,
    ) -> None:
        now = time.time()
        with self._state:
            self._events += 1
            event = self._events
            self._waiting += [
                (event, env_steps, episode, agent_id, tag, value, now, source)
                for tag, value in values.items()
            ]
            if len(self._waiting) >= WRITE_AT_ROWS:
                self._make_room()
            if self._writer is None:
                self._start_writer()

    def _make_room(self) -> None:
        """Wake the writer, and keep the rows in memory bounded."""
        self._state.notify_all()
        if len(self._waiting) > MAX_WAITING_ROWS and not self._failing:
            self._start_writer()
            room = lambda: self._failing or len(self._waiting) <= MAX_WAITING_ROWS  # noqa: E731
            self._state.wait_for(room, BUSY_TIMEOUT_S)
        del self._waiting[:-MAX_WAITING_ROWS]

    def _start_writer(self) -> None:
        if self._writer is None and self._process == os.getpid():
            self._writer = threading.Thread(target=self._write, name="metrics.db", daemon=True)
            self._writer.start()

    # The writer's half.

    def _write(self) -> None:
        """Commit what is waiting, round after round, until `finalize`."""
        while True:
            with self._state:
                self._state.wait_for(self._is_due, WRITE_EVERY_S)
                asked, stopping = self._asked, self._stopping
            with self._file:
                self._write_waiting()
                if stopping:
                    self._close()
            with self._state:
                self._done = asked
                self._state.notify_all()
            if stopping:
                return

    def _is_due(self) -> bool:
        many = len(self._waiting) >= WRITE_AT_ROWS and not self._failing
        return many or self._asked > self._done or self._stopping

    def _write_waiting(self) -> None:
        """Write one batch; after an error it waits for the next round, and the file is reopened."""
        with self._state:
            batch, self._waiting = self._waiting, []
        try:
            if self._database is None:
                self._open()
            if batch and self._database is not None:
                self._database.insert(batch)
                self._committed_events = batch[-1][0]
        except (sqlite3.Error, OSError) as error:
            self._close()
            with self._state:
                self._waiting = (batch + self._waiting)[-MAX_WAITING_ROWS:]
                self._failing = True
            if type(error) is sqlite3.DatabaseError:  # damaged, or somebody else's
                move_aside(self.path, "damaged")
            self._warn_of_waiting(error, len(self._waiting))
        else:
            self._failing = False

    def _open(self) -> None:
        if self._is_new:
            move_aside(self.path, "superseded")
            self._is_new = False
        database = MetricsDatabase(self.path, self._committed_events, self._attempt)
        self._database, self._attempt = database, database.attempt
        self._committed_events = database.found_events

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


def _number(value: Any) -> float:
    """Return a tensor, NumPy scalar or number as `float`."""
    return float(value.item() if hasattr(value, "item") else value)
