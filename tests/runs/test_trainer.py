import json
import logging

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_rl import DQN, PPO, Trainer
from lightning_rl.callbacks import Checkpoint, EpisodeStatistics, GracefulStop, ProgressBar
from lightning_rl.errors import CheckpointError, ConfigError
from lightning_rl.loggers import CSVMetrics, SQLiteLogger, read_metrics


def agent(**settings):
    defaults = {"total_env_steps": 320, "seed": 1, "num_steps": 32, "minibatch_size": 32}
    return PPO(**{"env": "CartPole-v1", **defaults, **settings})


def trainer(tmp_path, name="r", **settings):
    defaults = {"logger": False, "enable_progress_bar": False, "eval_episodes": 2}
    run = {"root": str(tmp_path), "experiment": "e", "name": name}
    return Trainer(**{"run": run, "accelerator": "cpu", **defaults, **settings})


def evaluated_at(fitted):
    rows = read_metrics(fitted.run_dir / "metrics.csv")
    return [row["step"] for row in rows if "eval/mean_reward" in row]


# Evaluations.


def test_ten_evaluations_by_default(tmp_path):
    fitted = trainer(tmp_path)
    fitted.fit(agent())
    assert evaluated_at(fitted) == [32 * number for number in range(1, 11)]


@pytest.mark.parametrize(
    ("every", "expected"), [(100, [96, 192, 288]), (64, [64, 128, 192, 256, 320]), (1, 10), (0, [])]
)
def test_evaluations_are_rounded_to_whole_units(tmp_path, every, expected):
    fitted = trainer(tmp_path, eval_every_env_steps=every)
    fitted.fit(agent())
    steps = evaluated_at(fitted)
    assert steps == expected or len(steps) == expected


def test_lightnings_own_interval_goes_before(tmp_path):
    fitted = trainer(tmp_path, val_check_interval=4, check_val_every_n_epoch=None)
    fitted.fit(agent())
    assert evaluated_at(fitted) == [128, 256]


def test_a_budget_in_episodes_is_evaluated_by_env_steps_as_well(tmp_path):
    fitted = trainer(tmp_path, eval_every_env_steps=64)
    fitted.fit(agent(total_env_steps=None, total_episodes=12))
    assert fitted.lightning_module.episodes >= 12
    assert evaluated_at(fitted)[:2] == [64, 128]


def test_a_resumed_run_keeps_the_rhythm_and_the_schedule_of_the_first(tmp_path):
    trainer(tmp_path).fit(agent())
    longer = agent(total_env_steps=640)
    fitted = trainer(tmp_path)
    fitted.fit(longer, ckpt_path="last")
    assert longer.schedule_env_steps == 320
    assert evaluated_at(fitted) == [32 * number for number in range(1, 21)]


def test_a_resumed_run_keeps_a_drawn_seed_and_the_compile_decision(tmp_path):
    first = agent(seed=None)
    trainer(tmp_path).fit(first)
    second = agent(seed=None, total_env_steps=640)
    second.compiled = True  # as `auto` could decide for a larger budget
    trainer(tmp_path).fit(second, ckpt_path="last")
    assert (second.seed, second.compiled) == (first.seed, False)
    explicit = agent(seed=None, total_env_steps=640, schedule_env_steps=640)
    trainer(tmp_path, "other").fit(explicit, ckpt_path=str(tmp_path / "e/r/checkpoints/best.ckpt"))
    assert explicit.schedule_env_steps == 640


# Callbacks and loggers.


def test_a_callback_of_the_same_class_replaces_the_default(tmp_path):
    own = Checkpoint(keep=1)
    made = trainer(tmp_path, callbacks=own, enable_progress_bar=True)
    assert [item for item in made.callbacks if isinstance(item, Checkpoint)] == [own]
    for kind in (EpisodeStatistics, GracefulStop, ProgressBar):
        assert sum(isinstance(item, kind) for item in made.callbacks) == 1


def test_without_checkpoints(tmp_path):
    fitted = trainer(tmp_path, enable_checkpointing=False)
    fitted.fit(agent())
    assert not list(fitted.run_dir.rglob("*.ckpt"))


def test_loggers_are_added_to_ours(tmp_path):
    own = CSVLogger(tmp_path / "own")
    fitted = trainer(tmp_path, logger=own)
    fitted.fit(agent())
    assert [type(item) for item in fitted.loggers] == [CSVLogger, CSVMetrics, SQLiteLogger]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_on_request(tmp_path):
    fitted = trainer(tmp_path, logger=True)
    fitted.fit(agent())
    assert list(fitted.run_dir.glob("events.out.tfevents.*"))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"barebones": True}])
def test_a_trial_leaves_nothing(tmp_path, settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "barebones" in settings:
        settings = {**settings, "logger": None, "enable_progress_bar": None}
        settings |= {"log_every_n_steps": None, "enable_model_summary": None}
        settings |= {"num_sanity_val_steps": None}
    fitted = trainer(tmp_path, **settings)
    fitted.fit(agent())
    assert fitted.run_dir is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"eval_every_env_steps": -1}, {"eval_episodes": 0}, {"test_episodes": 0}]
)
def test_wrong_settings_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        trainer(tmp_path, **wrong)


# Run directories.


def test_a_second_fit_of_the_trainer_has_a_record_of_its_own(tmp_path):
    made = Trainer(
        run={"root": str(tmp_path)}, accelerator="cpu", logger=False, enable_progress_bar=False
    )
    made.fit(agent())
    first = made.run_dir
    made.fit(agent())
    assert made.run_dir != first
    assert len(read_metrics(first / "metrics.csv")) == len(
        read_metrics(made.run_dir / "metrics.csv")
    )
    assert json.loads((made.run_dir / "run.json").read_text())["status"] == "finished"


def test_a_finished_run_is_not_overwritten(tmp_path):
    trainer(tmp_path).fit(agent())
    with pytest.raises(ConfigError, match="holds a run already"):
        trainer(tmp_path).fit(agent())


def test_what_a_killed_writer_left_is_removed(tmp_path):
    trainer(tmp_path).fit(agent())
    leftover = tmp_path / "e" / "r" / "checkpoints" / ".tmp-0123"
    leftover.write_bytes(b"half a checkpoint")
    trainer(tmp_path).fit(agent(total_env_steps=352), ckpt_path="last")
    assert not leftover.exists()


# Resuming.


def test_resuming_what_never_ran_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run to continue"):
        trainer(tmp_path).fit(agent(), ckpt_path="last")


def test_the_best_checkpoint_can_be_continued(tmp_path):
    trainer(tmp_path).fit(agent())
    fitted = trainer(tmp_path)
    fitted.fit(agent(), ckpt_path="best")
    record = json.loads((fitted.run_dir / "run.json").read_text())
    starts = [attempt["start_env_steps"] for attempt in record["attempts"]]
    best = max(
        (row for row in read_metrics(fitted.run_dir / "metrics.csv") if "eval/mean_reward" in row),
        key=lambda row: row["eval/mean_reward"],
    )
    assert starts[0] == 0
    assert starts[1] <= best["step"]
    assert fitted.lightning_module.env_steps == 320


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, caplog):
    trainer(tmp_path).fit(agent())
    newest = tmp_path / "e" / "r" / "checkpoints" / "env_steps=320.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING, "lightning_rl"):
        trainer(tmp_path).fit(agent(), ckpt_path="last")
    assert "last.ckpt is passed over" in caplog.text
    assert "using env_steps=288.ckpt" in caplog.text


def test_when_all_are_damaged_nothing_happens(tmp_path):
    trainer(tmp_path).fit(agent())
    for path in (tmp_path / "e" / "r" / "checkpoints").glob("env_steps=*"):
        path.write_bytes(b"nonsense")
    before = (tmp_path / "e" / "r" / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="nothing was changed"):
        trainer(tmp_path).fit(agent(), ckpt_path="last")
    assert (tmp_path / "e" / "r" / "run.json").read_bytes() == before


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    trainer(tmp_path).fit(agent())
    dqn = DQN("CartPole-v1", total_env_steps=1_000, seed=1)
    last = tmp_path / "e" / "r" / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="one of PPO, but DQN was asked for"):
        trainer(tmp_path, "other").fit(dqn, ckpt_path=str(last))
