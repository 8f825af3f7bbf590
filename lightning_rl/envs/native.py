"""Batched implementations that an environment brings along; they reset their rows themselves."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np
from gymnasium.vector import AutoresetMode

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.contract import VectorEnv, rows_of_info
from lightning_rl.errors import ConfigError
from lightning_rl.functional.trees import map_tree
from lightning_rl.types import Array, Info

logger = logging.getLogger(__name__)


class NativeRows(VectorEnv):
    """Rows stepped together by the id's own batched implementation.

    It resets ended rows itself, in one of three ways (its `metadata["autoreset_mode"]`), and takes
    one seed for all rows, so that single episodes cannot be repeated from their seeds. In the usual
    way, next step, the step behind an episode's end resets and is no transition: `valid` is False.
    """

    skips_steps = True

    def __init__(self, config: EnvConfig, num_envs: int) -> None:
        self.envs = config.make_vector(num_envs)
        single = self.envs.single_observation_space
        super().__init__(config, num_envs, single, self.envs.single_action_space)
        self._mode = self.envs.metadata.get("autoreset_mode")
        if not isinstance(self._mode, AutoresetMode):
            raise ConfigError(
                f"environment {config.name} does not say how its rows are reset "
                '(metadata["autoreset_mode"]); use vectorization: sync or async'
            )
        self._resets_next: Array = np.zeros(num_envs, dtype=bool)
        self._begun = copy.deepcopy(self.observation)  # same step: where new episodes begin
        self._lacks_finals = False

    def step(self, action: Array) -> list[Info]:  # noqa: D102
        try:
            observation, reward, terminated, truncated, info = self.envs.step(
                self.to_env_action(action)
            )
        except Exception as error:
            raise self.failed(None, "step", error) from error
        np.logical_not(self._resets_next, out=self.valid)
        self._resets_next[:] = False
        self.write_rows(slice(None), observation)
        self.reward[:] = np.where(self.valid, reward, 0.0)
        self.terminated[:], self.truncated[:] = terminated & self.valid, truncated & self.valid
        self.ended = np.flatnonzero(self.terminated | self.truncated).tolist()
        infos = rows_of_info(info, self.num_envs)
        if self._mode == AutoresetMode.SAME_STEP:
            self._swap_finals(infos)
        return infos

    def _swap_finals(self, infos: list[Info]) -> None:
        """Set the beginnings of new episodes aside, and show the true final observations."""
        if self.ended:
            self._begun = copy.deepcopy(self.observation)
        for row in self.ended:
            info = infos[row]
            infos[row] = {**info, **info.get("final_info", {})}
            if "final_obs" in info:
                self.write_row(row, info["final_obs"])
            elif not self._lacks_finals:
                self._lacks_finals = True
                logger.warning(
                    "%s does not report the last observations of its episodes (final_obs): "
                    "truncated ones are judged by the first of the next",
                    self.config.name,
                )

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Reset all rows with the first seed; what some rows need depends on the implementation."""
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[list(rows)] = True
        try:
            if mask.all():
                observation, _ = self.envs.reset(seed=seeds[0])
                self.write_rows(mask, observation)
            elif self._mode == AutoresetMode.NEXT_STEP:
                self._resets_next |= mask
            elif self._mode == AutoresetMode.SAME_STEP:
                map_tree(
                    lambda now, begun: _copy_rows(now, begun, mask), self.observation, self._begun
                )
            else:
                observation, _ = self.envs.reset(options={"reset_mask": mask})
                self.write_rows(mask, observation)
        except Exception as error:
            raise self.failed(None, "reset", error) from error

    def close(self) -> None:  # noqa: D102
        self.envs.close()


def _copy_rows(target: Array, source: Array, mask: Array) -> None:
    target[mask] = source[mask]
