"""Environments with goals: sparse rewards that hindsight replay is made for.

Registered as `LightningRL/PointReach-v0` (Box actions) and `LightningRL/BitFlip-v0` (Discrete).
Observations are dictionaries of `observation`, `achieved_goal` and `desired_goal`, and
`compute_reward(achieved_goal, desired_goal, info)` and `compute_terminated` take batches, as in
Gymnasium-Robotics. Reaching the goal pays 1 and ends the episode, so the mean return of episodes is
the share of them that succeed.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.envs.probe_base import StepResult
from lightning_rl.errors import ConfigError
from lightning_rl.types import Array


class GoalEnv(gymnasium.Env):
    """Base: episodes end when `is_reached`, and are cut after `max_steps`.

    Args:
        size: Numbers of a state and of a goal.
        max_steps: Steps of an episode.

    Raises:
        ConfigError: For a size or a number of steps below 1.
    """

    def __init__(self, size: int, max_steps: int) -> None:
        if size < 1 or max_steps < 1:
            raise ConfigError(f"expected positive sizes, received {size} and {max_steps} steps")
        box = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.observation_space = spaces.Dict(
            dict.fromkeys(("observation", "achieved_goal", "desired_goal"), box)
        )
        self.size, self.max_steps = size, max_steps
        self._state: Array = np.zeros(size, dtype=np.float32)
        self._goal: Array = np.zeros(size, dtype=np.float32)
        self._time = 0

    def is_reached(self, achieved_goal: Array, desired_goal: Array) -> Array:
        """Return whether goals `(..., size)` are reached, as bools `(...)`."""
        return (achieved_goal == desired_goal).all(axis=-1)

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: Any) -> Array:
        """Return 1 where the goal is reached and 0 elsewhere, `(...)`; `info` is not used."""
        return self.is_reached(achieved_goal, desired_goal).astype(np.float32)

    def compute_terminated(self, achieved_goal: Array, desired_goal: Array, info: Any) -> Array:
        """Return whether the episode ends, `(...)`: where the goal is reached."""
        return self.is_reached(achieved_goal, desired_goal)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw a state and a goal apart from it."""
        super().reset(seed=seed)
        self._time = 0
        self._state = self._draw()
        self._goal = self._draw()
        while self.is_reached(self._state, self._goal):
            self._goal = self._draw()
        return self._show(), {}

    def step(self, action: Any) -> StepResult:
        """Move; pay 1 and end where the goal is reached."""
        self._move(action)
        self._time += 1
        reached = bool(self.is_reached(self._state, self._goal))
        truncated = self._time >= self.max_steps and not reached
        return self._show(), float(reached), reached, truncated, {"is_success": reached}

    def _draw(self) -> Array:
        raise TypeError(f"{type(self).__name__} draws no states")

    def _move(self, action: Any) -> None:
        raise TypeError(f"{type(self).__name__} does not move")

    def _show(self) -> dict[str, Array]:
        return {
            "observation": self._state.copy(),
            "achieved_goal": self._state.copy(),
            "desired_goal": self._goal.copy(),
        }


class PointReachEnv(GoalEnv):
    """A point in a cube must come within `tolerance` of a goal; actions are its velocity.

    Args:
        size: Dimensions of the cube [-1, 1].
        max_steps: Steps of an episode.
        tolerance: Largest distance that counts as reached.
        speed: Way of one step with a full action, per dimension.
    """

    def __init__(
        self, size: int = 3, max_steps: int = 50, tolerance: float = 0.1, speed: float = 0.1
    ) -> None:
        super().__init__(size, max_steps)
        self.action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.tolerance, self.speed = tolerance, speed

    def is_reached(self, achieved_goal: Array, desired_goal: Array) -> Array:
        """Return whether goals `(..., size)` are within `tolerance`, as bools `(...)`."""
        return np.linalg.norm(achieved_goal - desired_goal, axis=-1) <= self.tolerance

    def _draw(self) -> Array:
        return self.np_random.uniform(-1.0, 1.0, self.size).astype(np.float32)

    def _move(self, action: Any) -> None:
        way = self.speed * np.clip(action, -1.0, 1.0)
        self._state = np.clip(self._state + way, -1.0, 1.0).astype(np.float32)


class BitFlipEnv(GoalEnv):
    """Bits, shown as -1 and 1, must become those of the goal; an action flips one of them.

    Andrychowicz et al., 2017, https://arxiv.org/abs/1707.01495, section 3.1.

    Args:
        size: Number of bits.
        max_steps: Steps of an episode; default as many as bits.
    """

    def __init__(self, size: int = 10, max_steps: int | None = None) -> None:
        super().__init__(size, size if max_steps is None else max_steps)
        self.action_space = spaces.Discrete(size)

    def _draw(self) -> Array:
        return (2 * self.np_random.integers(2, size=self.size) - 1).astype(np.float32)

    def _move(self, action: Any) -> None:
        self._state[int(action)] *= -1.0


for _kind in (PointReachEnv, BitFlipEnv):
    gymnasium.register(
        f"LightningRL/{_kind.__name__.removesuffix('Env')}-v0",
        entry_point=f"{__name__}:{_kind.__name__}",
    )
