"""Filming episodes while they are played, one environment at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.rendering import RenderMode, frame_of, frames_per_second, make_rendering
from lightning_rl.storage.video import VideoFile, check_video_packages


class Window:
    """A viewer for `EvaluationSource` that shows the episodes in a window.

    Args:
        config: Description of the environment.
        check: Called with the environment before anything is played; may raise.
        evaluation: Whether its `eval_kwargs` apply.
    """

    mode: RenderMode = "human"

    def __init__(
        self,
        config: EnvConfig,
        check: Callable[[gymnasium.Env], None] = lambda env: None,
        evaluation: bool = True,
    ) -> None:
        self.config, self.evaluation, self._check = config, evaluation, check

    def make_env(self) -> gymnasium.Env:
        """Return the environment to play in."""
        env = make_rendering(self.config, self.mode, self.evaluation)
        try:
            self._check(env)
        except BaseException:
            env.close()
            raise
        return env

    def show(self, env: gymnasium.Env, episode: int) -> None:
        """Do nothing: in this mode the environment draws by itself."""


class Camera(Window):
    """A viewer that films the episodes; use it as a context manager.

    When the block ends well the last file is finished, otherwise removed.

    Attributes:
        paths: The finished files, in order.
        frames: Frames filmed.
        fps: Frames per second, known once something was filmed.

    Args:
        config: Description of the environment.
        path_of: From an episode's number to its file; neighbours with one file share it.
        check: See `Window`.
        evaluation: See `Window`.

    Raises:
        ConfigError: The extra `video` is not installed.
    """

    mode: RenderMode = "rgb_array"

    def __init__(
        self,
        config: EnvConfig,
        path_of: Callable[[int], Path],
        check: Callable[[gymnasium.Env], None] = lambda env: None,
        evaluation: bool = True,
    ) -> None:
        super().__init__(config, check, evaluation)
        check_video_packages()
        self.path_of = path_of
        self.paths: list[Path] = []
        self.frames = 0
        self.fps = 0.0
        self._file: VideoFile | None = None

    def show(self, env: gymnasium.Env, episode: int) -> None:
        """Film what the environment shows now.

        Raises:
            ConfigError: It cannot be drawn, or the file cannot be written.
        """
        path = self.path_of(episode)
        if self._file is not None and self._file.path != path:
            self._finish()
        if self._file is None:
            self.fps = frames_per_second(env)
            self._file = VideoFile(path, self.fps)
        self._file.add(frame_of(env))
        self.frames += 1

    def _finish(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self.paths.append(file.path)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._file is not None:
            self._file.discard()
            self._file = None
