"""The base of algorithms: arguments, settings of the trainer, and an algorithm of one's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_rl import trust
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.algorithms.ppo import PPO
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.errors import CheckpointError, ConfigError, Interrupted
from lightning_rl.runs.trainer import Trainer

Fit = Callable[..., pl.Trainer]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_algorithm.py"
TINY: dict[str, Any] = {"num_steps": 16, "minibatch_size": 32, "compile": False, "seed": 1}


def weights(agent: Algorithm) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.parameters()])


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the example as a user's own, trusted module."""
    spec = importlib.util.spec_from_file_location("own_algorithm", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_algorithm", module)
    monkeypatch.setattr(trust, "_trusted", ["own_algorithm"])
    spec.loader.exec_module(module)
    return module


def test_an_algorithm_from_outside_trains_saves_and_loads(
    example: ModuleType, fit: Fit, tmp_path: Path
):
    agent = example.A2C({"id": "CartPole-v1", "num_envs": 4}, 256)
    first, path = weights(agent), tmp_path / "a.ckpt"
    rows = []
    note = lambda trainer, agent, metrics, at: rows.append((at, metrics["train/loss"]))  # noqa: E731
    fit(agent, callbacks=[EventCallback(on_metrics=note)]).save_checkpoint(path)
    assert [at for at, _ in rows] == [64, 128, 192, 256]
    assert not torch.equal(weights(agent), first)
    for cls in (Algorithm, example.A2C):
        loaded = cls.load_from_checkpoint(path)
        assert type(loaded) is example.A2C
        assert torch.equal(weights(loaded), weights(agent))
        assert loaded.predict([0.0] * 4) == agent.predict([0.0] * 4)
    # Only what its constructor takes is stored.
    assert set(agent.hyperparameters) == {"env", "total_env_steps"}


def test_its_resumed_run_equals_one_that_was_not_stopped(
    example: ModuleType, fit: Fit, tmp_path: Path
):
    path = tmp_path / "a.ckpt"
    fit(example.A2C("CartPole-v1", 32)).save_checkpoint(path)
    resumed, straight = example.A2C("CartPole-v1", 64), example.A2C("CartPole-v1", 64)
    fit(resumed, ckpt_path=str(path))
    fit(straight)
    assert torch.equal(weights(resumed), weights(straight))


def test_a_class_that_is_not_trusted_is_not_loaded(
    example: ModuleType, fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.ckpt"
    fit(example.A2C("CartPole-v1", 16)).save_checkpoint(path)
    monkeypatch.setattr(trust, "_trusted", [])
    with pytest.raises(ConfigError, match=r"own_algorithm.A2C.*--trust own_algorithm"):
        Algorithm.load_from_checkpoint(path)


def test_an_algorithm_that_forgets_a_part_says_which():
    class Half(Algorithm):
        def __init__(self, env: Any = "CartPole-v1") -> None:
            super().__init__(env)

    agent = Half()
    assert agent.total_env_steps == 100_000
    with pytest.raises(ConfigError, match="unknown environment"):
        Half("CartPole-v9")


def test_arguments_are_recorded_as_given_and_by_default():
    agent = PPO("CartPole-v1", 64, seed=5, gamma=0.5, **{"num_steps": 8, "compile": False})
    stored = agent.hyperparameters
    assert (stored["gamma"], stored["num_steps"], stored["seed"]) == (0.5, 8, 5)
    assert (stored["clip_coef"], stored["hidden_sizes"]) == (0.2, [64, 64])
    assert stored["env"] == {"id": "CartPole-v1"}
    assert stored["schedule_env_steps"] == 64
    assert agent.class_path == "lightning_rl.algorithms.ppo.PPO"


def test_what_no_checkpoint_could_hold_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"argument 'actor'.*cannot be stored in a checkpoint"):
        PPO("CartPole-v1", actor=torch.nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="argument 'gamma'"):
        PPO("CartPole-v1", gamma=torch.tensor(0.5))


def test_an_unknown_argument_is_python_s_own_error():
    with pytest.raises(TypeError, match="gama"):
        PPO("CartPole-v1", gama=0.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "bf16-true"}, "expected precision among .*received 'bf16-true'"),
        ({"precision": "64-true"}, "received '64-true'"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_settings_that_cannot_work_are_refused(fit: Fit, settings: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        fit(PPO("CartPole-v1", 32, **TINY), **settings)


@pytest.mark.filterwarnings("ignore")
def test_a_spawning_strategy_is_refused_before_it_starts_processes():
    trainer = Trainer(accelerator="cpu", strategy="ddp_spawn", devices=2)
    with pytest.raises(ConfigError, match="use strategy: ddp"):
        trainer.fit(PPO("CartPole-v1", 32, **TINY))


def test_acting_and_learning_agree_under_bf16(fit: Fit):
    rows = []
    note = lambda trainer, agent, metrics, at: rows.append(metrics)  # noqa: E731
    agent = PPO("CartPole-v1", 32, **{**TINY, "update_epochs": 1, "minibatch_size": 1_000})
    fit(agent, precision="bf16-mixed", callbacks=[EventCallback(on_metrics=note)])
    assert abs(rows[0]["train/approx_kl"]) < 1e-6
    assert all(p.dtype is torch.float32 for p in agent.parameters())


def test_max_steps_counts_units(fit: Fit):
    agent = PPO("CartPole-v1", 320, **TINY)
    trainer = fit(agent, max_steps=3)
    assert (agent.iteration, agent.env_steps, trainer.global_step) == (3, 48, 3)


def test_a_request_to_stop_ends_the_run_between_two_steps(fit: Fit):
    agent, saved = PPO("CartPole-v1", 320, **TINY), []

    def request(trainer: Any, agent: Any, statistics: Any) -> None:
        if agent.iteration == 2:
            agent.stop_requested = 15

    watch = EventCallback(
        on_iteration_end=request, on_stop=lambda trainer, agent: saved.append(agent.env_steps)
    )
    with pytest.raises(Interrupted) as caught:
        fit(agent, callbacks=[watch])
    assert caught.value.code == 143
    assert saved == [32]


def test_a_plain_checkpoint_of_lightning_is_refused(tmp_path: Path):
    path = tmp_path / "plain.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError):
        PPO.load_from_checkpoint(path)


def test_an_agent_can_be_trained_twice(fit: Fit):
    """A second `fit` of a finished agent changes nothing; with a larger budget it goes on."""
    agent = PPO("CartPole-v1", 32, **TINY)
    fit(agent)
    first = weights(agent)
    fit(agent)
    assert agent.env_steps == 32
    assert torch.equal(weights(agent), first)


def test_an_agent_from_a_checkpoint_acts_in_evaluation_mode_and_trains_in_training_mode(
    fit: Fit, tmp_path: Path
):
    path = tmp_path / "a.ckpt"
    fit(PPO("CartPole-v1", 16, **TINY)).save_checkpoint(path)
    agent = PPO.load_from_checkpoint(path, total_env_steps=32)
    assert not agent.network.training
    modes = []
    watch = EventCallback(
        on_update_start=lambda trainer, agent: modes.append(agent.network.training)
    )
    fit(agent, ckpt_path=str(path), callbacks=[watch])
    assert modes == [True]


@pytest.mark.gpu
def test_training_evaluating_and_acting_on_a_gpu(fit: Fit):
    agent = PPO("CartPole-v1", 64, **TINY)
    trainer = fit(
        agent,
        accelerator="gpu",
        devices=1,
        limit_val_batches=2,
        val_check_interval=1,
        check_val_every_n_epoch=None,
    )
    assert "eval/mean_reward" in trainer.callback_metrics
    agent.to("cuda")
    assert agent.predict([0.0] * 4) in (0, 1)
