"""Vector environments behind one contract; the only place that knows about autoreset.

Contract: `step` never resets. The observation of an ended row is the true final one until `reset`
is called for exactly these rows. So there are no no-op transitions, and each episode gets the seed
that its caller chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.snapshot import SnapshotWrapper, replay_env, restore_env, snapshot_env
from lightning_rl.envs.spaces import action_adapter, allocate, flatten_space, observation_flattener
from lightning_rl.errors import ConfigError, TrainingFailed
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
    """

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
        self._flatten = observation_flattener(observation_space)

    @abstractmethod
    def step(self, action: Array) -> Sequence[Info]:
        """Step every row with the policy's actions `(N, ...)`; return the rows' infos.

        Raises:
            TrainingFailed: When an environment raises or returns something malformed; names it.
        """

    @abstractmethod
    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Reset these rows with these seeds and rewrite their observations."""

    @abstractmethod
    def snapshot(self, row: int, level: SnapshotLevel) -> dict[str, Any]:
        """Return the state of one row, for a level above `boundary`."""

    @abstractmethod
    def restore(self, row: int, state: dict[str, Any]) -> None:
        """Put one row back into a state from `snapshot`."""

    @abstractmethod
    def replay(self, row: int, seed: int, actions: Sequence[Array]) -> None:
        """Reset one row and repeat the policy's `actions`."""

    @abstractmethod
    def close(self) -> None:
        """Release all rows."""

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_row(self, row: int, observation: Any) -> None:
        """Copy one row's observation, as the environment returned it, into `self.observation`."""
        observation = self._flatten(observation)
        if isinstance(self.observation, dict):
            for key, storage in self.observation.items():
                storage[row] = observation[key]
        else:
            self.observation[row] = observation


def make_vector_env(
    config: EnvConfig, num_envs: int | None = None, evaluation: bool = False
) -> VectorEnv:
    """Build the vector environment that `config` describes.

    Args:
        config: Description of the environment.
        num_envs: Rows; default `config.num_envs`.
        evaluation: Use `eval_kwargs`.
    """
    num_envs = num_envs or config.num_envs
    if config.vectorization == "async" and num_envs > 1:
        return AsyncRows(config, num_envs, evaluation)
    if config.vectorization == "vector" and not evaluation:
        raise ConfigError("vectorization: vector is not available yet; use sync or async")
    return SyncRows(config, num_envs, evaluation)


class SyncRows(VectorEnv):
    """Rows stepped one after the other in this process, straight into preallocated arrays."""

    def __init__(self, config: EnvConfig, num_envs: int, evaluation: bool = False) -> None:
        self.envs = [config.make(evaluation) for _ in range(num_envs)]
        super().__init__(
            config, num_envs, self.envs[0].observation_space, self.envs[0].action_space
        )
        self._single_array = not isinstance(self.observation, dict)
        self.activate(range(num_envs))

    def activate(self, rows: Iterable[int]) -> None:
        """Step only these rows from now on; the others keep their last values."""
        self._steps = [(row, self.envs[row].step) for row in rows]

    def step(self, action: Array) -> list[Info]:  # noqa: D102
        env_action = self.to_env_action(action)
        if env_action.ndim == 1:
            # Python integers: what `Discrete` environments index tables with.
            env_action = env_action.tolist()
        observation, reward = self.observation, self.reward
        terminated, truncated = self.terminated, self.truncated
        single_array = self._single_array
        infos: list[Info] = []
        row = 0
        try:
            for row, step in self._steps:
                next_observation, reward[row], terminated[row], truncated[row], info = step(
                    env_action[row]
                )
                if single_array:
                    observation[row] = next_observation
                else:
                    self.write_row(row, next_observation)
                infos.append(info)
        except Exception as error:
            raise _environment_failed(self.config, row, "step", error) from error
        return infos

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:  # noqa: D102
        row = -1
        try:
            for row, seed in zip(rows, seeds, strict=True):
                observation, _ = self.envs[row].reset(seed=seed)
                self.write_row(row, observation)
        except Exception as error:
            raise _environment_failed(self.config, row, "reset", error) from error

    def snapshot(self, row: int, level: SnapshotLevel) -> dict[str, Any]:  # noqa: D102
        return snapshot_env(self.envs[row], level)

    def restore(self, row: int, state: dict[str, Any]) -> None:  # noqa: D102
        restore_env(self.envs[row], state)

    def replay(self, row: int, seed: int, actions: Sequence[Array]) -> None:  # noqa: D102
        env_actions = [
            _row_action(self.to_env_action(np.asarray(action)[None])) for action in actions
        ]
        self.write_row(row, replay_env(self.envs[row], seed, env_actions))

    def close(self) -> None:  # noqa: D102
        for env in self.envs:
            env.close()


class AsyncRows(VectorEnv):
    """Rows in one worker process each, by Gymnasium's `AsyncVectorEnv` without its own resets."""

    def __init__(self, config: EnvConfig, num_envs: int, evaluation: bool = False) -> None:
        make: Callable[[], gymnasium.Env] = partial(_make_snapshotable, config, evaluation)
        self.envs = AsyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        single = self.envs.single_observation_space
        super().__init__(config, num_envs, single, self.envs.single_action_space)

    def step(self, action: Array) -> list[Info]:  # noqa: D102
        try:
            observation, reward, terminated, truncated, info = self.envs.step(
                self.to_env_action(action)
            )
        except Exception as error:
            raise _environment_failed(self.config, None, "step", error) from error
        self._write(observation, slice(None))
        self.reward[:], self.terminated[:], self.truncated[:] = reward, terminated, truncated
        return rows_of_info(info, self.num_envs)

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:  # noqa: D102
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[list(rows)] = True
        row_seeds: list[int | None] = [None] * self.num_envs
        for row, seed in zip(rows, seeds, strict=True):
            row_seeds[row] = seed
        try:
            observation, _ = self.envs.reset(seed=row_seeds, options={"reset_mask": mask})
        except Exception as error:
            raise _environment_failed(self.config, None, "reset", error) from error
        self._write(observation, mask)

    def snapshot(self, row: int, level: SnapshotLevel) -> dict[str, Any]:  # noqa: D102
        return self._call(row, "snapshot_state", level)

    def restore(self, row: int, state: dict[str, Any]) -> None:  # noqa: D102
        self._call(row, "restore_state", state)

    def replay(self, row: int, seed: int, actions: Sequence[Array]) -> None:  # noqa: D102
        env_actions = [
            _row_action(self.to_env_action(np.asarray(action)[None])) for action in actions
        ]
        self.write_row(row, self._call(row, "replay_state", seed, env_actions))

    def close(self) -> None:  # noqa: D102
        self.envs.close()

    def _call(self, row: int, name: str, *args: Any) -> Any:
        """Call one method of one worker; the others are not disturbed."""
        pipe = self.envs.parent_pipes[row]
        pipe.send(("_call", (name, list(args), {})))
        result, success = pipe.recv()
        if not success:
            self.envs._raise_if_errors([index != row for index in range(self.num_envs)])
        return result

    def _write(self, observation: Any, rows: Any) -> None:
        observation = self._flatten(observation)
        if isinstance(self.observation, dict):
            for key, storage in self.observation.items():
                storage[rows] = observation[key][rows]
        else:
            self.observation[rows] = observation[rows]


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


def _make_snapshotable(config: EnvConfig, evaluation: bool) -> gymnasium.Env:
    return SnapshotWrapper(config.make(evaluation))


def _row_action(batch: Array) -> Any:
    return batch[0].item() if batch.ndim == 1 else batch[0]


def _environment_failed(
    config: EnvConfig, row: int | None, call: str, error: Exception
) -> TrainingFailed:
    where = "" if row is None else f" (row {row})"
    reason = " ".join(str(error).split())
    return TrainingFailed(
        f"environment {config.name}{where} failed in {call}: {type(error).__name__}: {reason}"
    )
