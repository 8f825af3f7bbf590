"""The contract of vector environments, whoever steps their rows.

`step` never resets. The observation of an ended row is the true final one until `reset` is called
for exactly these rows. So there are no no-op transitions (where an implementation insists on them,
`valid` marks them), and each episode gets the seed that its caller chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.spaces import action_adapter, allocate, flatten_space, observation_flattener
from lightning_rl.envs.state_walk import UnsupportedState
from lightning_rl.errors import EnvironmentFailed
from lightning_rl.functional.trees import tree_items
from lightning_rl.types import Array, Info, Observation, SnapshotLevel


class VectorEnv(ABC):
    """`num_envs` environments stepped together.

    Attributes:
        num_envs: Number of rows, N.
        observation_space: Flat space of one row (see `spaces.flatten_space`).
        action_space: Space of one row's action.
        observation: `(N, *obs_shape)`, rewritten in place by `step` and `reset`.
        reward: `(N,)` float64, rewritten in place by `step`.
        terminated: `(N,)` bool, likewise.
        truncated: `(N,)` bool, likewise.
        ended: Rows whose episode ended in the last `step`.
        valid: `(N,)` bool, likewise: False where the last `step` was no transition.
        skips_steps: Whether `valid` is ever False; only with `NativeRows`.
        is_broken: Whether an environment has failed; nobody knows its state then.
    """

    skips_steps = False
    is_broken = False

    def __init__(
        self, config: EnvConfig, num_envs: int, observation_space: Any, action_space: Any
    ) -> None:
        self.config = config
        self.num_envs = num_envs
        self.observation_space = flatten_space(observation_space)
        self.action_space = action_space
        self.to_env_action = action_adapter(action_space, config.action)
        self.observation: Observation = allocate(self.observation_space, num_envs)
        self.reward: Array = np.zeros(num_envs)
        self.terminated: Array = np.zeros(num_envs, dtype=bool)
        self.truncated: Array = np.zeros(num_envs, dtype=bool)
        self.valid: Array = np.ones(num_envs, dtype=bool)
        self.ended: list[int] = []
        self._flatten = observation_flattener(observation_space)
        self._leaves = [(key, leaf, leaf.shape[1:]) for key, leaf in tree_items(self.observation)]

    @abstractmethod
    def step(self, action: Array) -> Sequence[Info]:
        """Step every row with the policy's actions `(N, ...)`; return the rows' infos.

        Raises:
            EnvironmentFailed: When an environment raises or returns something malformed; names it.
        """

    @abstractmethod
    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Reset these rows with these seeds and rewrite their observations."""

    def snapshot(self, row: int, level: SnapshotLevel) -> dict[str, Any]:
        """Return the state of one row, for a level above `boundary`.

        Raises:
            UnsupportedState: When it holds something that cannot be saved.
        """
        raise UnsupportedState(f"{type(self).__name__} cannot be saved")

    def restore(self, row: int, state: dict[str, Any]) -> None:
        """Put one row back into a state from `snapshot`."""
        raise UnsupportedState(f"{type(self).__name__} cannot be restored")

    def replay(self, row: int, seed: int, actions: Sequence[Array]) -> None:
        """Reset one row and repeat the policy's `actions`."""
        raise UnsupportedState(f"{type(self).__name__} cannot be replayed")

    @abstractmethod
    def close(self) -> None:
        """Release all rows."""

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def failed(self, row: int | None, call: str, error: Exception) -> EnvironmentFailed:
        """Note that an environment has failed, and return the error that says so."""
        self.is_broken = True
        return environment_failed(self.config, row, call, error)

    def write_row(self, row: int, observation: Any) -> None:
        """Copy one row's observation, as the environment returned it, into `self.observation`.

        Raises:
            ValueError: When its shape is another one, which NumPy might stretch without a word.
        """
        observation, is_dict = self._flatten(observation), isinstance(self.observation, dict)
        for key, storage, shape in self._leaves:
            leaf = observation[key] if is_dict else observation
            # Asking for the shape of a Python number would make an array of it.
            received = () if isinstance(leaf, int | float) else np.shape(leaf)
            if received != shape:
                raise wrong_shape(received, shape, key)
            storage[row] = leaf

    def write_rows(self, rows: Any, observation: Any) -> None:
        """Copy the observations of `rows` (a slice or mask) out of a batch of all rows."""
        observation = self._flatten(observation)
        if isinstance(self.observation, dict):
            for key, storage in self.observation.items():
                storage[rows] = np.asarray(observation[key])[rows]
        else:
            self.observation[rows] = np.asarray(observation)[rows]


def rows_of_info(info: Mapping[str, Any], num_envs: int) -> list[Info]:
    """Undo Gymnasium's batching of infos: keys to arrays with masks become one dictionary a row."""
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in info.items():
        if key.startswith("_"):
            continue
        present = info.get(f"_{key}", np.ones(num_envs, dtype=bool))
        if isinstance(values, Mapping):
            values = rows_of_info(values, num_envs)
        for row in np.flatnonzero(present):
            rows[row][key] = values[row]
    return list(rows)


def wrong_shape(received: Any, expected: tuple[int, ...], key: str = "") -> ValueError:
    """Return the error about an observation whose shape is not that of its space."""
    name = f" {key!r}" if key else ""
    return ValueError(f"expected an observation{name} of shape {expected}, received {received}")


def environment_failed(
    config: EnvConfig, row: int | None, call: str, error: Exception
) -> EnvironmentFailed:
    """Return the error that names the environment, the row and what it raised."""
    where = "" if row is None else f" (row {row})"
    reason = " ".join(str(error).split())
    return EnvironmentFailed(
        f"environment {config.name}{where} failed in {call}: {type(error).__name__}: {reason}"
    )
