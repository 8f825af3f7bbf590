"""Films of a trained agent, and episodes played again from their replay files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.callbacks.base import Agent
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.errors import ConfigError
from lightning_rl.experience.evaluation import EpisodePolicy, EvaluationSource
from lightning_rl.experience.filming import Camera
from lightning_rl.runs.execution import check_spaces, env_config_of, untouched
from lightning_rl.runs.results import ExecutionConfig
from lightning_rl.runs.upkeep import one_line
from lightning_rl.storage.episode_file import EpisodeReplay, read_replay


@dataclass
class Recording:
    """What was filmed.

    Attributes:
        path: The MP4 file; None when an episode was only played again.
        episode_rewards: Undiscounted return of each episode.
        episode_lengths: Env steps of each episode.
        frames: Frames in the file: one after each reset and each step.
        fps: Frames per second, the environment's own.
        difference: How a replayed episode differs from its file, None where it agrees.
    """

    path: Path | None
    episode_rewards: list[float] = field(default_factory=list)
    episode_lengths: list[int] = field(default_factory=list)
    frames: int = 0
    fps: float = 0.0
    difference: str | None = None


def record_video(
    agent: Agent,
    path: str | Path,
    episodes: int = 1,
    env: EnvLike | None = None,
    deterministic: bool = True,
    max_steps_per_episode: int | None = None,
    seed: int | None = None,
) -> Recording:
    """Film episodes of a policy into one MP4 file; they are those of `evaluate_policy`.

    Args:
        agent: Any algorithm.
        path: The file, ending in `.mp4`; replaced when it exists.
        episodes: Episodes, at least 1.
        env: Environment; default: the agent's own. See `evaluate_policy`.
        deterministic: Act greedily instead of sampling.
        max_steps_per_episode: Cut an episode after so many env steps.
        seed: Seed that the episodes' seeds derive from; default: the agent's.

    Raises:
        ConfigError: An argument is wrong, the environment cannot be drawn, the file cannot be
            written, or the extra `video` is not installed.
        TrainingFailed: The environment fails.
    """
    path = check_video_path(path)
    options = ExecutionConfig(episodes, max_steps_per_episode, "video", deterministic)
    config = env_config_of(agent, env)
    seed = agent.seed if seed is None else seed
    camera = Camera(config, lambda _: path, lambda instance: check_spaces(agent, instance))
    source = EvaluationSource(
        config,
        EpisodePolicy(agent, options.deterministic),
        options.num_episodes,
        seed,
        options.max_steps_per_episode,
        stream="test",
        viewer=camera,
    )
    with untouched(agent, seed), camera, contextlib.closing(source):
        played = list(source)
    rewards, lengths = ([getattr(item, name) for item in played] for name in ("reward", "length"))
    return Recording(path, rewards, lengths, camera.frames, camera.fps)


def record_replay(
    replay: EpisodeReplay | str | Path, path: str | Path | None = None, env: EnvLike | None = None
) -> Recording:
    """Play a stored episode again, compare it with its file, and film it.

    Args:
        replay: A replay, or the file of one.
        path: The MP4 file; None to compare only.
        env: Environment to use instead of the stored one; needed for one that was made in Python.

    Returns:
        The recording; `difference` says where the rewards or the end differ.

    Raises:
        ConfigError: The file is no valid replay, its environment cannot be made or drawn here, or
            refuses one of the stored actions.
    """
    if not isinstance(replay, EpisodeReplay):
        replay = read_replay(replay)
    config = _config(replay, env)
    if path is None:
        with contextlib.closing(_made(replay, config.make)) as instance:
            return _play_again(replay, instance, None)
    path = check_video_path(path)
    camera = Camera(config, lambda _: path, evaluation=False)
    with camera, contextlib.closing(_made(replay, camera.make_env)) as instance:
        recording = _play_again(replay, instance, camera)
    return replace(recording, path=path, frames=camera.frames, fps=camera.fps)


def check_video_path(path: str | Path) -> Path:
    """Return the path of an MP4 file.

    Raises:
        ConfigError: It has another ending.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"expected the name of an .mp4 file, received {str(path)!r}")
    return path


def _config(replay: EpisodeReplay, env: EnvLike | None) -> EnvConfig:
    try:
        return EnvConfig.coerce(replay.env if env is None else env)
    except ConfigError:
        raise
    except (TypeError, ValueError, AttributeError) as error:  # an entry of the wrong kind
        raise ConfigError(f"the replay's environment is not valid: {one_line(error)}") from error


def _made(replay: EpisodeReplay, make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Make the environment; whatever a stored description provokes becomes one line."""
    try:
        return make()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{replay.environment} cannot be made: {one_line(error)}") from error


def _play_again(replay: EpisodeReplay, env: gymnasium.Env, camera: Camera | None) -> Recording:
    """Play the stored actions.

    Raises:
        ConfigError: An action is not one of the environment's, or the environment raises.
    """
    rewards: list[float] = []
    terminated = truncated = False
    try:
        env.reset(seed=replay.seed)
        for stored in replay.actions:
            if terminated or truncated:
                break
            if camera is not None:
                camera.show(env, replay.episode)
            action = _action(env.action_space, stored)
            _, reward, terminated, truncated, _ = env.step(action)
            rewards.append(float(reward))
        if camera is not None:
            camera.show(env, replay.episode)
    except ConfigError:
        raise
    except Exception as error:
        where = f"after {len(rewards)} steps"
        raise ConfigError(f"{replay.environment} failed {where}: {one_line(error)}") from error
    difference = _difference(replay, rewards, bool(terminated))
    return Recording(None, [math.fsum(rewards)], [len(rewards)], difference=difference)


def _action(space: spaces.Space, stored: Any) -> Any:
    """Return a stored action in the form that the environment takes.

    Raises:
        ConfigError: It is not one of the space; a Box may be left by rounding.
    """
    try:
        given = np.asarray(stored)
        with np.errstate(invalid="ignore"):  # NaN as an integer is refused below
            action = given.astype(space.dtype)
    except (TypeError, ValueError, OverflowError):
        given = action = np.empty(0)
    value: Any = (
        action.item() if isinstance(space, spaces.Discrete) and action.size == 1 else action
    )
    fits = action.shape == (space.shape or ())
    if isinstance(space, spaces.Box):
        fits = fits and bool(np.isfinite(action).all())
    elif fits:
        fits = bool(np.all(given == action)) and space.contains(value)
    if not fits:
        raise ConfigError(f"expected an action of {space}, the replay has {str(stored)[:60]}")
    return value


def _difference(replay: EpisodeReplay, rewards: list[float], terminated: bool) -> str | None:
    """Return the first thing in which the played episode differs from the stored one."""
    for step, (stored, now) in enumerate(zip(replay.rewards, rewards, strict=False)):
        if stored != now and not (math.isnan(stored) and math.isnan(now)):
            return f"the reward of step {step + 1} is {now:g}, in the file {stored:g}"
    if len(rewards) < replay.length:
        return f"the episode ends after {len(rewards)} steps, in the file after {replay.length}"
    if terminated != replay.terminated:
        return f"terminated is {terminated} at the end, in the file {replay.terminated}"
    return None
