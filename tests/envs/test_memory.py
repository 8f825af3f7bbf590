"""Environments that need memory, played by hand."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.memory import RememberBitEnv
from lightning_rl.errors import ConfigError


@pytest.mark.parametrize("remembers", [True, False])
def test_the_bit_is_shown_once_and_asked_once(remembers: bool) -> None:
    returns = []
    for seed in range(40):
        env = RememberBitEnv(delay=3)
        observation, _ = env.reset(seed=seed)
        assert abs(observation[0]) == 1.0
        bit = int(observation[0] > 0)
        seen, rewards = [], []
        for _ in range(3):
            observation, reward, terminated, truncated, _ = env.step(1 - bit)
            seen.append(observation.tolist())
            rewards.append(reward)
            assert not terminated
            assert not truncated
        assert seen == [[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
        assert rewards == [0.0, 0.0, 0.0]
        _, reward, terminated, _, _ = env.step(bit if remembers else 1)
        assert terminated
        returns.append(reward)
    expected = RememberBitEnv.optimal_return if remembers else RememberBitEnv.return_without_memory
    assert np.mean(returns) == pytest.approx(expected, abs=0.15 if not remembers else 0.0)


def test_a_delay_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="received 0"):
        RememberBitEnv(delay=0)


def test_it_keeps_to_gymnasium() -> None:
    check_env(RememberBitEnv(), skip_render_check=True)


def test_cartpole_without_velocities_is_cartpole() -> None:
    whole = gymnasium.make("CartPole-v1")
    part = EnvConfig("LightningRL/CartPoleNoVelocity-v1").make()
    shown = [whole.reset(seed=3)[0], part.reset(seed=3)[0]]
    assert shown[1].tolist() == shown[0][[0, 2]].tolist()
    for _ in range(8):
        one, other = whole.step(1), part.step(1)
        assert other[0].tolist() == one[0][[0, 2]].tolist()
        assert one[1:4] == other[1:4]
    assert part.spec is not None
    assert part.spec.max_episode_steps == 500
    assert part.observation_space.contains(other[0])
