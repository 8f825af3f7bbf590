"""Every exported algorithm as a policy and as a file: acting, checkpoints, networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from lightning_rl import algorithms
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.envs.probes import OBSERVATION_SPACES, CountEnv, ObservationActionEnv, show_bit
from lightning_rl.errors import CheckpointError, ConfigError
from lightning_rl.runs.export_check import trial_observations
from tests.algorithms.cases import NAMES

Fit = Callable[..., pl.Trainer]


class Nested(ObservationActionEnv):
    """An observation inside a Dict inside a Tuple."""

    def __init__(self, action: str = "discrete", observation: str = "box") -> None:
        super().__init__(observation, action)
        leaf = self.observation_space
        self.observation_space = spaces.Tuple((spaces.Dict({"a": spaces.Dict({"b": leaf})}), leaf))

    def _show(self) -> Any:
        sign = super()._show()
        return {"a": {"b": sign}}, sign


class LinearNetwork(nn.Module):
    """A network of somebody's own."""

    def __init__(self, input_size: int, output_size: int, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(input_size, output_size, bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer(features)


def weights(agent: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.parameters()])


def saved(fit: Fit, agent: Algorithm, path: Path) -> Path:
    fit(agent).save_checkpoint(path)
    return path


def primitive(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and primitive(item) for key, item in value.items())
    if isinstance(value, list):
        return all(primitive(item) for item in value)
    return type(value) in (bool, int, float, str, type(None))


# Acting.


def test_predict_takes_lists_arrays_and_batches(make: Any):
    agent = make()
    space, shape = agent.observation_space, agent.action_space.shape
    space.seed(0)
    observation = np.asarray(space.sample())
    one = agent.predict(observation.tolist())
    assert agent.action_space.contains(one)
    assert np.array_equal(one, agent.predict(observation.astype(np.float64)))  # Python's numbers
    for rows in (5, 1):
        batch = np.stack([observation] * rows)
        assert agent.predict(batch).shape == (rows, *shape)
    batch = [observation.tolist()] * 3
    assert np.allclose(agent.predict(batch), np.stack([one] * 3), atol=1e-5)


def test_predict_refuses_another_shape_and_names_both(make: Any):
    agent = make()
    shape = agent.observation_space.shape
    shown = str(shape).replace("(", r"\(").replace(")", r"\)")
    for wrong in (np.zeros((*shape, 3, 3)), np.zeros((2, 2, *shape))):
        with pytest.raises(ConfigError, match=f"shape {shown}, or a batch of them, received "):
            agent.predict(wrong)


@pytest.mark.parametrize("kind", sorted(OBSERVATION_SPACES))
def test_predict_takes_every_kind_of_observation(make: Any, fit: Fit, tmp_path: Path, kind: str):
    kwargs = {**make.case.probe, "observation": kind}
    env = {"id": "LightningRL/ObservationAction-v0", "kwargs": kwargs}
    if kind not in make.case.observations:
        with pytest.raises(ConfigError, match=r"expects an observation space of Discrete, Multi"):
            make(env)
        return
    agent = make(env, 32)
    path = saved(fit, agent, tmp_path / "a.ckpt")
    for one in (agent, type(agent).load_from_checkpoint(path)):
        assert one.action_space.contains(one.predict(show_bit(kind, 1)))


def test_nested_observations(make: Any, fit: Fit, tmp_path: Path):
    agent = make(partial(Nested, **make.case.probe), 32)
    loaded = type(agent).load_from_checkpoint(saved(fit, agent, tmp_path / "a.ckpt"))
    shape = agent.observation_space["1"].shape
    sign = np.ones(shape, dtype=np.float32)
    for one in (agent, loaded):
        assert one.action_space.contains(one.predict(({"a": {"b": sign}}, sign)))
        assert one.action_space.contains(one.predict({"0.a.b": sign, "1": sign}))
        batch = np.ones((3, *shape), dtype=np.float32)
        assert len(one.predict(({"a": {"b": batch}}, batch))) == 3
    with pytest.raises(ConfigError, match=r"entries \['0.a.b', '1'\], received ndarray"):
        agent.predict(sign)
    with pytest.raises(ConfigError, match=r"'0.a.b', '1'\], received one without \['1'\]"):
        agent.predict({"0.a.b": sign})


def test_actions_outside_of_training_are_deterministic_or_sampled(make: Any):
    agent = make()
    agent.observation_space.seed(0)
    observations = np.stack([agent.observation_space.sample()] * 200)
    assert np.ptp(agent.predict(observations), axis=0).max() < 1e-5
    drawn = agent.predict(observations, deterministic=False)
    assert len(np.unique(drawn, axis=0)) >= 2


# Checkpoints.


def test_a_checkpoint_is_a_policy_without_a_configuration(make: Any, fit: Fit, tmp_path: Path):
    env = {"id": make.case.env, "num_envs": 2}
    normalized = {"normalize_observation": True, "normalize_reward": True}
    agent = make(env if make.case.is_table else {**env, **normalized})
    path = saved(fit, agent, tmp_path / "a.ckpt")
    observations = trial_observations(agent.observation_space, 50).numpy()
    for cls in (type(agent), Algorithm):
        loaded = cls.load_from_checkpoint(path)
        assert type(loaded) is type(agent)
        assert loaded.hyperparameters == agent.hyperparameters
        assert (loaded.env_steps, loaded.iteration) == (96, 3)
        assert not loaded.training
        assert loaded.predict(observations).tolist() == agent.predict(observations).tolist()
        for key, value in agent.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[key]), key
    normalizers = [key for key in agent.state_dict() if "normalizer" in key and "count" in key]
    assert len(normalizers) >= 2 or make.case.is_table


def test_a_loaded_agent_can_be_tested_and_trained_on(make: Any, fit: Fit, tmp_path: Path):
    agent = make()
    path = saved(fit, agent, tmp_path / "a.ckpt")
    loaded = type(agent).load_from_checkpoint(path, total_env_steps=128)
    trainer = fit(loaded, ckpt_path=str(path))
    assert loaded.env_steps == 128
    again = saved(lambda agent: trainer, loaded, tmp_path / "b.ckpt")
    assert Algorithm.load_from_checkpoint(again).env_steps == 128


def test_a_loaded_agent_without_its_checkpoint_begins_a_run_of_its_own(
    make: Any, fit: Fit, tmp_path: Path
):
    agent = make()
    loaded = type(agent).load_from_checkpoint(saved(fit, agent, tmp_path / "a.ckpt"))
    begun = weights(loaded).clone()
    fit(loaded)
    names = ["env_steps", "iteration"]
    if make.case.gradient_steps is not None:  # else chance decides when a step is due
        names.append("gradient_steps")
    for name in names:
        assert getattr(loaded, name) == getattr(agent, name), name
    assert not torch.equal(weights(loaded), begun)


def test_hyperparameters_are_primitives(make: Any):
    network = {make.case.network: LinearNetwork} if make.case.network else {}
    agent = make(**network)
    assert primitive(agent.hyperparameters)
    # Algorithms that rescale actions say so there.
    env = {"action": "clip", **agent.hyperparameters["env"]}
    action = agent.env_config.action
    assert env == {"id": make.case.env, "num_envs": 2, "action": action}
    assert agent.hyperparameters["seed"] == 1
    again = type(agent)(**{**agent.hyperparameters, **network})
    assert again.hyperparameters == agent.hyperparameters


def test_another_class_is_refused_by_name(make: Any, fit: Fit, tmp_path: Path):
    agent = make()
    path = saved(fit, agent, tmp_path / "a.ckpt")
    for other in set(NAMES) - {type(agent).__name__}:
        with pytest.raises(CheckpointError, match=f"{type(agent).__name__}, but {other}"):
            getattr(algorithms, other).load_from_checkpoint(path)


def test_networks_that_do_not_fit_are_listed(make: Any, fit: Fit, tmp_path: Path):
    if "hidden_sizes" not in make().hyperparameters:
        return
    path = saved(fit, make(), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"do not fit.*\(.*\) in the checkpoint, \(.*\) here"):
        type(make()).load_from_checkpoint(path, hidden_sizes=(7,))


@pytest.mark.parametrize("as_lambda", [False, True])
def test_an_env_given_as_code_is_asked_for_only_when_needed(
    make: Any, fit: Fit, tmp_path: Path, as_lambda: bool
):
    factory: Any = partial(CountEnv, **make.case.probe)
    if as_lambda:
        factory = lambda: CountEnv(**make.case.probe)  # noqa: E731
    agent = make(factory)
    path = saved(fit, agent, tmp_path / "a.ckpt")
    assert "factory" in agent.hyperparameters["env"]
    loaded = type(agent).load_from_checkpoint(path)
    observation = np.full(agent.observation_space.shape, 3)
    assert np.array_equal(loaded.predict(observation), agent.predict(observation))
    trainer = pl.Trainer(
        logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(ConfigError, match="pass it as env="):
        trainer.test(loaded, verbose=False)
    trainer.test(type(agent).load_from_checkpoint(path, env=factory), verbose=False)


def test_an_environment_with_other_spaces_is_refused(
    make: Any, fit: Fit, tmp_path: Path, count_env: Any
):
    path = saved(fit, make(), tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"observation space.*but LightningRL/Count-v0 has"):
        type(make()).load_from_checkpoint(path, env=count_env)


# Environments and networks.


def test_unsupported_observations_are_refused_by_name(make: Any):
    class Text(CountEnv):
        def __init__(self) -> None:
            super().__init__(**{**make.case.probe, "observation": "box"})
            self.observation_space = spaces.Text(5)

    with pytest.raises(ConfigError, match=r"among Box, Discrete.*received Text"):
        make(Text)


def test_every_way_to_name_an_environment(make: Any):
    name = make.case.env
    for env in (name, {"id": name, "num_envs": 2}, lambda: gymnasium.make(name)):
        agent = make(env)
        assert agent.observation_space == gymnasium.make(name).observation_space
        assert agent.class_path.endswith(type(agent).__name__)


def test_networks_by_class_by_mapping_and_by_path(make: Any, fit: Fit, tmp_path: Path):
    argument = make.case.network
    if argument is None:
        return
    path_of_actor = "lightning_rl.networks.policies.MLPActor"
    shipped = {"class_path": path_of_actor, "init_args": {"hidden_sizes": [5]}}
    agent = make(**{argument: shipped})
    assert 5 in {p.shape[0] for p in agent.parameters() if p.dim() > 0}
    path = saved(fit, agent, tmp_path / "a.ckpt")
    assert torch.equal(weights(Algorithm.load_from_checkpoint(path)), weights(agent))
    assert make(**{argument: shipped}).hyperparameters[argument] == shipped

    by_path = make(**{argument: path_of_actor})
    assert torch.isfinite(weights(by_path)).all()
    by_class = make(**{argument: LinearNetwork})
    assert any(isinstance(module, LinearNetwork) for module in by_class.modules())
    fit(by_class)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("os.system", "not on the allow-list"),
        ({"class_path": "torch.nn.Linaer"}, "did you mean"),
        ({"class_path": "torch.nn.Linear", "init_args": {"out": 1}}, "out"),
        (lambda input_size, output_size: nn.Linear(input_size, output_size), "cannot be stored"),
        (nn.Linear(4, 2), "received Linear|cannot be stored"),
    ],
)
def test_networks_that_cannot_be_are_refused(make: Any, network: Any, message: str):
    if make.case.network is None:
        return
    with pytest.raises(ConfigError, match=message) as caught:
        make(**{make.case.network: network})
    assert "\n" not in str(caught.value)
