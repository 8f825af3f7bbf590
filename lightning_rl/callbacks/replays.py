"""Replays: some training episodes written down so completely that they can be played again."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.errors import check_ranges
from lightning_rl.functional.trees import map_tree
from lightning_rl.storage.episode_file import EpisodeReplay, write_replay
from lightning_rl.types import Array, Episode, Observation

log = logging.getLogger(__name__)

FOLDER = "replays"


class EpisodeReplays(Callback):
    """Write a part of the training episodes to `replays/episode=<n>.json` of the run directory.

    A file holds the environment's configuration, the episode's seed, every action and every reward:
    `lightning-rl record --replay FILE` plays the episode again and films it. Whether an episode is
    written depends on its seed alone, so that no random stream is touched and a resumed run writes
    the same files as one that was never stopped.

    Args:
        sample_rate: Part of the episodes to write, in [0, 1].
        observations: Write what the policy saw as well; files become much larger.
        keep: Newest files to keep, at least 1.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self, sample_rate: float = 0.1, observations: bool = False, keep: int = 1_000
    ) -> None:
        check_ranges({"sample_rate": (sample_rate, 0.0, 1.0), "keep": (keep, 1, None)})
        self.sample_rate, self.observations, self.keep = sample_rate, observations, keep
        self._open: dict[int, _OpenEpisode] = {}
        self._written: list[int] = []
        self._warned = False

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Begin to watch, and remove files of episodes that this run has yet to play."""
        folder, collector = _folder(trainer), getattr(agent.source, "collector", None)
        if folder is None or collector is None:
            return
        if collector.env.skips_steps and not self._warned:
            self._warned = True
            log.warning(
                "%s resets itself: its episodes do not follow from their seeds, and their replays "
                "cannot be played again",
                collector.env.config.name,
            )
        found = sorted(number for path in folder.glob("*.json") if (number := _number(path)) >= 0)
        for number in found:
            if number >= agent.episodes:
                (folder / _name(number)).unlink(missing_ok=True)
        self._written = [number for number in found if number < agent.episodes]
        collector.observe(self)

    def on_episode_begin(self, env: Any, row: int, seed: int, length: int) -> None:
        """Begin to write an episode down if it is one of the sample."""
        known = self._open.get(row)
        if known is not None and known.seed == seed and len(known.rewards) == length:
            return  # a resumed run's
        self._open.pop(row, None)
        if length == 0 and is_sampled(seed, self.sample_rate):
            self._open[row] = _OpenEpisode(seed)
            if self.observations:
                self._open[row].add_observation(env.observation, row)

    def on_step(self, env: Any, action: Array) -> None:
        """Add one step to each episode that is being written down."""
        for row, episode in self._open.items():
            if env.valid[row]:
                episode.actions.append(np.array(action[row]))
                episode.rewards.append(float(env.reward[row]))
                if self.observations:
                    episode.add_observation(env.observation, row)

    def on_episode_end(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Write the file of a finished episode."""
        played = self._open.pop(episode.env_index, None)
        if played is None or not played.actions:
            return
        folder = _folder(trainer)
        if folder is None:
            return
        env = agent.source.collector.env
        replay = EpisodeReplay(
            algorithm=type(agent).__name__,
            environment=env.config.name,
            env=env.config.to_dict(),
            seed=episode.seed,
            actions=np.asarray(env.to_env_action(np.stack(played.actions))).tolist(),
            rewards=played.rewards,
            terminated=episode.terminated,
            truncated=episode.truncated,
            episode=episode.index,
            env_index=episode.env_index,
            env_steps=episode.env_steps,
            agent_id=episode.agent_id,
            observations=played.observation_lists(),
        )
        self._write(replay, folder)

    def _write(self, replay: EpisodeReplay, folder: Path) -> None:
        """Write, or say once that it does not work."""
        try:
            folder.mkdir(exist_ok=True)
            write_replay(replay, folder / _name(replay.episode))
            self._written.append(replay.episode)
            while len(self._written) > self.keep:
                (folder / _name(self._written.pop(0))).unlink(missing_ok=True)
        except (OSError, TypeError, ValueError) as error:
            if not self._warned:
                self._warned = True
                log.warning("Cannot write replays to %s (%s); the run goes on.", folder, error)

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes that are being written down."""
        return {"open": [[row, episode.state_dict()] for row, episode in self._open.items()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self._open = {row: _OpenEpisode.from_state(state) for row, state in state_dict["open"]}


class _OpenEpisode:
    """An episode so far."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.actions: list[Array] = []
        self.rewards: list[float] = []
        self.observations: list[Observation] = []

    def add_observation(self, observation: Observation, row: int) -> None:
        self.observations.append(map_tree(lambda leaf: leaf[row].copy(), observation))

    def observation_lists(self) -> Any:
        if not self.observations:
            return None
        return map_tree(lambda *leaves: np.stack(leaves).tolist(), *self.observations)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "actions": _stacked(self.actions),
            "rewards": torch.tensor(self.rewards, dtype=torch.float64),
            "observations": map_tree(lambda *leaves: _stacked(list(leaves)), *self.observations)
            if self.observations
            else None,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> _OpenEpisode:
        episode = cls(state["seed"])
        if state["actions"] is not None:
            episode.actions = list(state["actions"].numpy())
        episode.rewards = state["rewards"].tolist()
        stacked = state["observations"]
        if stacked is not None:
            episode.observations = [
                map_tree(lambda leaf, at=index: leaf[at].numpy(), stacked)
                for index in range(len(episode.rewards) + 1)
            ]
        return episode


def is_sampled(seed: int, rate: float) -> bool:
    """Return whether the episode with this seed is in a sample of `rate`, in [0, 1].

    The seed's hash decides: smaller samples are part of larger ones.
    """
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=7).digest()
    return int.from_bytes(digest, "little") / 2**56 < rate


def _stacked(arrays: list[Array]) -> torch.Tensor | None:
    return torch.from_numpy(np.stack(arrays)) if arrays else None


def _folder(trainer: Trainer) -> Path | None:
    run_dir = getattr(trainer, "run_dir", None)
    return Path(run_dir) / FOLDER if run_dir is not None else None


def _name(episode: int) -> str:
    return f"episode={episode}.json"


def _number(path: Path) -> int:
    """Return the episode's number, -1 for a file that is not ours."""
    number = path.stem.partition("=")[2]
    return int(number) if number.isdigit() and path.name == _name(int(number)) else -1
