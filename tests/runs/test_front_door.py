"""The Python front door with real, tiny runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import lightning_rl
from lightning_rl.algorithms.ppo import PPO
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.errors import ConfigError, Interrupted
from lightning_rl.runs.directory import RunConfig
from lightning_rl.runs.front_door import (
    make,
    run,
    run_training_and_execution,
)
from lightning_rl.runs.results import ExecutionConfig, RunResult
from lightning_rl.runs.trainer import Trainer

TINY = {
    "total_env_steps": 128,
    "num_steps": 64,
    "minibatch_size": 64,
    "update_epochs": 1,
    "compile": False,
    "seed": 3,
}
QUIET = {"enable_progress_bar": False, "logger": False, "eval_episodes": 2, "accelerator": "cpu"}


class Breaking(CartPoleEnv):
    """Fails in the hundredth step of any instance."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 100:
            raise ZeroDivisionError("the motor broke")
        return super().step(action)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record_of(result: RunResult) -> dict:
    return json.loads((Path(result.directory) / "run.json").read_text())


class TestMake:
    @pytest.mark.parametrize("name", ["ppo", "PPO", "lightning_rl.algorithms.ppo.PPO"])
    def test_names(self, name):
        agent = make(name, env="CartPole-v1", **{**TINY, "seed": 5})
        assert isinstance(agent, PPO)
        assert agent.seed == 5

    def test_unknown(self):
        with pytest.raises(ConfigError, match="unknown algorithm 'ppoo'; did you mean 'PPO'"):
            make("ppoo", env="CartPole-v1")
        with pytest.raises(ConfigError, match="not on the allow-list"):
            make("os.path.join")
        with pytest.raises(ConfigError, match="import path of an algorithm"):
            make("lightning_rl.envs.config.EnvConfig")

    def test_unknown_argument(self):
        with pytest.raises(ConfigError, match=r"PPO: .*'gama'"):
            make("ppo", env="CartPole-v1", gama=0.9)


class TestRun:
    def test_success_then_refusal_then_resume(self, here):
        place = RunConfig(experiment="e", name="r", description="d", tags=["t"])
        result = run(make("ppo", env="CartPole-v1", **TINY), run=place, trainer=QUIET)
        assert result.success
        assert result.environment == "CartPole-v1"
        assert result.algorithm == "PPO"
        assert result.seed == 3
        assert result.hyperparameters["num_steps"] == 64
        assert Path(result.directory) == Path("logs/e/r")
        assert Path(result.best_checkpoint).name == "best.ckpt"
        summary = json.loads((Path(result.directory) / "metrics.json").read_text())
        assert result.metrics == summary["training"]
        assert summary["training"]["env_steps"] == 128
        assert summary["best"]["eval/mean_reward"] > 0
        assert RunResult.from_json(result.to_json()) == result
        assert record_of(result)["status"] == "finished"
        assert record_of(result)["description"] == "d"

        again = run(make("ppo", env="CartPole-v1", **TINY), run=place, trainer=QUIET)
        assert not again.success
        assert "holds a run already" in again.error_message

        larger = make("ppo", env="CartPole-v1", **{**TINY, "total_env_steps": 192})
        resumed = run(larger, run=place, trainer=QUIET, resume=True)
        assert resumed.success, resumed.error_message
        steps = [(a["start_env_steps"], a["end_env_steps"]) for a in record_of(resumed)["attempts"]]
        assert steps == [(0, 128), (128, 192)]

    def test_failure_is_data(self, here):
        agent = make("ppo", env=Breaking, **TINY)
        result, execution = run_training_and_execution(
            agent, run={"experiment": "e", "name": "broken"}, trainer=QUIET
        )
        assert execution is None
        assert not result.success
        assert "the motor broke" in result.error_message
        assert "\n" not in result.error_message
        assert record_of(result)["status"] == "failed"
        assert record_of(result)["error"] == result.error_message
        text = (Path(result.directory) / "training.log").read_text()
        assert 'raise ZeroDivisionError("the motor broke")' in text

    def test_interruption_propagates(self, here):
        def stop(trainer, agent, statistics):
            raise Interrupted(15)

        callback = EventCallback(on_iteration_end=stop)
        agent = make("ppo", env="CartPole-v1", **TINY)
        with pytest.raises(Interrupted):
            run(agent, run={"name": "r"}, trainer={**QUIET, "callbacks": [callback]})
        found = json.loads(Path("logs/ppo-cartpole-v1/r/run.json").read_text())
        assert found["status"] == "interrupted"
        assert found["attempts"][0]["signal"] == "SIGTERM"

    def test_max_steps_is_a_stop(self, here):
        agent = make("ppo", env="CartPole-v1", **TINY)
        result = run(agent, run={"name": "r"}, trainer={**QUIET, "max_steps": 1})
        assert result.success
        assert record_of(result)["status"] == "stopped"
        assert record_of(result)["env_steps"] == 64

    def test_wrong_options(self, here):
        agent = make("ppo", env="CartPole-v1", **TINY)
        with pytest.raises(ConfigError, match=r"'run.nname'; did you mean 'name'"):
            run(agent, run={"nname": "x"})
        with pytest.raises(ConfigError, match=r"trainer: .*'max_step'"):
            run(agent, trainer={"max_step": 3})
        with pytest.raises(ConfigError, match=r"Trainer\(run="):
            run(agent, run={"name": "x"}, trainer=Trainer(**QUIET))
        assert list(here.iterdir()) == []


def test_train_and_execute(here):
    agent = make("ppo", env="CartPole-v1", **TINY)
    result, execution = run_training_and_execution(
        agent, ExecutionConfig(3, max_steps_per_episode=9), run={"name": "r"}, trainer=QUIET
    )
    assert result.success
    assert execution.total_episodes == 3
    assert max(execution.episode_lengths) <= 9


def test_exported_at_the_top():
    for name in ("make", "run", "evaluate_policy", "RunResult", "save_execution_results"):
        assert callable(getattr(lightning_rl, name))
