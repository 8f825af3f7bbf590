"""What the reward is made of, and what else the environment reports."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.types import Episode, Statistics

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Relative difference up to which components count as adding up: room for float32 sums."""


class RewardComponents(Callback):
    """Log the components of the reward and the environment's own scalars.

    An environment reports them in a step's `info`: `reward_components` (name to number) and `log`.
    Logs, for what was reported since the last row:

    - `reward/<component>`: mean over the finished episodes of the component's sum per episode.
    - `reward_share/<component>`: its part, 0 to 1, of the absolute sums of all components.
    - `env/<key>`: mean of the scalar `key` of the env's `log`; a leading slash is stripped.

    Components that do not add up to the reward are reported once, with the difference.
    """

    def __init__(self) -> None:
        self._episodes = 0
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._magnitudes: defaultdict[str, float] = defaultdict(float)
        self._env_sums: defaultdict[str, float] = defaultdict(float)
        self._env_counts: defaultdict[str, int] = defaultdict(int)
        self._warned = False

    def on_episode_end(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Add the components of one episode, if it has any."""
        components = episode.reward_components
        if not components:
            return
        self._episodes += 1
        for name, value in components.items():
            self._sums[name] += float(value)
            self._magnitudes[name] += abs(float(value))
        if not self._warned:
            self._check(episode)

    def on_env_log(self, trainer: Trainer, agent: Agent, values: Statistics) -> None:
        """Add the scalars that the environment logged in one rollout."""
        for key, value in values.items():
            self._env_sums[key] += float(value)
            self._env_counts[key] += 1

    def metrics(self, trainer: Trainer, agent: Agent) -> Statistics:
        """Return components, shares and environment scalars since the last row."""
        total = sum(self._magnitudes.values()) or 1.0
        row = {f"reward/{name}": value / self._episodes for name, value in self._sums.items()}
        row |= {f"reward_share/{name}": value / total for name, value in self._magnitudes.items()}
        for key, value in self._env_sums.items():
            row[f"env/{key.removeprefix('/')}"] = value / self._env_counts[key]
        self._episodes = 0
        for accumulator in self._accumulators().values():
            accumulator.clear()
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return what was accumulated since the last row."""
        state: dict[str, Any] = {"episodes": self._episodes, "warned": self._warned}
        return state | {name: dict(values) for name, values in self._accumulators().items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self._episodes = state_dict["episodes"]
        self._warned = state_dict["warned"]
        for name, accumulator in self._accumulators().items():
            accumulator.clear()
            accumulator.update(state_dict[name])

    def _accumulators(self) -> dict[str, dict[str, Any]]:
        return {
            "sums": self._sums,
            "magnitudes": self._magnitudes,
            "env_sums": self._env_sums,
            "env_counts": self._env_counts,
        }

    def _check(self, episode: Episode) -> None:
        """Say once that the components miss, or count twice, a part of the reward."""
        components = episode.reward_components
        difference = sum(components.values()) - episode.reward
        size = max(1.0, abs(episode.reward), sum(map(abs, components.values())))
        if abs(difference) <= TOLERANCE * size:
            return
        self._warned = True
        log.warning(
            "The reward components of episode %d (%s) add up to %.6g, its reward is %.6g: a "
            "difference of %.6g. Check info['reward_components'] of the environment.",
            episode.index,
            ", ".join(components),
            sum(components.values()),
            episode.reward,
            difference,
        )
