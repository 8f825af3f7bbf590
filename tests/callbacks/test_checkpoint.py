import contextlib
import errno
import itertools
import logging
import os
import shutil
import threading
from pathlib import Path

import pytest

from lightning_rl import DQN, PPO, EnvConfig, Trainer
from lightning_rl.callbacks import Callback, Checkpoint
from lightning_rl.callbacks import checkpoint as module
from lightning_rl.envs.probes import FaultEnv
from lightning_rl.errors import CheckpointError, ConfigError, TrainingFailed
from lightning_rl.storage import checkpoint_io, sealed
from lightning_rl.storage.sealed import load_sealed
from lightning_rl.storage.segments import newest_good_checkpoint
from tests.system.fork_server import differences


class Scores(Callback):
    """Let evaluations have these scores."""

    def __init__(self, *scores):
        self.scores = list(scores)

    def on_validation_end(self, trainer, agent):
        trainer.callback_metrics["score"] = self.scores.pop(0)


class FailAt(Callback):
    """Raise at the `number`-th update, or in the `number`-th evaluation."""

    def __init__(self, number, hook="on_update_start"):
        self.number = number
        setattr(self, hook, self._count)

    def _count(self, *args):
        self.number -= 1
        if self.number == 0:
            raise RuntimeError("broken")


def ppo(**settings):
    defaults = {"total_env_steps": 320, "seed": 1, "num_steps": 32, "minibatch_size": 32}
    return PPO(**{"env": "CartPole-v1", **defaults, **settings})


def dqn(**settings):
    defaults = {"total_env_steps": 500, "seed": 1, "capacity": 200, "learning_starts": 50}
    steps = {"env_steps_per_iteration": 50, "train_frequency": 10, "batch_size": 16}
    return DQN(**{"env": "CartPole-v1", **defaults, **steps, **settings})


def fit(tmp_path, agent=None, *callbacks, ckpt_path=None, **settings):
    trainer = Trainer(
        run={"root": str(tmp_path), "experiment": "e", "name": "r"},
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        **{"eval_every_env_steps": 0, "eval_episodes": 1, **settings},
    )
    trainer.fit(agent or ppo(), ckpt_path=ckpt_path)
    return trainer


def folder(tmp_path):
    return tmp_path / "e" / "r" / "checkpoints"


def names(tmp_path):
    return sorted(path.name for path in folder(tmp_path).glob("*.ckpt"))


def env_steps(path):
    return load_sealed(path)["lightning_rl"]["env_steps"]


def test_every_tenth_of_the_budget_and_the_newest_three(tmp_path):
    fit(tmp_path)
    kept = ["env_steps=256.ckpt", "env_steps=288.ckpt", "env_steps=320.ckpt", "last.ckpt"]
    assert names(tmp_path) == sorted(kept)
    assert os.readlink(folder(tmp_path) / "last.ckpt") == "env_steps=320.ckpt"


def test_interval_and_count_as_asked_and_the_end_in_any_case(tmp_path):
    fit(tmp_path, None, Checkpoint(every_env_steps=100, keep=2))
    assert names(tmp_path) == ["env_steps=224.ckpt", "env_steps=320.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("mode", "best", "others"), [("max", 192, {64, 192}), ("min", 128, {128, 256})]
)
def test_the_best_are_kept_and_linked(tmp_path, mode, best, others):
    checkpoint = Checkpoint(keep=1, keep_best=2, monitor="score", mode=mode)
    fit(tmp_path, None, Scores(3.0, 1.0, 5.0, 2.0, 2.5), checkpoint, eval_every_env_steps=64)
    assert os.readlink(folder(tmp_path) / "best.ckpt") == f"env_steps={best}.ckpt"
    kept = {env_steps(path) for path in folder(tmp_path).glob("env_steps=*")}
    assert kept == others | {320}


def test_of_equal_scores_the_first_stays_and_what_is_not_finite_never_counts(tmp_path):
    scores = Scores(float("nan"), 2.0, 2.0, float("inf"), 1.0)
    fit(tmp_path, None, scores, Checkpoint(monitor="score"), eval_every_env_steps=64)
    assert env_steps(folder(tmp_path) / "best.ckpt") == 128


def test_none_is_best_when_none_is_wanted(tmp_path):
    fit(tmp_path, None, Checkpoint(keep_best=0), eval_every_env_steps=64)
    assert not (folder(tmp_path) / "best.ckpt").exists()


@pytest.fixture
def quick_disk(monkeypatch):
    """Hundreds of saves without waiting for the disk each time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_seconds_bound_what_a_kill_loses(tmp_path, quick_disk):
    seen = []

    checkpoint = Checkpoint(every_env_steps=10_000, every_s=0.0)

    class Look(Callback):
        def on_update_start(self, trainer, agent):
            last = folder(tmp_path) / "last.ckpt"
            checkpoint.wait_for_disk()
            seen.append((agent.env_steps, env_steps(last) if last.exists() else 0))

    agent = ppo(total_env_steps=96)
    fit(tmp_path, agent, Look(), checkpoint)
    # The last step of a rollout is the only one that a kill between two units would lose.
    assert seen == [(32 * unit, 32 * unit - 1) for unit in range(1, 4)]


@pytest.mark.parametrize("make", [ppo, dqn])
def test_saving_changes_nothing(tmp_path, make, quick_disk):
    """Here before every env step, every minibatch and every step of an evaluation."""
    settings = {"eval_every_env_steps": 100, "eval_episodes": 2}
    fit(
        tmp_path / "often",
        make(total_env_steps=200),
        Checkpoint(every_env_steps=1, every_s=0.0),
        **settings,
    )
    fit(tmp_path / "once", make(total_env_steps=200), Checkpoint(every_s=10_000.0), **settings)
    often, once = (load_sealed(folder(tmp_path / name) / "last.ckpt") for name in ("often", "once"))
    volatile = [checkpoint.pop("volatile") for checkpoint in (often, once)]
    assert list(differences(once, often)) == []
    assert volatile[0]["callbacks"] == volatile[1]["callbacks"]


def test_a_stock_evaluation_saves_nothing(tmp_path):
    agent = ppo(total_env_steps=64)
    trainer = fit(tmp_path, agent, Checkpoint(every_s=0.0))
    before = names(tmp_path)
    (folder(tmp_path) / "last.ckpt").unlink()
    trainer.validate(agent, verbose=False)
    assert names(tmp_path) == [name for name in before if name != "last.ckpt"]


def test_own_folder(tmp_path):
    fit(tmp_path, None, Checkpoint(dirpath=str(tmp_path / "own")))
    assert (tmp_path / "own" / "last.ckpt").exists()
    assert folder(tmp_path).resolve() == tmp_path / "own"


def test_a_trial_run_writes_nothing(tmp_path):
    fit(tmp_path, None, Checkpoint(dirpath=str(tmp_path / "own")), fast_dev_run=2)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"keep": 0}, {"keep_best": -1}, {"every_s": -1.0}, {"every_env_steps": 0}, {"mode": "best"}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Checkpoint(**wrong)


# Disk full.


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


# Errors.


@pytest.mark.parametrize("make", [ppo, dqn])
def test_an_unexpected_error_leaves_a_checkpoint_that_resumes(tmp_path, make):
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, make(), FailAt(4), Checkpoint(every_env_steps=10_000))
    emergency = folder(tmp_path) / "emergency.ckpt"
    saved = env_steps(emergency)
    assert saved > 0
    assert names(tmp_path) == ["emergency.ckpt"]
    trainer = fit(tmp_path / "again", make(), ckpt_path=str(emergency))
    assert trainer.lightning_module.env_steps == make().total_env_steps
    assert trainer.lightning_module.source is None


def test_an_error_in_an_evaluation_repeats_it_on_resume(tmp_path):
    fail = FailAt(2, "on_validation_batch_end")
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, None, fail, eval_every_env_steps=64, eval_episodes=3)
    trainer = fit(
        tmp_path / "again",
        ckpt_path=str(folder(tmp_path) / "emergency.ckpt"),
        eval_every_env_steps=64,
        eval_episodes=3,
    )
    assert len(trainer.lightning_module.evaluation["rewards"]) == 3
    rows = (tmp_path / "again" / "e" / "r" / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    evaluated = [row.split(",") for row in rows[1:]]
    column = header.index("eval/mean_reward")
    assert [row[0] for row in evaluated if row[column]] == ["64", "128", "192", "256", "320"]


@pytest.mark.filterwarnings("ignore:.*(Received the following error|Raising the last)")
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("make", [ppo, dqn])
def test_what_was_learned_before_an_environment_raised_is_saved(
    tmp_path, make, vectorization, caplog
):
    env = {"num_envs": 2, "vectorization": vectorization}
    fails = EnvConfig(factory=FaultEnv, kwargs={"raise_at": 150}, **env)
    with pytest.raises(TrainingFailed, match="FaultEnv raises at step 150"):
        fit(tmp_path, make(env=fails), Checkpoint(every_env_steps=10_000))
    assert names(tmp_path) == ["emergency.ckpt"]
    assert f"lightning-rl resume {folder(tmp_path)}/emergency.ckpt" in caplog.text
    works = make(env=EnvConfig(factory=FaultEnv, **env))
    fit(tmp_path / "again", works, ckpt_path=str(folder(tmp_path) / "emergency.ckpt"))
    assert works.env_steps >= works.total_env_steps
    assert works.snapshot_level == "exact"
    with pytest.raises(CheckpointError, match=r"but emergency\.ckpt, which is taken only when it"):
        newest_good_checkpoint(folder(tmp_path))


# Replay segments.


def segments(tmp_path):
    return {path.name for path in (folder(tmp_path) / "replay").glob("*.segment")}


def test_segments_that_no_checkpoint_lists_are_removed(tmp_path):
    fit(tmp_path, dqn(), Checkpoint(keep=1))
    listed = {
        s["file"] for s in load_sealed(folder(tmp_path) / "last.ckpt")["volatile"]["segments"]
    }
    assert segments(tmp_path) == listed
    starts = sorted(int(name.split("-")[0]) for name in listed)
    assert starts == [300, 350, 400, 450]


def test_a_segment_stays_as_long_as_a_best_checkpoint_lists_it(tmp_path):
    scores = Scores(9.0, 1.0, 1.0, 1.0, 1.0)
    fit(tmp_path, dqn(), scores, Checkpoint(keep=1, monitor="score"), eval_every_env_steps=100)
    best = load_sealed(folder(tmp_path) / "best.ckpt")
    assert {s["file"] for s in best["volatile"]["segments"]} <= segments(tmp_path)
    assert best["lightning_rl"]["env_steps"] == 100


def test_a_damaged_older_checkpoint_does_not_stop_the_resumed_run(tmp_path):
    fit(tmp_path, dqn(total_env_steps=300))
    damaged = folder(tmp_path) / "env_steps=240.ckpt"
    damaged = damaged if damaged.exists() else sorted(folder(tmp_path).glob("env_steps=*"))[0]
    damaged.write_bytes(damaged.read_bytes()[:1_000])
    (folder(tmp_path) / "best.ckpt").symlink_to("gone.ckpt")
    fit(tmp_path, dqn(), ckpt_path="last")
    assert env_steps(folder(tmp_path) / "last.ckpt") == 500


def test_its_state_is_the_ranking(tmp_path):
    checkpoint = Checkpoint()
    checkpoint.best = [(5.0, 64), (3.0, 32)]
    other = Checkpoint()
    other.load_state_dict(checkpoint.state_dict())
    assert other.best == [(5.0, 64), (3.0, 32)]
    assert checkpoint.directory(type("T", (), {"run_dir": Path("a"), "default_root_dir": "b"})) == (
        Path("a/checkpoints")
    )
