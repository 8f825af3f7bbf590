import contextlib
import errno
import itertools
import logging
import os
import shutil
import threading

import pytest
from lightning.pytorch.loggers import Logger

from lightning_rl.callbacks import Callback, Checkpoint
from lightning_rl.callbacks import checkpoint as module
from lightning_rl.errors import CheckpointError
from lightning_rl.storage import checkpoint_io, sealed
from lightning_rl.storage.sealed import load_sealed
from lightning_rl.storage.segments import newest_good_checkpoint
from tests.callbacks.small_runs import dqn, env_steps, fit, folder, names, ppo
from tests.system.fork_server import differences


class FullDisk:
    """A disk that takes no checkpoint between two of them; or tells so when it is published."""

    def __init__(self, monkeypatch, begin, end, tells_late=False):
        self.count, self.begin, self.end, self.tells_late = 0, begin, end, tells_late
        self.write = checkpoint_io.begin_sealed
        monkeypatch.setattr(checkpoint_io, "begin_sealed", self)

    def __call__(self, obj, folder, name):
        self.count += 1
        is_full = self.begin <= self.count < self.end
        if is_full and not self.tells_late:
            self.refuse()
        written = self.write(obj, folder, name)
        return written._replace(publish=self.refuse) if is_full else written

    def refuse(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("tells_late", [False, True])
def test_a_full_disk_is_reported_once_and_survived(tmp_path, monkeypatch, caplog, tells_late):
    disk = FullDisk(monkeypatch, 3, 7, tells_late)
    with caplog.at_level(logging.WARNING, "lightning_rl"):
        fit(tmp_path, None, Checkpoint(every_env_steps=32))
    assert disk.count == 10
    assert caplog.text.count("could not be written (No space left on device)") == 1
    assert "env_steps=96.ckpt" in caplog.text
    assert env_steps(folder(tmp_path) / "last.ckpt") == 320


def test_the_warning_comes_again_after_a_minute(tmp_path, monkeypatch, caplog):
    FullDisk(monkeypatch, 1, 6)
    now = [0.0]

    def half_a_minute_later():
        now[0] += 30.0
        return now[0]

    monkeypatch.setattr(module.time, "monotonic", half_a_minute_later)
    with caplog.at_level(logging.WARNING, "lightning_rl"):
        fit(tmp_path, None, Checkpoint(every_env_steps=32, every_s=1e9))
    assert caplog.text.count("training goes on and tries again") > 1


@pytest.mark.parametrize("tells_late", [False, True])
def test_a_run_whose_end_was_never_saved_fails_and_keeps_the_last_good_state(
    tmp_path, monkeypatch, tells_late
):
    FullDisk(monkeypatch, 3, 1_000, tells_late)
    with pytest.raises(CheckpointError, match=r"the end of the run could not be saved in .*space"):
        fit(tmp_path, None, Checkpoint(every_env_steps=32))
    assert env_steps(folder(tmp_path) / "last.ckpt") == 64
    assert not list(folder(tmp_path).glob(".tmp-*"))
    monkeypatch.undo()
    fit(tmp_path, ckpt_path="last")
    assert env_steps(folder(tmp_path) / "last.ckpt") == 320


def test_segments_that_a_full_disk_has_not_taken_are_written_again(tmp_path, monkeypatch):
    """Every third file that waits for the disk is lost: segments as well as checkpoints."""
    publish, calls = sealed._publish, itertools.count(1)

    def sometimes(*args):
        if next(calls) % 3 == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        publish(*args)

    monkeypatch.setattr(sealed, "_publish", sometimes)
    with contextlib.suppress(CheckpointError):
        fit(tmp_path, dqn(), Checkpoint(every_env_steps=50))
    monkeypatch.undo()
    good, bad = newest_good_checkpoint(folder(tmp_path))
    assert bad == []
    assert env_steps(good) > 50
    assert not list(folder(tmp_path).glob("**/.tmp-*"))
    fit(tmp_path, dqn(), ckpt_path="last")
    fit(tmp_path / "whole", dqn())
    checkpoints = [
        load_sealed(folder(root) / "last.ckpt") for root in (tmp_path / "whole", tmp_path)
    ]
    for checkpoint in checkpoints:
        del checkpoint["volatile"]
    assert list(differences(*checkpoints)) == []


def test_a_link_that_cannot_be_made_is_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_link", refuse)
    with pytest.raises(CheckpointError, match="could not be saved"):
        fit(tmp_path)
    assert "training goes on" in caplog.text


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    """The disk takes the first checkpoint only after the next update has begun."""
    begun, sync = threading.Event(), os.fsync

    def slow(descriptor):
        assert begun.wait(60)
        sync(descriptor)

    class Begin(Callback):
        def on_update_start(self, trainer, agent):
            if agent.env_steps == 64:
                assert not (folder(tmp_path) / "last.ckpt").exists()
                begun.set()

    monkeypatch.setattr(os, "fsync", slow)
    fit(tmp_path, ppo(total_env_steps=96), Begin(), Checkpoint(every_env_steps=32))
    assert env_steps(folder(tmp_path) / "last.ckpt") == 96
    assert names(tmp_path) == [*(f"env_steps={n}.ckpt" for n in (32, 64, 96)), "last.ckpt"]


def test_a_folder_that_vanishes_is_made_again(tmp_path):
    checkpoint = Checkpoint()

    class Remove(Callback):
        def on_update_start(self, trainer, agent):
            if agent.env_steps == 160:
                checkpoint.wait_for_disk()
                shutil.rmtree(folder(tmp_path))

    fit(tmp_path, None, Remove(), checkpoint)
    assert env_steps(folder(tmp_path) / "last.ckpt") == 320


class Stuck(Logger):
    """A tracker of the user's, whose `flush` is no business of a checkpoint."""

    name, version = "stuck", 0

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def flush(self):
        raise RuntimeError("the server is away")


def test_only_loggers_that_a_checkpoint_counts_are_flushed(tmp_path):
    fit(tmp_path, None, Checkpoint(every_env_steps=32), logger=Stuck())
    assert env_steps(folder(tmp_path) / "last.ckpt") == 320
