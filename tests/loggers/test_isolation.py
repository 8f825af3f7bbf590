"""Loggers whose calls happen on another thread, and what of them is still seen from outside."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lightning_rl.loggers import isolation as module
from lightning_rl.loggers.courier import NoExperiment
from lightning_rl.loggers.isolation import isolate, release
from lightning_rl.loggers.trackers import RunDescription


class Recording(Logger):
    """Remembers each call and its thread."""

    def __init__(self, opened=None):
        super().__init__()
        self.calls = []
        self.threads = set()
        self.opened = opened

    def note(self, *call):
        self.calls.append(call)
        self.threads.add(threading.current_thread())

    @property
    def name(self):
        return "name"

    @property
    def version(self):
        return 3

    @property
    def experiment(self):
        if self.opened is not None:
            self.opened.wait()
        return "experiment"

    def log_metrics(self, metrics, step=None):
        self.note("row", metrics, step)

    def log_hyperparams(self, params):
        self.note("config", params)

    def save(self):
        self.note("save")

    def finalize(self, status):
        self.note("finalize", status)

    def after_save_checkpoint(self, checkpoint_callback):
        self.note("checkpoint", checkpoint_callback)

    def log_image(self, key, step):
        """As in loggers that offer more than Lightning's interface."""
        self.log_metrics({key: self.experiment}, step)


def isolated(tmp_path, logger):
    isolate(logger, RunDescription(tmp_path), {})
    logger._patience_s = 10.0
    return logger


def close(logger):
    assert logger._courier.close(10.0)
    release(logger)


def test_every_call_happens_on_the_couriers_thread(tmp_path):
    logger = isolated(tmp_path, Recording())
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"b": 2.0}, step=4)
    logger.save()
    logger.after_save_checkpoint("callback")
    logger.log_image("picture", 5)
    logger.finalize("success")
    close(logger)
    assert logger.calls == [
        ("config", {"a": 1}),
        ("row", {"b": 2.0}, 4),
        ("save",),
        ("checkpoint", "callback"),
        ("row", {"picture": "experiment"}, 5),
        ("finalize", "success"),
    ]
    assert threading.main_thread() not in logger.threads


def test_it_stays_the_object_it_is(tmp_path):
    logger = Recording()
    assert isolated(tmp_path, logger) is logger
    assert isinstance(logger, Recording)
    assert type(logger).__name__ == "Recording"
    assert (logger.experiment, logger.name, logger.version) == ("experiment", "name", 3)
    close(logger)
    assert type(logger) is Recording
    logger.log_metrics({"a": 1}, step=1)
    assert threading.main_thread() in logger.threads


def test_a_row_is_what_it_was_when_it_was_logged(tmp_path):
    opened = threading.Event()
    logger = isolated(tmp_path, Recording(opened))
    tensor = torch.tensor(1.0)
    metrics = {"a": tensor, "b": 2}
    logger.log_metrics(metrics, step=1)
    tensor.fill_(9.0)
    metrics["b"] = 9
    opened.set()
    close(logger)
    assert logger.calls == [("row", {"a": 1.0, "b": 2}, 1)]


def test_reading_the_experiment_waits_once_and_not_for_ever(tmp_path):
    opened = threading.Event()
    logger = isolated(tmp_path, Recording(opened))
    logger._patience_s = 0.2
    began = time.perf_counter()
    assert isinstance(logger.experiment, NoExperiment)
    for _ in range(100):
        logger.experiment.add_scalar("a", 1.0)
    assert 0.2 <= time.perf_counter() - began < 5.0
    opened.set()
    assert logger._courier.opened.wait(10.0)
    assert logger.experiment == "experiment"
    close(logger)


def test_reading_the_experiment_does_not_wait_before_training(tmp_path):
    opened = threading.Event()
    logger = Recording(opened)
    isolate(logger, RunDescription(tmp_path), {})
    began = time.perf_counter()
    assert isinstance(logger.experiment, NoExperiment)
    assert time.perf_counter() - began < module.PATIENCE_S / 2
    opened.set()
    close(logger)


def test_lightnings_local_loggers_have_their_names_at_once(tmp_path):
    logger = isolated(tmp_path, CSVLogger(tmp_path, name="n", version=2))
    assert (logger.name, logger.version) == ("n", 2)
    logger.log_metrics({"a": 1.5}, step=7)
    logger.finalize("success")
    close(logger)
    assert (tmp_path / "n" / "version_2" / "metrics.csv").read_text() == "a,step\n1.5,7\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    logger = isolated(tmp_path, TensorBoardLogger(tmp_path / "file"))
    logger._patience_s = 0.0
    logger.log_metrics({"a": 1.0}, step=1)
    assert not logger._courier.close(0.2)
    release(logger)
    assert "TensorBoardLogger does not take what is logged" in caplog.text
