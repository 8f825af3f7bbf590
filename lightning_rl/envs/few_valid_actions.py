"""An environment with many actions of which few are valid, with a known optimum.

Registered as `LightningRL/FewValidActions-v0`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.envs.probe_base import StepResult
from lightning_rl.errors import ConfigError
from lightning_rl.functional.masks import ACTION_MASK
from lightning_rl.types import Array

LAYOUT_SEED = 0
"""The rooms and their doors are the same in every instance; chance decides where they lead."""


class FewValidActionsEnv(gymnasium.Env):
    """Rooms with many doors, most of them locked; `info["action_mask"]` says which are open.

    An action tries a door. In each room one open door pays 1 and the other open ones nothing; each
    leads to a room that is drawn. A locked door pays nothing and leaves everything as it is. The
    room is shown as a one-hot vector, so that nothing but the mask tells which doors are open.

    Args:
        num_actions: Doors of a room.
        max_valid: Most open doors of a room, at least 2; each room has between 2 and so many.
        num_rooms: Rooms, at least 2.
        num_steps: Steps of an episode, behind which it is truncated.

    Raises:
        ConfigError: For numbers that cannot be.
    """

    def __init__(
        self, num_actions: int = 50, max_valid: int = 5, num_rooms: int = 50, num_steps: int = 20
    ) -> None:
        if not 2 <= max_valid <= num_actions or num_rooms < 2 or num_steps < 1:
            raise ConfigError(
                "expected 2 <= max_valid <= num_actions, num_rooms >= 2 and num_steps >= 1, "
                f"received {max_valid}, {num_actions}, {num_rooms} and {num_steps}"
            )
        self.observation_space = spaces.Box(0.0, 1.0, (num_rooms,), np.float32)
        self.action_space = spaces.Discrete(num_actions)
        self.num_rooms, self.num_steps = num_rooms, num_steps
        layout = np.random.Generator(np.random.PCG64(LAYOUT_SEED))
        self.masks: Array = np.zeros((num_rooms, num_actions), dtype=np.int8)
        self.paying: list[int] = []
        for mask in self.masks:
            count = int(layout.integers(2, max_valid + 1))
            open_doors = layout.choice(num_actions, size=count, replace=False)
            mask[open_doors] = 1
            self.paying.append(int(open_doors[0]))
        self._room, self._time = 0, 0

    @property
    def optimal_return(self) -> float:
        """Undiscounted return of an episode under the best policy."""
        return float(self.num_steps)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin in a room that is drawn."""
        super().reset(seed=seed)
        self._room, self._time = int(self.np_random.integers(self.num_rooms)), 0
        return self._show(), self._info()

    def step(self, action: Any) -> StepResult:
        """Try a door."""
        action = int(action)
        reward = float(action == self.paying[self._room])
        if self.masks[self._room, action]:
            self._room = int(self.np_random.integers(self.num_rooms))
        self._time += 1
        return self._show(), reward, False, self._time >= self.num_steps, self._info()

    def _show(self) -> Array:
        observation = np.zeros(self.num_rooms, dtype=np.float32)
        observation[self._room] = 1.0
        return observation

    def _info(self) -> dict[str, Any]:
        return {ACTION_MASK: self.masks[self._room].copy()}


gymnasium.register(
    "LightningRL/FewValidActions-v0", entry_point=f"{__name__}:{FewValidActionsEnv.__name__}"
)
