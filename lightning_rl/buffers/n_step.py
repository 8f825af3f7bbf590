"""Multi-step transitions, put together when they are sampled.

Only single steps are stored, so nothing is pending that a checkpoint would have to hold, and
priorities, normalisers and segments see the transitions as they happened.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_rl.buffers.replay import Replay, Transitions
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.buffers.wrapper import ReplayWrapper
from lightning_rl.errors import ConfigError
from lightning_rl.types import Array


class NStepReplay(ReplayWrapper):
    """Returns of up to n steps from each sampled transition (Sutton, 1988; Watkins, 1989).

    A sample's `reward` is the discounted sum of k rewards, its `next_observation` and flags are
    those of the k-th step, and the additional column `discount (B,)` is `gamma**k`, the weight of
    the bootstrap. k is n, or less where the episode ends (whose true final observation is stored)
    or where the newest stored step comes first. Nothing corrects for actions that the present
    policy would not take, as in Rainbow (Hessel et al., 2018, https://arxiv.org/abs/1710.02298).

    Args:
        replay: Of single steps, in which the step that follows row `i` of the same environment
            stands in row `i + num_envs`.
        num_steps: n, at least 1.
        gamma: Discount in [0, 1].
        num_envs: Environments that fill the buffer in turn.
    """

    def __init__(self, replay: Replay, num_steps: int, gamma: float, num_envs: int) -> None:
        super().__init__(replay)
        self.num_steps, self.gamma, self.num_envs = num_steps, gamma, num_envs

    def add(self, rollout: Rollout) -> None:
        """Append the transitions of a full rollout.

        Raises:
            ConfigError: When an environment skipped a step, so that rows do not follow in turn.
        """
        if rollout.valid is not None:
            raise ConfigError(
                "multi-step returns need environments that all step at once; use vectorization: "
                "sync or async, or n_step: 1"
            )
        super().add(rollout)

    def gather(self, rows: Array) -> Transitions:
        """Return the multi-step transitions that begin in some rows."""
        transitions = self.replay.gather(rows)
        newer = (self.inserted - 1 - rows) % self.capacity  # transitions after each of them
        goes_on = ~self._ended(rows)
        last = rows
        reward = self._reward(rows)
        steps = np.ones(len(rows), dtype=np.int64)
        for step in range(1, self.num_steps):
            goes_on &= newer >= step * self.num_envs
            following = (rows + step * self.num_envs) % self.capacity
            last = np.where(goes_on, following, last)
            reward += np.where(goes_on, self.gamma**step * self._reward(following), 0.0)
            steps += goes_on
            goes_on &= ~self._ended(following)
        transitions["reward"] = torch.from_numpy(reward.astype(np.float32))
        transitions["discount"] = torch.from_numpy((self.gamma**steps).astype(np.float32))
        for name in ("next_observation", "terminated", "truncated"):
            transitions[name] = self.replay.take(name, last)
        return transitions

    def _reward(self, rows: Array) -> Array:
        reward: Any = self.replay.take("reward", rows)
        return reward.numpy().astype(np.float64)

    def _ended(self, rows: Array) -> Array:
        terminated: Any = self.replay.take("terminated", rows)
        return (terminated | self.replay.take("truncated", rows)).numpy()
