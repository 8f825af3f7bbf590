"""TD3 and DDPG: their losses in literal numbers, what learns when, and their noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_rl.algorithms.ddpg import DDPG, ddpg_losses
from lightning_rl.algorithms.td3 import TD3, td3_losses
from lightning_rl.cli.weights import load_weights
from lightning_rl.envs.config import EnvConfig
from lightning_rl.errors import ConfigError

Fit = Callable[..., Any]
SMALL: dict[str, Any] = {
    "hidden_sizes": (16,),
    "batch_size": 16,
    "learning_starts": 16,
    "env_steps_per_iteration": 32,
    "compile": False,
    "seed": 1,
}
EVERY = pytest.mark.parametrize("cls", [TD3, DDPG])
ZEROS = torch.zeros(2, 3)
MINIBATCH = {
    "observation": ZEROS,
    "next_observation": ZEROS,
    "action": torch.tensor([[0.5], [-0.5]]),
    "reward": torch.tensor([1.0, 2.0]),
    "terminated": torch.tensor([False, True]),
}


def critics(*offsets: float) -> Callable[..., Tensor]:
    """Critics that return the sum of the action plus an offset each."""
    return lambda observation, action, num_members=None: torch.stack(
        [action.sum(-1) + offset for offset in offsets[:num_members]]
    )


def always(value: float) -> Callable[[Tensor], Tensor]:
    """An actor whose output before `tanh` is `value`."""
    return lambda observation: torch.full((len(observation), 1), value)


def test_the_losses_of_td3_in_literal_numbers():
    noise = torch.tensor([[10.0], [0.0]])
    networks = critics(1.0, 2.0), always(0.0), critics(3.0, 4.0), always(float(np.arctanh(0.25)))
    arguments = {"gamma": 0.5, "target_noise": 0.2, "noise_clip": 0.5}
    (critic_loss, actor_loss), statistics = td3_losses(*networks, MINIBATCH, noise, **arguments)
    # Smoothing is 10 * 0.2, cut to 0.5: next action 0.75, least target 3.75; y = 1 + 1.875 and 2.
    errors = [(1.5 - 2.875) ** 2 + (0.5 - 2.0) ** 2, (2.5 - 2.875) ** 2 + (1.5 - 2.0) ** 2]
    assert critic_loss.item() == pytest.approx(sum(errors) / 4, abs=1e-5)
    assert actor_loss.item() == pytest.approx(-1.0)  # the first critic at action 0
    assert statistics.tolist() == pytest.approx([sum(errors) / 4, 1.5, -1.0], abs=1e-5)
    alone, statistics = td3_losses(*networks, MINIBATCH, noise, **arguments, with_actor=False)
    assert [loss.item() for loss in alone] == [critic_loss.item()]
    assert len(statistics) == 2


def test_the_smoothed_action_stays_in_bounds():
    networks = critics(0.0, 0.0), always(0.0), critics(0.0, 0.0), always(100.0)
    arguments = {"gamma": 1.0, "target_noise": 1.0, "noise_clip": 0.5}
    (loss, _), _ = td3_losses(*networks, MINIBATCH, torch.ones(2, 1), **arguments)
    # The target is 1 + 1 and 2, not 1 + 1.5.
    assert loss.item() == pytest.approx(2 * ((0.5 - 2) ** 2 + (-0.5 - 2) ** 2) / 4)


def test_the_losses_of_ddpg_in_literal_numbers():
    networks = critics(1.0), always(0.0), critics(3.0), always(float(np.arctanh(0.25)))
    (critic_loss, actor_loss), statistics = ddpg_losses(*networks, MINIBATCH, gamma=0.5)
    # The targets are 2.625 (half of 3.25, plus 1) and 2.
    expected = ((1.5 - 2.625) ** 2 + (0.5 - 2.0) ** 2) / 4
    assert critic_loss.item() == pytest.approx(expected, abs=1e-5)
    assert actor_loss.item() == pytest.approx(-1.0)
    assert statistics.tolist() == pytest.approx([expected, -1.0, 1.0], abs=1e-5)


@EVERY
def test_the_gradient_reaches_every_network_and_targets_only_follow(fit: Fit, cls: Any):
    agent = cls("Pendulum-v1", 32, **SMALL)
    before = {name: (id(p), p.detach().clone()) for name, p in agent.named_parameters()}
    fit(agent)
    for name, parameter in agent.named_parameters():
        identity, old = before[name]
        assert id(parameter) == identity, name
        assert type(parameter) is nn.Parameter, name
        assert not torch.equal(parameter, old), name
        assert parameter.requires_grad is not name.startswith("target_")
    # Seventeen steps at tau 0.005 leave the targets near where they began.
    for name in ("actor", "critic"):
        online, target = (list(getattr(agent, x).parameters()) for x in (name, f"target_{name}"))
        start = [before[f"{name}.{key}"][1] for key, _ in getattr(agent, name).named_parameters()]
        moved = sum((a - b).abs().sum() for a, b in zip(online, start, strict=True))
        followed = sum((a - b).abs().sum() for a, b in zip(target, start, strict=True))
        assert 0 < followed < 0.2 * moved


def test_actor_and_targets_move_at_every_policy_delay_th_gradient_step(fit: Fit):
    seen: list[tuple[Tensor, ...]] = []

    class Watched(TD3):
        def apply_gradients(self, parameters: Any, gradients: Any) -> None:
            flats = (*self.flats, *self.flat_targets)
            seen.append(tuple(flat.flat.detach().clone() for flat in flats))
            super().apply_gradients(parameters, gradients)

    agent = Watched("Pendulum-v1", 32, policy_delay=3, **SMALL)
    fit(agent)
    moves = [
        [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        for before, after in pairwise(seen)
    ]
    due = [False, False, True]
    assert moves == [[True, due[n % 3], due[n % 3], due[n % 3]] for n in range(len(moves))]
    assert agent.gradient_steps == 17


@EVERY
@pytest.mark.parametrize("noise", ["gaussian", "ornstein_uhlenbeck"])
def test_exploration_is_the_actor_s_action_plus_noise(fit: Fit, cls: Any, noise: str):
    arguments = {**SMALL, "learning_starts": 0, "learning_rate": 0.0, "noise": noise}
    agent = cls("Pendulum-v1", 512, exploration_noise=0.05, **arguments)
    fit(agent)
    replay, rows = agent.state.replay, np.arange(512)
    observation, action = (replay.take(name, rows) for name in ("observation", "action"))
    added = action.numpy() - agent.act(observation)
    correlation = np.corrcoef(added[:-1, 0], added[1:, 0])[0, 1]
    if noise == "gaussian":
        assert added.std() == pytest.approx(0.05, rel=0.15)
        assert abs(correlation) < 0.15
    else:
        assert correlation > 0.9
        assert torch.allclose(agent.streams.last_noise, torch.from_numpy(added[-1:]), atol=1e-5)


@EVERY
def test_a_run_with_correlated_noise_resumes_exactly(fit: Fit, cls: Any, tmp_path: Any):
    arguments = {**SMALL, "noise": "ornstein_uhlenbeck", "schedule_env_steps": 64}
    path = tmp_path / "a.ckpt"
    fit(cls("Pendulum-v1", 64, **arguments)).save_checkpoint(path)
    resumed, straight = (cls("Pendulum-v1", 128, **arguments) for _ in range(2))
    fit(resumed, ckpt_path=str(path))
    fit(straight)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@EVERY
def test_weights_are_not_tied_to_a_number_of_environments(fit: Fit, cls: Any, tmp_path: Any):
    arguments = {**SMALL, "noise": "ornstein_uhlenbeck"}
    one, two = (EnvConfig("Pendulum-v1", num_envs=n, normalize_reward=True) for n in (1, 2))
    first, path = cls(one, 64, **arguments), tmp_path / "a.ckpt"
    fit(first).save_checkpoint(path)
    agent = cls.load_from_checkpoint(path, env=two, total_env_steps=128)
    assert torch.equal(agent.reward_normalizer.discounted_return, torch.zeros(2))
    assert torch.equal(agent.reward_normalizer.moments.mean, first.reward_normalizer.moments.mean)
    fit(agent)
    assert agent.streams.last_noise.shape == (2, 1)
    load_weights(cls(two, 128, **arguments), path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy_delay": 0}, "expected policy_delay to be at least 1, received 0"),
        ({"target_noise": -1.0}, "expected target_noise"),
        ({"noise_clip": -1.0}, "expected noise_clip"),
        ({"noise": "gausian"}, "did you mean 'gaussian'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        TD3("Pendulum-v1", **arguments)
