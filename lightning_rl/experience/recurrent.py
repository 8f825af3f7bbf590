"""On-policy experience of policies with memory: a rollout, and the states it was acted from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lightning_rl.experience.collector import Collector
from lightning_rl.experience.on_policy import OnPolicyLearner, OnPolicySource
from lightning_rl.types import Array


class RecurrentSource(OnPolicySource):
    """An `OnPolicySource` that keeps the policy's state between two env steps.

    Attributes:
        states: `(T + 1, N, S)` float32: the state before each step, zeros where an episode begins;
            entry T is what the next rollout starts from.

    Args:
        learner: The algorithm.
        collector: Its environments.
        num_steps: Steps of each environment in one rollout, T.
        state_size: Numbers of one state, S.
    """

    def __init__(
        self, learner: OnPolicyLearner, collector: Collector, num_steps: int, state_size: int
    ) -> None:
        super().__init__(learner, collector, num_steps)
        shape = (num_steps + 1, self.rollout.num_envs, state_size)
        self.states: Array = np.zeros(shape, dtype=np.float32)
        self._state: Array = np.zeros(shape[1:], dtype=np.float32)

    def state_before(self, step: int) -> Array:
        """Note and return the states `(N, S)` before `step`: zeros for episodes that begin there.

        Args:
            step: Step of the present rollout; its number of steps for what follows it.
        """
        if step:  # a rollout's first step: its predecessor has seen to it
            rollout = self.rollout
            self._state[rollout.terminated[step - 1] | rollout.truncated[step - 1]] = 0.0
        self.states[step] = self._state
        return self.states[step]

    def keep(self, state: Array) -> None:
        """Take the states `(N, S)` after a step."""
        self._state[:] = state

    def _minibatch_rows(self, experience: Any) -> int:
        """Return how many sequences make a minibatch of about as many steps as asked for."""
        mask = experience["mask"]
        num_minibatches = -(-int(mask.sum()) // self.learner.minibatch_size)
        return -(-len(mask) // num_minibatches)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        filled = self.rollout.cursor if self._is_collecting else 0
        return {
            **super().state_dict(),
            "states": torch.from_numpy(self.states[:filled].copy()),
            "state": torch.from_numpy(self._state.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state)
        if state["collector"]["level"] == "boundary":
            self._state[:] = 0.0  # the open episodes are gone, and what was remembered of them
            return
        self.states[: len(state["states"])] = state["states"].numpy()
        self._state[:] = state["state"].numpy()
