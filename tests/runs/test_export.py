"""Exported policies: what is inside the files, what is checked, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import lightning_rl.envs.probes  # noqa: F401  registers the probe environments
from lightning_rl import DQN, PPO
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.errors import CheckpointError, ConfigError
from lightning_rl.functional.trees import tree_items
from lightning_rl.networks.greedy import GreedyPolicy
from lightning_rl.runs import export
from lightning_rl.runs.export import export_policy
from lightning_rl.runs.export_check import trial_observations


def small(observation: str = "box", action: str = "discrete", **env: Any) -> PPO:
    kwargs = {"observation": observation, "action": action}
    config = {"id": "LightningRL/ObservationAction-v0", "kwargs": kwargs, **env}
    return PPO(config, seed=1, hidden_sizes=(8,)).eval()


def run_program(path: Path, agent: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the agent's actions and the file's, on the same observations."""
    observation = trial_observations(agent.observation_space, rows, seed=3)
    leaves = [leaf for _, leaf in tree_items(observation)]
    found = torch.export.load(str(path)).module()(*leaves).numpy()
    expected = (
        agent.predict({k: v.numpy() for k, v in observation.items()})
        if isinstance(observation, dict)
        else agent.predict(observation.numpy())
    )
    return expected, found


@pytest.mark.parametrize(
    "observation", ["discrete", "multi_discrete", "multi_binary", "dict", "image"]
)
def test_every_kind_of_observation(observation: str, tmp_path: Path) -> None:
    agent = small(observation)
    result = export_policy(agent, tmp_path / "p.pt2", "torch", num_checks=64)
    expected, found = run_program(result.path, agent, 7)
    assert np.array_equal(found, expected)
    assert result.inputs == (("bit", "sign") if observation == "dict" else ("observation",))


@pytest.mark.parametrize("action", ["box", "multi_discrete", "multi_binary"])
def test_every_kind_of_action(action: str, tmp_path: Path) -> None:
    agent = small(action=action)
    result = export_policy(agent, tmp_path / "p.pt2", "torch", num_checks=64)
    expected, found = run_program(result.path, agent, 7)
    assert np.allclose(found, expected)
    assert found.dtype == expected.dtype
    assert agent.action_space.contains(found[0])


def test_an_onnx_file_normalises_rescales_and_describes_itself(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    env = {"id": "Pendulum-v1", "normalize_observation": True, "action": "rescale"}
    agent = PPO(env, seed=1, hidden_sizes=(8,), log_std_init=-1.0).eval()
    with torch.no_grad():
        agent.network.actor.layers[-1].weight.mul_(100.0)  # some actions reach the bounds
    agent.network.observation_normalizer.update(torch.randn(50, 3) * 3.0 + 1.0)
    result = export_policy(agent, tmp_path / "sub" / "policy.onnx")

    session = onnxruntime.InferenceSession(str(result.path))
    observation = (np.random.default_rng(0).normal(size=(100, 3)) * 5).astype(np.float32)
    (action,) = session.run(None, {"observation": observation})
    assert np.allclose(action, agent.predict(observation), atol=1e-5)
    assert np.abs(action).max() == 2.0
    assert np.unique(action).size > 10
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["algorithm"] == "PPO"
    assert metadata["environment"] == "Pendulum-v1"
    assert json.loads(metadata["action_space"])["high"] == 2.0
    assert [path.name for path in result.path.parent.iterdir()] == ["policy.onnx"]


def test_exporting_changes_nothing_in_the_agent(tmp_path: Path) -> None:
    agent = small()
    agent.train()
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    state = agent.streams.torch("action").get_state()
    export_policy(agent, tmp_path / "p.pt2", "torch", num_checks=16)
    assert agent.training
    assert agent.network.training
    assert all(parameter.requires_grad for parameter in agent.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())
    assert torch.equal(agent.streams.torch("action").get_state(), state)


class Remembering(nn.Module):
    """Acts by the sum of all it has seen."""

    state_shape = (1,)

    def forward(self, observation: torch.Tensor, state: torch.Tensor) -> Any:
        state = (state + observation).clamp(-1e3, 1e3)
        return (state.squeeze(-1) > 0).long(), state


def test_a_recurrent_policy_hands_its_state_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = small()
    monkeypatch.setattr(agent, "policy_module", Remembering)
    result = export_policy(agent, tmp_path / "p.pt2", "torch", num_checks=64)
    assert result.inputs == ("observation", "state")
    assert result.outputs == ("action", "next_state")
    module = torch.export.load(str(result.path)).module()
    state, actions = torch.zeros(1, 1), []
    for value in (0.5, -1.0, -1.0, 2.0):
        action, state = module(torch.tensor([[value]]), state)
        actions.append(int(action))
    assert actions == [1, 0, 0, 1]


# What must not pass.


def test_a_file_that_acts_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = small()
    monkeypatch.setattr(
        agent, "policy_module", lambda: GreedyPolicy(agent.network, lambda out: out[0].argmin(-1))
    )
    old = tmp_path / "p.pt2"
    old.write_text("the file before")
    with pytest.raises(CheckpointError, match=r"acts otherwise than the agent on \d+ of 64"):
        export_policy(agent, old, "torch", num_checks=64)
    assert old.read_text() == "the file before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_policy_that_torch_cannot_trace_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = small()
    select = lambda out: torch.from_numpy(out[0].numpy()).argmax(-1)  # noqa: E731
    monkeypatch.setattr(agent, "policy_module", lambda: GreedyPolicy(agent.network, select))
    with pytest.raises(CheckpointError, match="torch cannot export GreedyPolicy: ") as error:
        export_policy(agent, tmp_path / "p.pt2", "torch")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = DQN("CartPole-v1", seed=1)
    with pytest.raises(ConfigError, match="expected format among onnx, torch, received 'onx'"):
        export_policy(agent, tmp_path / "p", "onx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected a path ending in \.pt2"):
        export_policy(agent, tmp_path / "policy.bin", "torch")
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(ConfigError, match="cannot write"):
        export_policy(agent, blocked / "p.pt2", "torch")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx, onnxscript, onnxruntime: pip install"):
        export_policy(agent, tmp_path / "p.onnx")
    with pytest.raises(ConfigError, match="DQN defines no policy_module"):
        Algorithm.policy_module(agent)


# The observations that are tried.


def test_trial_observations_stay_in_their_space_and_reach_its_ends() -> None:
    box = spaces.Box(
        np.array([-1.0, -np.inf, 0.0]), np.array([2.0, np.inf, 1e30]), dtype=np.float64
    )
    rows = trial_observations(box, 1_000).numpy()
    assert rows.dtype == np.float32
    assert rows[:3].tolist() == [[0.0, 0.0, 0.0], [-1.0, -1e6, 0.0], [2.0, 1e6, 1e6]]
    assert (rows >= [-1.0, -1e6, 0.0]).all()
    assert (rows <= [2.0, 1e6, 1e6]).all()
    magnitude = np.abs(rows[:, 1])
    assert ((magnitude > 0) & (magnitude < 1)).any()
    discrete = trial_observations(spaces.Discrete(4, start=-2), 100).numpy()
    assert set(discrete) == {-2, -1, 0, 1}
    multi = trial_observations(spaces.MultiDiscrete([[2, 3]], start=[[1, 5]]), 100).numpy()
    assert set(multi[:, 0, 0]) == {1, 2}
    assert set(multi[:, 0, 1]) == {5, 6, 7}
    image = trial_observations(spaces.Box(0, 255, (2, 2, 1), np.uint8), 50).numpy()
    assert image.dtype == np.uint8
    assert image.min() == 0
    assert image.max() == 255
