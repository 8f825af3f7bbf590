"""The rollout: what one policy did in T steps of N environments, in preallocated arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from lightning_rl.envs.spaces import allocate
from lightning_rl.functional.trees import map_tree
from lightning_rl.types import Array, Observation, TensorObservation


class Rollout:
    """T steps of N environments; step t holds the flags *after* its action.

    Attributes:
        observation: `(T + 1, N, *obs_shape)`; row T is what the next rollout starts from. Behind an
            episode's end stands the first observation of the next episode.
        action: `(T, N, *action_shape)`, as the policy chose it.
        reward: `(T, N)` float32.
        terminated: `(T, N)` bool.
        truncated: `(T, N)` bool.
        final_index: `(t, n)` of each episode end, in order.
        final_observation: The true last observation of each of them.
        cursor: Steps filled so far.
        valid: `(T, N)` bool: False where the environment only reset itself and no transition took
            place; None when all are transitions, as everywhere but with `vectorization: vector`.

    Args:
        num_steps: T.
        num_envs: N.
        observation_space: Flat space of one observation.
        action_space: Space of one action.
    """

    def __init__(
        self,
        num_steps: int,
        num_envs: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
    ) -> None:
        self.num_steps = num_steps
        self.num_envs = num_envs
        self.observation: Observation = allocate(observation_space, num_steps + 1, num_envs)
        action: Any = allocate(action_space, num_steps, num_envs)
        self.action: Array = action if action.dtype.kind == "f" else action.astype(np.int64)
        self.reward: Array = np.zeros((num_steps, num_envs), dtype=np.float32)
        self.terminated: Array = np.zeros((num_steps, num_envs), dtype=bool)
        self.truncated: Array = np.zeros((num_steps, num_envs), dtype=bool)
        self.clear()

    def clear(self) -> None:
        """Forget the content; the arrays are kept."""
        self.cursor = 0
        self.final_index: list[tuple[int, int]] = []
        self.final_observation: list[Observation] = []
        self.valid: Array | None = None

    def write_observation(self, step: int, observation: Observation) -> None:
        """Copy the observations `(N, *obs_shape)` that stand before step `step`."""
        if isinstance(self.observation, dict):
            for key, storage in self.observation.items():
                storage[step] = observation[key]  # type: ignore[call-overload]
        else:
            self.observation[step] = observation

    def write_valid(self, step: int, valid: Array) -> None:
        """Note which rows `(N,)` made a transition at step `step`."""
        if self.valid is None:
            if valid.all():
                return
            self.valid = np.ones((self.num_steps, self.num_envs), dtype=bool)
        self.valid[step] = valid

    @property
    def num_transitions(self) -> int:
        """Transitions filled so far, over all rows."""
        if self.valid is None:
            return self.cursor * self.num_envs
        return int(self.valid[: self.cursor].sum())

    def mean_reward(self) -> float:
        """Return the mean reward of the transitions of a full rollout."""
        return float((self.reward if self.valid is None else self.reward[self.valid]).mean())

    def write_final(self, step: int, row: int, observation: Observation) -> None:
        """Copy the true last observation of the episode that ended in `row` at `step`.

        Args:
            step: Step that ended it.
            row: Its environment.
            observation: Of all rows, `(N, *obs_shape)`.
        """
        self.final_index.append((step, row))
        self.final_observation.append(map_tree(lambda leaf: leaf[row].copy(), observation))

    def final_indices(self) -> tuple[Array, Array]:
        """Return the time and row indices of the episode ends, each `(K,)` int64."""
        index = np.asarray(self.final_index, dtype=np.int64).reshape(-1, 2)
        return index[:, 0], index[:, 1]

    def final_observations(self) -> TensorObservation:
        """Return the true last observations `(K, *obs_shape)`; K must not be zero."""
        return map_tree(lambda *rows: torch.from_numpy(np.stack(rows)), *self.final_observation)

    def next_observation(self) -> Observation:
        """Return what each step led to, `(T, N, *obs_shape)`.

        At an episode's end that is its true last observation.
        """
        following = map_tree(lambda leaf: leaf[1:].copy(), self.observation)
        if self.final_index:
            steps, rows = self.final_indices()
            finals = map_tree(lambda *leaves: np.stack(leaves), *self.final_observation)
            map_tree(lambda leaf, final: leaf.__setitem__((steps, rows), final), following, finals)
        return following

    def state_dict(self) -> dict[str, Any]:
        """Return the filled part as tensors."""
        filled = self.cursor
        return {
            "cursor": filled,
            "observation": map_tree(lambda leaf: _tensor(leaf[: filled + 1]), self.observation),
            **{name: _tensor(getattr(self, name)[:filled]) for name in _STEP_ARRAYS},
            "valid": None if self.valid is None else _tensor(self.valid),
            "final_index": [list(index) for index in self.final_index],
            "final_observation": [
                map_tree(_tensor, observation) for observation in self.final_observation
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.cursor = filled = state["cursor"]
        map_tree(
            lambda leaf, saved: leaf.__setitem__(slice(filled + 1), saved.numpy()),
            self.observation,
            state["observation"],
        )
        for name in _STEP_ARRAYS:
            getattr(self, name)[:filled] = state[name].numpy()
        self.valid = None if state["valid"] is None else state["valid"].numpy().copy()
        self.final_index = [(step, row) for step, row in state["final_index"]]
        self.final_observation = [
            map_tree(lambda leaf: leaf.numpy().copy(), item) for item in state["final_observation"]
        ]


_STEP_ARRAYS = ("action", "reward", "terminated", "truncated")


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
