"""Vector environments: the rows in this process, or each in its own.

What all share, and what callers may rely on, is in `contract`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.contract import VectorEnv, rows_of_info, wrong_shape
from lightning_rl.envs.native import NativeRows
from lightning_rl.envs.snapshot import SnapshotWrapper, replay_env, restore_env, snapshot_env
from lightning_rl.envs.state_walk import UnsupportedState
from lightning_rl.types import Array, Info, SnapshotLevel


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
        return NativeRows(config, num_envs)
    return SyncRows(config, num_envs, evaluation)


class SyncRows(VectorEnv):
    """Rows stepped one after the other in this process, straight into preallocated arrays."""

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        evaluation: bool = False,
        make: Callable[[], gymnasium.Env] | None = None,
    ) -> None:
        make = make or partial(config.make, evaluation)
        self.envs = [make() for _ in range(num_envs)]
        super().__init__(
            config, num_envs, self.envs[0].observation_space, self.envs[0].action_space
        )
        one = self.observation
        self._single_shape = None if isinstance(one, dict) else one.shape[1:]
        self.activate(range(num_envs))

    def activate(self, rows: Iterable[int]) -> None:
        """Step only these rows from now on; the others keep their last values."""
        self._steps = [(row, self.envs[row].step) for row in rows]

    def step(self, action: Array) -> list[Info]:  # noqa: D102
        env_action = self.to_env_action(action)
        if env_action.ndim == 1:
            # Python integers: what `Discrete` environments index tables with.
            env_action = env_action.tolist()
        observation: Any = self.observation
        reward, shape = self.reward, self._single_shape
        for ended_before in self.ended:
            self.terminated[ended_before] = self.truncated[ended_before] = False
        infos: list[Info] = []
        ended: list[int] = []
        row = 0
        try:
            for row, step in self._steps:
                next_observation, reward[row], is_terminated, is_truncated, info = step(
                    env_action[row]
                )
                if shape is None:
                    self.write_row(row, next_observation)
                else:
                    # NumPy would stretch `(1,)` to any shape without a word.
                    if getattr(next_observation, "shape", shape) != shape:
                        raise wrong_shape(next_observation.shape, shape)
                    observation[row] = next_observation
                infos.append(info)
                if is_terminated or is_truncated:
                    self.terminated[row], self.truncated[row] = is_terminated, is_truncated
                    ended.append(row)
        except Exception as error:
            raise self.failed(row, "step", error) from error
        self.ended = ended
        return infos

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:  # noqa: D102
        row = -1
        try:
            for row, seed in zip(rows, seeds, strict=True):
                observation, _ = self.envs[row].reset(seed=seed)
                self.write_row(row, observation)
        except Exception as error:
            raise self.failed(row, "reset", error) from error

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
        make: Callable[[], gymnasium.Env] = partial(_make_worker_row, config, evaluation)
        self.envs = AsyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        single = self.envs.single_observation_space
        super().__init__(config, num_envs, single, self.envs.single_action_space)

    def step(self, action: Array) -> list[Info]:  # noqa: D102
        try:
            observation, reward, terminated, truncated, info = self.envs.step(
                self.to_env_action(action)
            )
        except Exception as error:
            raise self.failed(None, "step", error) from error
        self.write_rows(slice(None), observation)
        self.reward[:], self.terminated[:], self.truncated[:] = reward, terminated, truncated
        self.ended = np.flatnonzero(self.terminated | self.truncated).tolist()
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
            raise self.failed(None, "reset", error) from error
        self.write_rows(mask, observation)

    def snapshot(self, row: int, level: SnapshotLevel) -> dict[str, Any]:  # noqa: D102
        state = self._call(row, "snapshot_state", level)
        if "unsupported" in state:
            raise UnsupportedState(state["unsupported"])
        return state

    def restore(self, row: int, state: dict[str, Any]) -> None:  # noqa: D102
        self._call(row, "restore_state", state)

    def replay(self, row: int, seed: int, actions: Sequence[Array]) -> None:  # noqa: D102
        env_actions = [
            _row_action(self.to_env_action(np.asarray(action)[None])) for action in actions
        ]
        self.write_row(row, self._call(row, "replay_state", seed, env_actions))

    def close(self) -> None:  # noqa: D102
        if self.is_broken:  # a worker that died cannot be asked
            self.envs._state = AsyncState.DEFAULT
        self.envs.close(terminate=self.is_broken)

    def _call(self, row: int, name: str, *args: Any) -> Any:
        """Call one method of one worker; the others are not disturbed."""
        pipe = self.envs.parent_pipes[row]
        pipe.send(("_call", (name, list(args), {})))
        result, success = pipe.recv()
        if not success:
            self.envs._raise_if_errors([index != row for index in range(self.num_envs)])
        return result


class _WorkerRow(SnapshotWrapper):
    """Returns why a state cannot be saved: a worker that raises is shut down."""

    def snapshot_state(self, level: SnapshotLevel = "exact") -> dict[str, Any]:
        try:
            return super().snapshot_state(level)
        except UnsupportedState as error:
            return {"unsupported": str(error)}


def _make_worker_row(config: EnvConfig, evaluation: bool) -> gymnasium.Env:
    return _WorkerRow(config.make(evaluation))


def _row_action(batch: Array) -> Any:
    return batch[0].item() if batch.ndim == 1 else batch[0]
