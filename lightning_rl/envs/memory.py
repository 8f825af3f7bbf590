"""Environments that cannot be solved without memory, with known optima.

Registered as `LightningRL/RememberBit-v0` and `LightningRL/CartPoleNoVelocity-v1`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TransformObservation

from lightning_rl.envs.probe_base import StepResult
from lightning_rl.errors import ConfigError

CARTPOLE_POSITIONS = [0, 2]
"""Entries of CartPole's observation that are positions: of the cart and of the pole."""


class RememberBitEnv(gymnasium.Env):
    """Shows a sign once; the last of `delay` further steps pays 1 for the action that tells it.

    An observation is `(sign, asked)`: the sign -1 or 1 at the first step and 0 afterwards, and
    whether this step's action is the answer. The optimum is 1; whoever cannot remember gets 0.5.

    Args:
        delay: Steps between seeing the sign and answering, at least 1.

    Raises:
        ConfigError: For a delay below 1.
    """

    optimal_return = 1.0
    return_without_memory = 0.5

    def __init__(self, delay: int = 8) -> None:
        if delay < 1:
            raise ConfigError(f"expected a delay of at least 1, received {delay}")
        self.delay = delay
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._bit = 0
        self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw the sign and show it."""
        super().reset(seed=seed)
        self._bit, self._time = int(self.np_random.integers(2)), 0
        return np.array([2.0 * self._bit - 1.0, 0.0], dtype=np.float32), {}

    def step(self, action: Any) -> StepResult:
        """Wait, or answer and end the episode."""
        answered = self._time == self.delay
        self._time += 1
        asked = float(self._time == self.delay)
        reward = float(answered and int(action) == self._bit)
        return np.array([0.0, asked], dtype=np.float32), reward, answered, False, {}


def cartpole_without_velocities(**kwargs: Any) -> gymnasium.Env:
    """Return CartPole-v1 that shows only the positions of cart and pole; `kwargs` as CartPole's."""
    env = CartPoleEnv(**kwargs)
    space: Any = env.observation_space
    low, high = space.low[CARTPOLE_POSITIONS], space.high[CARTPOLE_POSITIONS]
    return TransformObservation(env, _positions, spaces.Box(low, high, dtype=np.float32))


def _positions(observation: Any) -> Any:
    return observation[CARTPOLE_POSITIONS]


gymnasium.register(
    "LightningRL/RememberBit-v0", entry_point=f"{__name__}:{RememberBitEnv.__name__}"
)
gymnasium.register(
    "LightningRL/CartPoleNoVelocity-v1",
    entry_point=f"{__name__}:{cartpole_without_velocities.__name__}",
    max_episode_steps=500,
    reward_threshold=475.0,
)
