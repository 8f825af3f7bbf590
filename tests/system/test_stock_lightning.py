"""Agents in a plain `lightning.Trainer`, with Lightning's own callbacks and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_rl import DQN, PPO
from lightning_rl.algorithms import Algorithm
from lightning_rl.errors import ConfigError
from lightning_rl.storage.sealed import load_sealed, verify_seal

pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def ppo(env_steps: int = 640, **settings: Any) -> PPO:
    defaults = {"seed": 1, "num_steps": 64, "minibatch_size": 64, "compile": False}
    return PPO("CartPole-v1", total_env_steps=env_steps, **{**defaults, **settings})


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    defaults = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "default_root_dir": str(folder),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 2,
        "val_check_interval": 5,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 3,
        "logger": CSVLogger(folder),
    }
    return pl.Trainer(**{**defaults, **settings})


def test_with_no_settings_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what Lightning itself does differently from our Trainer remains."""
    monkeypatch.chdir(tmp_path)
    agent = PPO("CartPole-v1", total_env_steps=2_000, seed=1)
    pl.Trainer(accelerator="cpu", enable_progress_bar=False).fit(agent)
    assert agent.env_steps == 2_048
    (saved,) = tmp_path.rglob("*.ckpt")
    verify_seal(saved)
    again = PPO.load_from_checkpoint(saved)
    observation = [0.01, 0.2, -0.03, 0.1]
    assert again.predict(observation) == agent.predict(observation)


@pytest.mark.parametrize("make", [ppo, lambda: DQN("CartPole-v1", total_env_steps=2_000, seed=1)])
def test_fast_dev_run_is_one_unit_and_one_evaluation(make: Any, tmp_path: Path) -> None:
    agent = make()
    trainer(tmp_path, fast_dev_run=True, max_epochs=None).fit(agent)
    assert agent.iteration == 1
    assert len(agent.evaluation["rewards"]) == 1
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_fast_dev_run_of_three(tmp_path: Path) -> None:
    agent = ppo()
    trainer(tmp_path, fast_dev_run=3, max_epochs=None).fit(agent)
    assert (agent.iteration, len(agent.evaluation["rewards"])) == (3, 3)


def test_limit_val_batches(tmp_path: Path) -> None:
    agent = ppo()
    trainer(tmp_path / "two", limit_val_batches=2).fit(agent)
    assert len(agent.evaluation["rewards"]) == 2
    agent = ppo()
    trainer(tmp_path / "none", limit_val_batches=0).fit(agent)
    assert agent.evaluation == {}


def test_max_steps_counts_units(tmp_path: Path) -> None:
    agent = ppo()
    fitted = trainer(tmp_path, max_steps=4)
    fitted.fit(agent)
    assert (agent.iteration, fitted.global_step, agent.env_steps) == (4, 4, 256)


def test_max_time(tmp_path: Path) -> None:
    agent = ppo(10_000_000)
    trainer(tmp_path, max_time={"seconds": 1}, val_check_interval=1_000).fit(agent)
    assert 0 < agent.env_steps < 10_000_000


def test_simple_profiler(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, profiler="simple").fit(ppo())
    assert "run_training_batch" in caplog.text


def test_bf16_mixed(tmp_path: Path) -> None:
    """Weights stay float32, and the first ratio is 1: acting and learning agree."""
    agent = ppo(update_epochs=1, minibatch_size=64, learning_rate=1e-5)
    fitted = trainer(tmp_path, precision="bf16-mixed", log_every_n_steps=1)
    fitted.fit(agent)
    assert {parameter.dtype for parameter in agent.parameters()} == {torch.float32}
    assert float(fitted.callback_metrics["train/approx_kl"]) == pytest.approx(0.0, abs=1e-6)
    assert float(fitted.callback_metrics["train/clip_fraction"]) == 0.0


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_other_precisions_are_refused(precision: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"bf16-mixed.*received '{precision}'"):
        trainer(tmp_path, precision=precision).fit(ppo())


def test_16_mixed_on_a_cpu_is_bf16_mixed_and_lightning_says_so(tmp_path: Path) -> None:
    """It replaces the precision before an agent can see it."""
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU. Using .*bf16-mixed"):
        fitted = trainer(tmp_path, precision="16-mixed")
    fitted.fit(ppo(128))
    assert fitted.precision == "bf16-mixed"


def test_early_stopping(tmp_path: Path) -> None:
    stop = EarlyStopping("eval/mean_reward", mode="max", patience=1, min_delta=1e6)
    agent = ppo(6_400)
    trainer(tmp_path, callbacks=[stop], val_check_interval=2).fit(agent)
    assert agent.env_steps == 2 * 2 * 64


def test_model_checkpoint_keeps_the_best_and_resumes(tmp_path: Path) -> None:
    save = ModelCheckpoint(
        tmp_path / "kept",
        "{step}",
        monitor="eval/mean_reward",
        mode="max",
        save_top_k=2,
        save_last=True,
    )
    agent = ppo()
    trainer(tmp_path, callbacks=[save], val_check_interval=2).fit(agent)
    assert len(list((tmp_path / "kept").glob("step=*"))) == 2
    assert float(save.best_model_score) >= agent.evaluation["mean_reward"]
    best = load_sealed(Path(save.best_model_path))
    assert best["lightning_rl"]["class_path"] == "lightning_rl.algorithms.ppo.PPO"
    assert isinstance(Algorithm.load_from_checkpoint(save.best_model_path), PPO)
    longer = ppo(960)
    trainer(tmp_path, val_check_interval=2).fit(longer, ckpt_path=save.last_model_path)
    assert longer.env_steps == 960


def test_a_stock_trainer_resumes_exactly(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path / "kept", "{step}", monitor="eval/mean_reward", save_top_k=-1)
    whole = ppo()
    trainer(tmp_path / "whole", callbacks=[save], val_check_interval=2).fit(whole)
    (middle,) = (tmp_path / "kept").glob("step=4*")
    resumed = ppo()
    trainer(tmp_path / "resumed", val_check_interval=2).fit(resumed, ckpt_path=str(middle))
    assert resumed.evaluation == whole.evaluation
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(resumed.state_dict()[name]), name


def test_learning_rate_monitor(tmp_path: Path) -> None:
    """It shows nothing without schedulers; the rate is in our own metrics."""
    fitted = trainer(tmp_path, callbacks=[LearningRateMonitor()], log_every_n_steps=1)
    fitted.fit(ppo(learning_rate_schedule="linear"))
    assert float(fitted.callback_metrics["train/learning_rate"]) == pytest.approx(2.5e-5)


def test_fit_twice_continues(tmp_path: Path) -> None:
    """A second fit of the same agent has nothing left of its budget to spend."""
    agent = ppo()
    trainer(tmp_path / "a").fit(agent)
    steps = agent.gradient_steps
    trainer(tmp_path / "b").fit(agent)
    assert (agent.env_steps, agent.gradient_steps) == (640, steps)


def test_fit_after_max_steps_goes_on_where_it_stood(tmp_path: Path) -> None:
    agent = ppo()
    trainer(tmp_path / "a", max_steps=4).fit(agent)
    trainer(tmp_path / "b").fit(agent)
    assert (agent.env_steps, agent.iteration) == (640, 10)


def test_validate_test_and_predict(tmp_path: Path) -> None:
    agent = ppo()
    fitted = trainer(tmp_path, limit_test_batches=4, limit_predict_batches=2)
    fitted.fit(agent)
    last = agent.evaluation
    fitted.validate(agent, verbose=False)
    assert agent.evaluation == last  # the same episodes, the same policy
    assert float(fitted.callback_metrics["eval/mean_reward"]) == pytest.approx(last["mean_reward"])
    fitted.test(agent, verbose=False)
    assert len(agent.evaluation["rewards"]) == 4
    assert agent.evaluation["rewards"][:3] != last["rewards"]
    episodes: Any = fitted.predict(agent)
    assert [episode["reward"] for episode in episodes] == last["rewards"][:2]
    assert agent.env_steps == 640
