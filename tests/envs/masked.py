"""Environments with masks, for tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Corridor(gymnasium.Env):
    """Counts steps; which actions are valid follows from the count, and invalid ones raise.

    Args:
        action: `discrete` (counted from 3) or `multi_discrete`.
        source: Where the mask stands: `info`, `method` or `observation`.
        length: Steps of an episode; its last observation leaves nothing to do.
        truncates: Whether its end is a truncation.
    """

    def __init__(
        self,
        action: str = "discrete",
        source: str = "info",
        length: int = 4,
        truncates: bool = False,
    ) -> None:
        self.source, self.length, self.truncates = source, length, truncates
        self.action_space: Any = (
            spaces.Discrete(4, start=3) if action == "discrete" else spaces.MultiDiscrete([2, 3])
        )
        box = spaces.Box(0.0, 100.0, (1,), np.float32)
        self.observation_space = (
            spaces.Dict({"action_mask": spaces.MultiBinary(self.size), "count": box})
            if source == "observation"
            else box
        )
        self.count = self.first = 0

    @property
    def size(self) -> int:
        return 4 if isinstance(self.action_space, spaces.Discrete) else 5

    def mask(self) -> np.ndarray:
        """One or two valid actions in turn; of MultiDiscrete, for each integer."""
        if self.count >= self.length:
            return np.zeros(self.size, dtype=np.int8)
        at = self.first + self.count
        if self.size == 4:
            return np.isin(np.arange(4), [at % 4, 2]).astype(np.int8)
        return np.concatenate((np.arange(2) == at % 2, np.arange(3) != at % 3)).astype(np.int8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count, self.first = 0, int(self.np_random.integers(4))
        return self._show(), self._info()

    def step(self, action: Any) -> Any:
        chosen = np.ravel(np.asarray(action) - (3 if self.size == 4 else 0))
        offsets = [0] if self.size == 4 else [0, 2]
        if not self.mask()[chosen + offsets].all():
            raise ValueError(f"{action} is invalid")
        self.count += 1
        ended = self.count >= self.length
        terminated, truncated = ended and not self.truncates, ended and self.truncates
        return self._show(), float(chosen[0]), terminated, truncated, self._info()

    def _show(self) -> Any:
        count = np.array([self.count], dtype=np.float32)
        is_entry = self.source == "observation"
        return {"count": count, "action_mask": self.mask()} if is_entry else count

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self.mask()} if self.source == "info" else {}


class CorridorWithMethod(Corridor):
    """The same, whose masks come from a method."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(source="method", **kwargs)

    def action_masks(self) -> np.ndarray:
        return self.mask()
