"""`metrics.csv`: its text, its resume, a full disk."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_rl.loggers import csv as module
from lightning_rl.loggers import local
from lightning_rl.loggers.csv import CSVMetrics, read_metrics


def log_rows(logger, start, stop):
    """Log a training row per step and, every third step, an evaluation row with a further tag."""
    for step in range(start, stop):
        logger.log_metrics({"episode": step // 2, "train/loss": 1 / (step + 1)}, step=step)
        if step % 3 == 2:
            logger.log_metrics({"episode": step // 2, "eval/mean_reward": step}, step=step)


def test_text_of_the_file(tmp_path):
    logger = CSVMetrics(tmp_path / "run")
    logger.log_metrics({"episode": 2, "train/loss": 0.1}, step=128)
    logger.log_metrics({"eval/mean_reward": 3, "train/loss": 1e-30, "episode": 4}, step=20_000_001)
    logger.finalize("success")
    assert (tmp_path / "run" / "metrics.csv").read_text() == (
        "step,episode,train/loss,eval/mean_reward\n128,2,0.1,\n20000001,4,1e-30,3\n"
    )


def test_rows_are_on_disk_at_once(tmp_path):
    logger = CSVMetrics(tmp_path)
    for step in range(3):
        logger.log_metrics({"a": step}, step=step)
        assert len(read_metrics(logger.path)) == step + 1


def test_every_number_reads_back(tmp_path):
    logger = CSVMetrics(tmp_path)
    row = {
        "a": 0.1 + 0.2,
        "b": -7,
        "c": torch.tensor(0.25),
        "d": np.float32(0.1),
        "e": np.int64(2**40),
        "f": True,
        "g": -math.inf,
        "h": torch.tensor(3),
    }
    logger.log_metrics(row, step=1)
    (read,) = read_metrics(logger.path)
    expected = row | {"step": 1, "c": 0.25, "d": float(np.float32(0.1)), "f": 1, "h": 3}
    assert read == expected
    assert isinstance(read["e"], int)
    logger.log_metrics({"a": math.nan}, step=2)
    assert math.isnan(read_metrics(logger.path)[1]["a"])


def test_tag_with_comma_and_quote(tmp_path):
    logger = CSVMetrics(tmp_path)
    logger.log_metrics({'env/a,"b"': 1}, step=1)
    logger.log_metrics({"c": 2}, step=2)
    assert read_metrics(logger.path) == [{"step": 1, 'env/a,"b"': 1}, {"step": 2, "c": 2}]


@pytest.mark.parametrize("saved_at", range(9))
@pytest.mark.parametrize("killed_after", [0, 1, 5])
def test_resumed_file_equals_the_unstopped_one(tmp_path, saved_at, killed_after):
    whole = CSVMetrics(tmp_path / "whole")
    log_rows(whole, 0, 12)
    first = CSVMetrics(tmp_path / "run")
    log_rows(first, 0, saved_at)
    state = first.state_dict()
    log_rows(first, saved_at, saved_at + killed_after)
    first.path.parent.mkdir(exist_ok=True)
    with first.path.open("a") as file:
        file.write("99,1")  # torn by the kill
    second = CSVMetrics(tmp_path / "run")
    second.load_state_dict(state)
    assert second.state_dict() == state
    log_rows(second, saved_at, 12)
    assert second.path.read_bytes() == whole.path.read_bytes()
    assert second.state_dict() == whole.state_dict()


def test_columns_newer_than_the_checkpoint_are_cut(tmp_path):
    logger = CSVMetrics(tmp_path)
    logger.log_metrics({"a": 1}, step=1)
    state, text = logger.state_dict(), logger.path.read_text()
    logger.log_metrics({"b": 1}, step=2)
    resumed = CSVMetrics(tmp_path)
    resumed.load_state_dict(state)
    assert resumed.path.read_text() == text


def test_columns_of_measured_times_depend_on_nothing(tmp_path):
    """Two runs may measure a time at different rows; resume keeps the cells."""
    early, late = CSVMetrics(tmp_path / "early"), CSVMetrics(tmp_path / "late")
    early.log_metrics({"time/eta_s": 1.5, "a": 1}, step=1)
    late.log_metrics({"a": 1}, step=1)
    for logger in (early, late):
        logger.log_metrics({"a": 2, "time/eta_s": 0.5, "b": 3}, step=2)
    assert early.state_dict() == late.state_dict()
    resumed = CSVMetrics(tmp_path / "early")
    resumed.load_state_dict(late.state_dict())
    assert read_metrics(resumed.path) == [
        {"step": 1, "a": 1, "time/eta_s": 1.5},
        {"step": 2, "a": 2, "b": 3, "time/eta_s": 0.5},
    ]


def test_missing_file_at_resume_starts_with_the_header(tmp_path, caplog):
    logger = CSVMetrics(tmp_path)
    logger.load_state_dict({"rows": 3, "columns": ["step", "episode", "a"]})
    assert logger.path.read_text() == "step,episode,a\n"
    assert "holds 0 of the 3 rows" in caplog.text
    logger.log_metrics({"a": 5}, step=4)
    later = CSVMetrics(tmp_path)
    later.load_state_dict(logger.state_dict())
    assert read_metrics(later.path) == [{"step": 4, "a": 5}]


def test_file_of_another_run_is_kept_apart(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,episode\n1,1\n")
    CSVMetrics(tmp_path).log_metrics({"a": 1}, step=0)
    assert (tmp_path / "superseded-metrics.csv").read_text() == "step,episode\n1,1\n"
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 0, "a": 1}]


def test_reader_leaves_out_a_torn_line(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,episode,a\n1,,2\n2,,3")
    assert read_metrics(path) == [{"step": 1, "a": 2}]
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "none.csv")


def full_disk(logger):
    """Half of the line reaches the disk, then there is no more room."""
    with logger.path.open("a") as file:
        file.write("123,4")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_loses_nothing_and_warns_once_a_minute(tmp_path, monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(local.time, "monotonic", lambda: now[0])
    whole, logger = CSVMetrics(tmp_path / "whole"), CSVMetrics(tmp_path / "run")
    log_rows(whole, 0, 12)
    log_rows(logger, 0, 3)
    with monkeypatch.context() as patch:
        patch.setattr(CSVMetrics, "_append", full_disk)
        log_rows(logger, 3, 8)
        now[0] += 61
        log_rows(logger, 8, 10)
    assert caplog.text.count("No space left on device") == 2
    log_rows(logger, 10, 12)
    assert logger.path.read_bytes() == whole.path.read_bytes()
    assert logger.state_dict() == whole.state_dict()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_full(tmp_path, monkeypatch, caplog):
    logger = CSVMetrics(tmp_path)
    logger.log_metrics({"a": 1}, step=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: open("/dev/full", "wb"))  # noqa: SIM115
        logger.log_metrics({"a": 2}, step=2)
    assert "1 rows wait in memory" in caplog.text
    logger.finalize("success")
    assert read_metrics(logger.path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}]


def test_file_removed_while_training_begins_anew(tmp_path):
    logger = CSVMetrics(tmp_path)
    logger.log_metrics({"a": 1}, step=1)
    logger.path.unlink()
    logger.log_metrics({"a": 2}, step=2)
    logger.finalize("success")
    assert read_metrics(logger.path) == [{"step": 2, "a": 2}]
    assert logger.state_dict()["rows"] == 1


def test_full_disk_while_the_header_grows(tmp_path, monkeypatch):
    logger = CSVMetrics(tmp_path)
    logger.log_metrics({"a": 1}, step=1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write_bytes", _raise_full)
        logger.log_metrics({"b": 2}, step=2)
        assert read_metrics(logger.path) == [{"step": 1, "a": 1}]
    logger.log_metrics({"a": 3}, step=3)
    assert [row["step"] for row in read_metrics(logger.path)] == [1, 2, 3]


def _raise_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_rows_waiting_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 3)
    logger = CSVMetrics(tmp_path)
    logger._waiting = module.deque(maxlen=3)
    with monkeypatch.context() as patch:
        patch.setattr(CSVMetrics, "_begin", _raise_full)
        for step in range(5):
            logger.log_metrics({"a": step}, step=step)
    logger.save()
    assert [row["step"] for row in read_metrics(logger.path)] == [2, 3, 4]
    assert logger.state_dict()["rows"] == 3


def test_folder_that_cannot_be_made_does_not_stop_training(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    logger = CSVMetrics(tmp_path / "file" / "run")
    logger.log_metrics({"a": 1}, step=1)
    assert "Training goes on" in caplog.text


def test_lightning_finds_the_folder(tmp_path):
    logger = CSVMetrics(tmp_path)
    assert (logger.save_dir, logger.name, logger.version) == (str(tmp_path), "", "")
    logger.log_hyperparams({"a": 1})
    assert list(tmp_path.iterdir()) == []
