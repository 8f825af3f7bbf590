"""MLflow's and W&B's own clients when the server is down, stalls or fails, or a disk is full."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lightning.pytorch.callbacks import Callback

from lightning_rl import PPO, Trainer
from lightning_rl.callbacks.curves import TrainingCurves
from lightning_rl.loggers import courier, read_metrics
from lightning_rl.runs import tracking
from tests.system.backend import Backend, control
from tests.system.child import in_a_child

pytest.importorskip("mlflow")
pytest.importorskip("wandb")
pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore"),  # of the trackers' own packages
]

UNITS, UNIT = 10, 32
SAID = "does not take what is logged"
LOST = "were not delivered; the metrics of the run directory are complete"


def mlflow_logger(address: str) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(tracking_uri=address)


def wandb_logger(address: str) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(project="p")


LOGGERS = {"mlflow": mlflow_logger, "wandb": wandb_logger}


def train(root: Path, logger: Any, callbacks: tuple[Callback, ...] = ()) -> None:
    """Train in this process, which a test has forked."""
    TrainingCurves.draw = lambda *_: None  # type: ignore[method-assign]
    trainer = Trainer(
        run={"root": str(root), "experiment": "e", "name": "r"},
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        eval_episodes=1,
        log_every_n_steps=1,
    )
    settings = {"total_env_steps": UNITS * UNIT, "num_steps": UNIT, "minibatch_size": UNIT}
    agent = PPO("CartPole-v1", seed=1, compile=False, **settings)
    trainer.fit(agent)
    assert agent.logging_s < 1.0


def assert_complete(root: Path) -> list[tuple[str, int, float]]:
    """Return the rows of the run's own file, after seeing that none is missing."""
    run = root / "e" / "r"
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["env_steps"]) == ("finished", UNITS * UNIT)
    rows = read_metrics(run / "metrics.csv")
    # Of each unit a row of training and one of evaluation.
    assert [row["step"] for row in rows] == [UNIT * n for n in range(1, UNITS + 1) for _ in "ab"]
    return [(t, int(row["step"]), v) for row in rows for t, v in row.items() if t != "step"]


def assert_sent(backend: Backend, expected: list[tuple[str, int, float]]) -> None:
    """Compare with what arrived: in order, though a row's tags come in another one."""
    assert [step for _, step, _ in backend.metrics] == [step for _, step, _ in expected]
    assert {m[:2]: m[2] for m in backend.metrics} == pytest.approx({m[:2]: m[2] for m in expected})


def said(root: Path, text: str) -> int:
    return (root / "e" / "r" / "training.log").read_text().count(text)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these runs goes anywhere else, and clients give up a call soon."""
    import mlflow.tracking  # noqa: F401
    import wandb  # noqa: F401

    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_SILENT": "true",
        "WANDB_DATA_DIR": str(tmp_path / "data"),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_MODE": "online",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    with Backend(tmp_path / "artifacts") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        yield server
        server.shutdown()


@pytest.mark.parametrize("mode", ["closed", "refuse", "stall", "error"])
@pytest.mark.parametrize("kind", LOGGERS)
def test_a_server_that_is_no_help_from_the_start(
    kind: str, mode: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.mode = mode
    if mode == "closed":
        backend.server_close()
    monkeypatch.setattr(tracking, "CLOSE_S", 1.0)
    monkeypatch.setattr(tracking, "TROUBLED_CLOSE_S", 1.0)
    began = time.monotonic()
    assert in_a_child(lambda: train(tmp_path, LOGGERS[kind](backend.address))) == 0
    assert time.monotonic() - began < 30.0
    assert_complete(tmp_path)
    # A client that is still waiting, or trying again by itself, has said nothing yet.
    assert said(tmp_path, SAID) == (1 if kind == "mlflow" and mode != "stall" else 0)
    assert said(tmp_path, LOST) == 1
    assert backend.troubled > 0 or mode == "closed"


class Outage(Callback):
    """Has a backend fail from one unit on, and work again from another one on if there is one."""

    def __init__(self, address: str, mode: str, first: int, end: int | None) -> None:
        self.address, self.mode, self.first, self.end = address, mode, first, end

    def on_train_batch_end(self, trainer: Any, agent: Any, *_: Any) -> None:
        unit = agent.env_steps // UNIT
        if unit == self.first:  # what was logged until now is there
            self.wait(trainer, "metrics")
            control(self.address, self.mode)
        if unit == self.first + 1:  # and what comes now is not taken
            self.wait(trainer, "troubled")
        if unit == self.end:
            control(self.address, "ok")

    def wait(self, trainer: Any, key: str) -> None:
        for _ in range(1_000):
            trainer.loggers[0]._courier.hurry()
            if control(self.address)[key]:
                return
            time.sleep(0.02)
        raise TimeoutError(key)


@pytest.mark.parametrize("mode", ["refuse", "stall", "error"])
def test_what_waited_is_sent_in_order_when_the_server_is_back(
    mode: str, backend: Backend, tmp_path: Path
) -> None:
    backend.stall_s = 1.5
    outage = Outage(backend.address, mode, first=3, end=8)
    assert in_a_child(lambda: train(tmp_path, mlflow_logger(backend.address), (outage,))) == 0
    expected = assert_complete(tmp_path)
    assert_sent(backend, expected)
    assert len(backend.metrics) == len(expected)
    assert backend.statuses[-1] == "FINISHED"
    assert said(tmp_path, SAID) == (mode != "stall")
    assert said(tmp_path, LOST) == 0


@pytest.mark.parametrize("mode", ["refuse", "error"])
def test_a_server_that_is_gone_at_the_end_keeps_what_it_has(
    mode: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "TROUBLED_CLOSE_S", 1.0)
    outage = Outage(backend.address, mode, first=7, end=None)
    assert in_a_child(lambda: train(tmp_path, mlflow_logger(backend.address), (outage,))) == 0
    expected = assert_complete(tmp_path)
    assert 0 < len(backend.metrics) < len(expected)
    assert_sent(backend, expected[: len(backend.metrics)])
    assert (said(tmp_path, SAID), said(tmp_path, LOST)) == (1, 1)


class FullDisk(Callback):
    """Lets W&B's own process write no more, as on a full disk."""

    def on_train_batch_end(self, trainer: Any, agent: Any, *_: Any) -> None:
        if agent.env_steps == 3 * UNIT:
            assert trainer.loggers[0]._courier.opened.wait(60.0)
            processes = psutil.Process().children(recursive=True)
            assert processes
            for process in processes:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, 1))


def test_a_full_disk_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tracking, "CLOSE_S", 5.0)
    assert in_a_child(lambda: train(tmp_path, wandb_logger(""), (FullDisk(),))) == 0
    assert_complete(tmp_path)
    assert said(tmp_path, SAID) + said(tmp_path, LOST) <= 2


def test_a_full_disk_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MlflowClient, "log_batch", full)
    monkeypatch.setattr(tracking, "TROUBLED_CLOSE_S", 1.0)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    assert in_a_child(lambda: train(tmp_path, mlflow_logger(store))) == 0
    assert_complete(tmp_path)
    assert (said(tmp_path, SAID), said(tmp_path, LOST)) == (1, 1)
    assert said(tmp_path, "No space left on device") == 1


def test_what_waits_takes_little_memory() -> None:
    """Rows of an outage of hours, each with thirty metrics."""
    import tracemalloc

    waiting = courier.Courier("a tracker", lambda: None)
    row = {f"group/metric_{number}": 0.5 for number in range(30)}
    tracemalloc.start()
    for step in range(3 * courier.MAX_WAITING_CALLS):
        waiting.send_row(({tag: value + step for tag, value in row.items()}, step, 0.5 + step))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(waiting._waiting) <= courier.MAX_WAITING_CALLS
    assert used < 32e6
