"""Executing a policy: finished episodes, outside of training and without a trace in it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from lightning_rl.callbacks.base import Agent
from lightning_rl.envs.config import EnvConfig, EnvLike
from lightning_rl.envs.masks import ActionMaskObservation
from lightning_rl.envs.seeding import episode_seed
from lightning_rl.envs.spaces import flatten_space
from lightning_rl.errors import ConfigError
from lightning_rl.experience.evaluation import (
    EVAL_MAX_STEPS_PER_EPISODE,
    EpisodePolicy,
    EvaluationSource,
    evaluation_mode,
)
from lightning_rl.experience.filming import Camera, Window
from lightning_rl.experience.random_streams import (
    RandomStreams,
    global_random_state,
    restore_global_random_state,
)
from lightning_rl.runs.results import ExecutionConfig, ExecutionResult, Render
from lightning_rl.runs.upkeep import one_line
from lightning_rl.types import Episode

log = logging.getLogger(__name__)


def evaluate_policy(
    agent: Agent,
    env: EnvLike | gymnasium.Env | None = None,
    num_episodes: int = 10,
    max_steps_per_episode: int | None = None,
    deterministic: bool = True,
    render: Render = False,
    seed: int | None = None,
    videos: Path | None = None,
) -> ExecutionResult:
    """Play episodes with a policy and return their rewards and lengths.

    The episodes are those of the `test` command: their seeds are met neither in training nor by
    the evaluations that choose checkpoints. Episode `i` has the same seed every time. Normalisers
    are frozen, and the random streams of training and of the caller stay where they are.

    Args:
        agent: Any algorithm.
        env: Default: the agent's own. An id is that environment seen through the agent's wrappers
            and frame stack; an `EnvConfig`, class or factory is taken as it is. An instance is
            reset and stepped, and not closed.
        num_episodes: Episodes, at least 1.
        max_steps_per_episode: Cut an episode after so many env steps.
        deterministic: Act greedily instead of sampling.
        render: `human` shows a window; `video` writes one MP4 per episode to `videos`.
        seed: Seed that the episodes' seeds derive from; default: the agent's.
        videos: Folder of the videos; default: `videos` in the run directory, or in the current
            directory outside a run.

    Returns:
        The result, episodes in the order of their numbers. When an environment or the policy
        fails, `success` is False, `error_message` says why, and the finished episodes are kept.

    Raises:
        ConfigError: An argument is out of range.
    """
    config = ExecutionConfig(num_episodes, max_steps_per_episode, render, deterministic)
    seed = agent.seed if seed is None else seed
    episodes: list[Episode] = []
    error_message = None
    try:
        playing = _play(agent, env, config, seed, videos)
        with untouched(agent, seed), contextlib.closing(playing) as played:
            for episode in played:
                episodes.append(episode)
    except Exception as error:
        error_message = one_line(error)
        log.error("Execution failed: %s", error_message)
        log.debug("Traceback of the failed execution", exc_info=True)
    episodes.sort(key=lambda episode: episode.index)
    return ExecutionResult(
        [episode.reward for episode in episodes],
        [episode.length for episode in episodes],
        len(episodes),
        error_message is None,
        error_message,
    )


def evaluate_policy_many(
    agent: Agent, configs: Iterable[ExecutionConfig], env: EnvLike | gymnasium.Env | None = None
) -> list[ExecutionResult]:
    """Execute a policy once per configuration; one result each, in their order."""
    return [evaluate_policy(agent, env, **vars(config)) for config in configs]


@contextlib.contextmanager
def untouched(agent: Agent, seed: int) -> Iterator[None]:
    """Put modes and random streams back, whatever happens inside, and start it from `seed`."""
    state, own_state = global_random_state(), agent.streams.state_dict()
    agent.streams.load_state_dict(RandomStreams(seed).state_dict())
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # what an environment may draw from
        torch.manual_seed(seed)
        with evaluation_mode(agent):
            yield
    finally:
        restore_global_random_state(state)
        agent.streams.load_state_dict(own_state)


def _play(
    agent: Agent,
    env: EnvLike | gymnasium.Env | None,
    config: ExecutionConfig,
    seed: int,
    videos: Path | None,
) -> Generator[Episode, None, None]:
    """Yield the episodes, and close what was opened for them."""
    if isinstance(env, gymnasium.Env):
        if agent.env_config.shows_action_mask and not isinstance(env, ActionMaskObservation):
            env = ActionMaskObservation(env)
        check_spaces(agent, env)
        yield from _play_one(agent, env, config, seed)
        return
    env_config = env_config_of(agent, env)
    with contextlib.ExitStack() as stack:
        viewer = _viewer(agent, env_config, config, videos)
        if isinstance(viewer, Camera):
            stack.enter_context(viewer)
        if viewer is None:
            with contextlib.closing(env_config.make(evaluation=True)) as instance:
                check_spaces(agent, instance)
        source = EvaluationSource(
            env_config,
            EpisodePolicy(agent, config.deterministic),
            config.num_episodes,
            seed,
            config.max_steps_per_episode,
            stream="test",
            viewer=viewer,
        )
        with contextlib.closing(source):
            yield from source


def env_config_of(agent: Agent, env: EnvLike | None) -> EnvConfig:
    """Return the description of the environment that `evaluate_policy` takes `env` for."""
    own: EnvConfig = agent.env_config
    if env is None:
        return own
    if isinstance(env, str):
        other = dataclasses.replace(
            own, id=env, factory=None, kwargs={}, eval_kwargs={}, max_episode_steps=None
        )
    else:
        # How the policy's actions become the environment's is the policy's property.
        other = dataclasses.replace(EnvConfig.coerce(env), action=own.action)
    return other.showing_action_mask(own.shows_action_mask)


def _viewer(
    agent: Agent, env_config: EnvConfig, config: ExecutionConfig, videos: Path | None
) -> Window | None:
    if not config.render:
        return None
    if config.render == "human":
        return Window(env_config, partial(check_spaces, agent))
    run_dir = getattr(getattr(agent, "_trainer", None), "run_dir", None)
    folder = videos or Path(run_dir or ".") / "videos"
    name = f"env_steps={agent.env_steps}-episode={{}}.mp4"
    check = partial(check_spaces, agent)
    return Camera(env_config, lambda episode: folder / name.format(episode), check)


def _play_one(
    agent: Agent, env: gymnasium.Env, config: ExecutionConfig, seed: int
) -> Iterator[Episode]:
    """Play the episodes one after the other in one environment."""
    limit = config.max_steps_per_episode or EVAL_MAX_STEPS_PER_EPISODE
    for index in range(config.num_episodes):
        reset_seed = episode_seed(seed, "test", index)
        observation, _ = env.reset(seed=reset_seed)
        reward, length = 0.0, 0
        state = None
        terminated = truncated = False
        while not (terminated or truncated or length >= limit):
            action, state = agent.predict_with_state(observation, state, config.deterministic)
            observation, step_reward, terminated, truncated, _ = env.step(action)
            reward += float(step_reward)
            length += 1
        ended = bool(terminated)
        yield Episode(index, 0, reset_seed, reward, length, ended, not ended)


def check_spaces(agent: Agent, env: gymnasium.Env) -> None:
    """Refuse an environment that the policy was not made for.

    Raises:
        ConfigError: Shape or kind of a space differs.
    """
    pairs = (  # as the policy sees them: flat, which is all that a checkpoint holds
        ("observation", agent.env_config.spaces()[0], flatten_space(env.observation_space)),
        ("action", agent.action_space, env.action_space),
    )
    for name, expected, received in pairs:
        if _form(expected) != _form(received):
            raise ConfigError(
                f"the policy expects an environment with the {name} space {_form(expected)}, "
                f"received one with {_form(received)}"
            )


def _form(space: spaces.Space) -> Any:
    """Return what has to agree between two spaces; bounds may differ."""
    if isinstance(space, spaces.Dict):
        return {key: _form(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [_form(part) for part in space.spaces]
    choices = np.asarray(getattr(space, "nvec", getattr(space, "n", space.shape))).tolist()
    return f"{type(space).__name__}({choices})"
