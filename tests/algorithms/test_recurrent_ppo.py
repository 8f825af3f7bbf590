"""RecurrentPPO: its loss, its memory in training, evaluation and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.algorithms.ppo import PPO, ppo_loss
from lightning_rl.algorithms.recurrent_ppo import RecurrentPPO, recurrent_ppo_loss
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.errors import ConfigError
from lightning_rl.experience.evaluation import EpisodePolicy
from lightning_rl.networks.distributions import make_action_head
from lightning_rl.networks.recurrent import RecurrentActorCritic

Fit = Callable[..., Any]
REMEMBER = {"id": "LightningRL/RememberBit-v0", "num_envs": 8, "kwargs": {"delay": 3}}
QUICK: dict[str, Any] = {
    "num_steps": 40,
    "minibatch_size": 80,
    "sequence_length": 20,
    "hidden_size": 16,
    "hidden_sizes": (16,),
    "learning_rate": 1e-2,
    "gamma": 0.9,
    "seed": 1,
}


def mean_return(agent: Any, episodes: int = 20) -> float:
    source = agent.env_config.make()
    total = 0.0
    for seed in range(episodes):
        observation, _ = source.reset(seed=seed)
        state, ended = None, False
        while not ended:
            action, state = agent.predict_with_state(observation, state)
            observation, reward, terminated, truncated, _ = source.step(action)
            total += reward
            ended = terminated or truncated
    return total / episodes


# The loss.


def test_padding_does_not_count() -> None:
    """Sequences of two and one steps cost what PPO's loss says of their three steps."""
    torch.manual_seed(0)
    network = RecurrentActorCritic(
        spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Discrete(2), "gru", 4
    )
    head = make_action_head(spaces.Discrete(2))
    mask = torch.tensor([[True, True], [True, False]])
    minibatch: dict[str, Any] = {
        "observation": torch.randn(2, 2, 3),
        "action": torch.tensor([[0, 1], [1, 0]]),
        **{name: torch.randn(2, 2) for name in ("log_prob", "advantage", "value", "return")},
        "mask": mask,
        "state": torch.randn(2, 4),
    }
    coefficients = torch.tensor([0.2, 0.5, 0.01])
    found, statistics = recurrent_ppo_loss(network, minibatch, coefficients, head, True)
    outputs = network.sequence(minibatch["observation"], minibatch["state"])
    names = ("observation", "action", "log_prob", "advantage", "value", "return")
    rows = {name: minibatch[name][mask] for name in names}
    expected, others = ppo_loss(
        lambda _: (outputs[0][mask], outputs[1][mask]), rows, coefficients, head, True
    )
    assert found.item() == pytest.approx(expected.item())
    torch.testing.assert_close(statistics, others)
    minibatch["observation"][1, 1] = 1e3
    minibatch["advantage"][1, 1] = 1e3
    again, _ = recurrent_ppo_loss(network, minibatch, coefficients, head, True)
    assert again.item() == found.item()


# Memory in training.


def test_the_first_minibatch_has_ratio_one(fit: Fit) -> None:
    """States, sequences and log-probabilities of the update are those of acting."""
    seen: list[dict[str, float]] = []
    note = lambda trainer, agent, metrics, at: seen.append(metrics)  # noqa: E731
    one_minibatch = {"update_epochs": 1, "minibatch_size": 10**6}
    agent = RecurrentPPO(REMEMBER, 3 * 320, **{**QUICK, **one_minibatch})
    fit(agent, callbacks=[EventCallback(on_metrics=note)])
    assert len(seen) == 3
    for row in seen:
        assert abs(row["train/approx_kl"]) < 1e-6
        assert row["train/clip_fraction"] == 0.0
        assert row["train/grad_norm"] > 0.0


def test_states_begin_at_zero_with_each_episode_and_follow_the_network(fit: Fit) -> None:
    checked = []

    def check(agent: RecurrentPPO) -> None:
        source = agent.source
        rollout, states = source.rollout, torch.from_numpy(source.states)
        ended = torch.from_numpy(rollout.terminated | rollout.truncated)
        assert ended.any()
        assert not states[1:][ended].any()
        _, _, after = agent.network(
            torch.from_numpy(rollout.observation[:-1]).flatten(0, 1), states[:-1].flatten(0, 1)
        )
        torch.testing.assert_close(states[1:][~ended], after.view_as(states[1:])[~ended])
        checked.append(True)

    class Checked(RecurrentPPO):
        def estimate(self, rollout: Any) -> dict[str, Any]:
            experience = super().estimate(rollout)
            check(self)
            return experience

    agent = Checked(REMEMBER, 2 * 320, **QUICK)
    fit(agent)
    assert len(checked) == 2


def test_a_time_limit_bootstraps_with_the_memory_of_the_last_observation(fit: Fit) -> None:
    seen = []

    class Checked(RecurrentPPO):
        def _values(self, rollout: Any, flat: Any, after: Any) -> Any:
            value, next_value = super()._values(rollout, flat, after)
            steps, envs = rollout.final_indices()
            memory = after.view(self.num_steps + 1, rollout.num_envs, -1)[steps, envs]
            expected = self.network(rollout.final_observations(), memory)[1]
            torch.testing.assert_close(next_value[steps, envs], expected)
            goes_on = np.ones(value.shape, dtype=bool)
            goes_on[steps, envs] = False
            assert torch.equal(next_value[:-1][goes_on[:-1]], value[1:][goes_on[:-1]])
            seen.extend(steps)
            return value, next_value

    fit(Checked({"id": "LightningRL/Truncation-v0", "num_envs": 8}, 320, **QUICK))
    assert seen


# It remembers, and the same algorithm without memory does not.


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_bit_is_remembered(fit: Fit, cell: str) -> None:
    agent = RecurrentPPO(REMEMBER, 9_600, **{**QUICK, "cell": cell})
    fit(agent)
    assert mean_return(agent) == 1.0


def test_ppo_cannot_remember_it(fit: Fit) -> None:
    small = {"num_steps": 40, "minibatch_size": 80, "learning_rate": 1e-2, "gamma": 0.9}
    agent = PPO(REMEMBER, 9_600, **small, hidden_sizes=(16,), seed=1, compile=False)
    fit(agent)
    assert mean_return(agent, 40) == pytest.approx(0.5, abs=0.2)


# How far an update may go.


def learning_rates(fit: Fit, **arguments: Any) -> list[float]:
    rows: list[dict[str, float]] = []
    watch = EventCallback(on_metrics=lambda trainer, agent, metrics, at: rows.append(metrics))
    fit(RecurrentPPO(REMEMBER, 4 * 320, **{**QUICK, **arguments}), callbacks=[watch])
    return [row["train/learning_rate"] for row in rows]


def test_the_adaptive_learning_rate_follows_the_kl_divergence(fit: Fit) -> None:
    adaptive = {"learning_rate_schedule": "adaptive_kl", "learning_rate": 1e-3}
    slower = learning_rates(fit, **adaptive, target_kl=1e-9)
    assert slower == pytest.approx([1e-3, 1e-3 / 1.5, 1e-3 / 1.5**2, 1e-3 / 1.5**3])
    faster = learning_rates(fit, **adaptive, target_kl=1e3)
    assert faster == pytest.approx([1e-3, 1.5e-3, 2.25e-3, 3.375e-3])


def test_an_adapted_learning_rate_survives_a_stop(fit: Fit, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    schedule = {"learning_rate": 1e-3, "learning_rate_schedule": "adaptive_kl", "target_kl": 1e3}
    adaptive = {**QUICK, **schedule}
    fit(RecurrentPPO(REMEMBER, 2 * 320, **adaptive)).save_checkpoint(path)
    resumed, straight = (RecurrentPPO(REMEMBER, 4 * 320, **adaptive) for _ in range(2))
    ends = [fit(resumed, ckpt_path=str(path)), fit(straight)]
    rates = [trainer.optimizers[0].param_groups[0]["lr"] for trainer in ends]
    assert rates == pytest.approx([1e-3 * 1.5**4] * 2)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_an_update_stops_when_the_policy_has_gone_too_far(fit: Fit) -> None:
    steps = {}
    for target_kl in (None, 1e3, 1e-9):
        agent = RecurrentPPO(REMEMBER, 320, target_kl=target_kl, **QUICK)
        fit(agent)
        steps[target_kl] = agent.gradient_steps
    assert steps[None] == steps[1e3] > 2
    # The first minibatch has the old policy still, the second is the first that can be too far.
    assert steps[1e-9] == 2


# Evaluation and use.


def test_evaluation_remembers_within_an_episode_only(fit: Fit) -> None:
    agent = RecurrentPPO(REMEMBER, 320, **QUICK)
    policy = EpisodePolicy(agent)
    observation = torch.rand(3, 2)
    for _ in range(3):
        policy(observation)
    assert policy._state is not None
    before = policy._state.copy()
    policy.begin_episode(1)
    assert not policy._state[1].any()
    assert np.array_equal(policy._state[[0, 2]], before[[0, 2]])


def test_predicting_with_and_without_state() -> None:
    agent = RecurrentPPO("Pendulum-v1", seed=1, hidden_size=8)
    observation = np.array([0.5, -0.5, 1.0], dtype=np.float32)
    first, state = agent.predict_with_state(observation)
    assert np.array_equal(first, agent.predict(observation))
    assert state is not None
    assert state.shape == (1, 16)
    second, _ = agent.predict_with_state(observation, state)
    assert not np.array_equal(first, second)
    batch, states = agent.predict_with_state(np.stack([observation] * 3))
    assert batch.shape == (3, 1)
    assert states is not None
    assert states.shape == (3, 16)
    assert PPO("Pendulum-v1", seed=1).predict_with_state(observation)[1] is None


# Checkpoints.


def test_memory_survives_a_stop_within_a_rollout(fit: Fit, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    stops = {"left": 70}

    class Saving(RecurrentPPO):
        def poll(self) -> None:
            super().poll()
            stops["left"] -= 1
            if stops["left"] == 0 and self.source._is_collecting:
                self.trainer.save_checkpoint(path)

    saving = Saving(REMEMBER, 3 * 320, **QUICK)
    fit(saving)
    checkpoint = torch.load(path, weights_only=True)
    source = checkpoint["lightning_rl"]["source"]
    assert 0 < source["rollout"]["cursor"] == len(source["states"]) < 40
    resumed = Saving(REMEMBER, 3 * 320, **QUICK)
    fit(resumed, ckpt_path=str(path))
    for name, tensor in saving.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence_length": 0}, "sequence_length"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"cell": "rnn"}, "cell"),
        ({"learning_rate_schedule": "cosine"}, "linear, adaptive_kl, received 'cosine'"),
        ({"target_kl": -1.0}, "target_kl"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecurrentPPO("CartPole-v1", **arguments)


def test_minibatches_hold_whole_sequences_of_about_as_many_steps_as_asked_for(fit: Fit) -> None:
    sizes: list[tuple[int, int]] = []

    class Counting(RecurrentPPO):
        def training_step(self, minibatches: Any, batch_idx: int) -> Any:
            sizes.append((minibatches.num_rows, minibatches.minibatch_size))
            return super().training_step(minibatches, batch_idx)

    fit(Counting(REMEMBER, 2 * 320, **QUICK))
    # Episodes of four steps: 80 sequences hold the 320 steps, and a quarter of them 80.
    assert sizes == [(80, 20), (80, 20)]
