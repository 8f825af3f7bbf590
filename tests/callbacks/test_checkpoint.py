import os
from pathlib import Path

import pytest

from lightning_rl import EnvConfig
from lightning_rl.callbacks import Callback, Checkpoint
from lightning_rl.envs.probes import FaultEnv
from lightning_rl.errors import CheckpointError, ConfigError, TrainingFailed
from lightning_rl.storage.sealed import load_sealed
from lightning_rl.storage.segments import newest_good_checkpoint
from tests.callbacks.small_runs import dqn, env_steps, fit, folder, names, ppo
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
