"""Videos of the policy while it learns."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.errors import ConfigError, TrainingFailed, check_ranges
from lightning_rl.experience.evaluation import EpisodePolicy, EvaluationSource, evaluation_mode
from lightning_rl.experience.filming import Camera
from lightning_rl.experience.random_streams import global_random_state, restore_global_random_state
from lightning_rl.storage.video import check_video_packages

log = logging.getLogger(__name__)

FOLDER = "videos"


class VideoRecorder(Callback):
    """Film the policy after evaluations, to `videos/env_steps=<n>.mp4` of the run directory.

    The episodes are the first ones of the evaluation, played again: same seeds, same greedy policy.
    Filming changes no training state. It happens between two training units, where a signal can
    stop it; a resumed run films what was due. An environment that cannot be drawn costs a warning
    and never the run. Needs the extra `video`.

    Args:
        every_env_steps: Least env steps between two videos; default: one after every evaluation.
        episodes: Episodes in a video, at least 1.
        max_steps_per_episode: Cut episodes after so many env steps.

    Raises:
        ConfigError: An argument is out of range, or the extra `video` is not installed.
    """

    def __init__(
        self,
        every_env_steps: int | None = None,
        episodes: int = 1,
        max_steps_per_episode: int = 1_000,
    ) -> None:
        check_ranges(
            {
                "every_env_steps": (every_env_steps, 1, None),
                "episodes": (episodes, 1, None),
                "max_steps_per_episode": (max_steps_per_episode, 1, None),
            }
        )
        check_video_packages()
        self.every_env_steps, self.episodes = every_env_steps, episodes
        self.max_steps_per_episode = max_steps_per_episode
        self._last = 0
        self._due: int | None = None
        self._broken = False

    def on_validation_end(self, trainer: Trainer, agent: Agent) -> None:
        """Note that a video is due."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if agent.env_steps - self._last >= (self.every_env_steps or 1):
            self._due = int(agent.env_steps)

    def on_unit_boundary(self, trainer: Trainer, agent: Agent) -> None:
        """Film what is due."""
        self._film(trainer, agent)

    def on_train_end(self, trainer: Trainer, agent: Agent) -> None:
        """Film what is due after the last evaluation."""
        self._film(trainer, agent)

    def state_dict(self) -> dict[str, Any]:
        """Return what is due, and when the last video was."""
        return {"last": self._last, "due": self._due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self._last, self._due = state_dict["last"], state_dict["due"]

    def _film(self, trainer: Trainer, agent: Agent) -> None:
        run_dir = getattr(trainer, "run_dir", None)
        if self._due is None:
            return
        if run_dir is not None and trainer.is_global_zero and not self._broken:
            path = Path(run_dir) / FOLDER / f"env_steps={self._due}.mp4"
            try:
                self._play(agent, path)
            except (ConfigError, TrainingFailed, OSError) as error:
                self._broken = True
                log.warning("No more videos: %s", error)
        self._last, self._due = self._due, None

    def _play(self, agent: Agent, path: Path) -> None:
        random_state = global_random_state()  # what an environment may draw from
        camera = Camera(agent.env_config, lambda episode: path)
        source = EvaluationSource(
            agent.env_config,
            EpisodePolicy(agent),
            self.episodes,
            agent.seed,
            self.max_steps_per_episode,
            poll=agent.poll,
            viewer=camera,
        )
        try:
            with camera, contextlib.closing(source), evaluation_mode(agent):
                for _ in source:
                    pass
        finally:
            restore_global_random_state(random_state)
