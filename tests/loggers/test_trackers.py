"""What is particular to a kind of tracker, beside what the runs of `tests/system` read back."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest
from lightning.pytorch.loggers import MLFlowLogger

from lightning_rl.loggers import courier
from lightning_rl.loggers.isolation import isolate, release
from lightning_rl.loggers.trackers import MLflowTracker, RunDescription


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_gets_many_rows_in_few_calls_and_none_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(courier, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(courier, "ROWS_WAIT_S", 60.0)
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", prefix="p")
    isolate(logger, RunDescription(tmp_path, "experiment", "run"), {})
    assert logger._courier.opened.wait(120.0)
    client, sizes = logger._courier.opening, []
    log_batch = client.log_batch

    def fail_after_the_second(run_id, metrics, **others):
        log_batch(run_id, metrics=metrics, **others)
        sizes.append(len(metrics))
        if len(sizes) == 2:
            raise ConnectionError("after it was written")

    client.log_batch = fail_after_the_second
    before = time.time()
    for row in range(50):
        logger.log_metrics({f"a/{tag} (%)": row + tag for tag in range(30)}, step=10 * row)
    logged = time.time()
    time.sleep(0.5)  # they are delivered later than they were logged
    assert logger._courier.close(60.0)
    release(logger)
    assert sizes[:2] == [1000, 500]
    assert sum(sizes[2:]) == 1500
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        query = "SELECT step, value, timestamp FROM metrics WHERE key = ? ORDER BY step"
        history = store.execute(query, ("p-a/7 ",)).fetchall()
    assert [row[:2] for row in history] == [(10 * row, row + 7) for row in range(50)]
    assert all(before - 0.002 <= row[2] / 1000 <= logged for row in history)


class OwnLogger(MLFlowLogger):
    """Logs in a way of its own."""

    def log_metrics(self, metrics, step=None):
        """Note the call."""
        self.noted = [*getattr(self, "noted", []), (dict(metrics), step)]


@pytest.mark.parametrize("kind", [MLFlowLogger, OwnLogger])
def test_a_way_of_logging_of_ones_own_is_kept(kind):
    tracker = MLflowTracker(kind(tracking_uri="http://127.0.0.1:9"))  # not connected to
    assert (tracker.rows_at_once > 1) is (kind is MLFlowLogger)
    if kind is OwnLogger:
        tracker.log_rows([({"a": 1.0}, 5, 0.0)])
        assert tracker.logger.noted == [({"a": 1.0}, 5)]
