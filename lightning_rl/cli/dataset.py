"""Writes episodes of a trained agent as a NumPy archive, one row per env step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.envs.seeding import episode_seed
from lightning_rl.errors import ConfigError
from lightning_rl.experience.evaluation import EVAL_MAX_STEPS_PER_EPISODE


def write_episodes(agent: Algorithm, num_episodes: int, file: Path) -> int:
    """Play the deterministic policy and write what happened.

    The archive holds, with T steps over all episodes: `observations` and `next_observations`
    `(T, *obs_shape)` (for dictionaries one array per key, `observations/key`), `actions` `(T,
    ...)`, `rewards`, `terminated`, `truncated` and `episode` `(T,)`, and `seeds` `(num_episodes,)`.
    Step t holds the reward and the flags after its action; `next_observations` is the true one.

    Args:
        agent: The agent.
        num_episodes: Episodes; their seeds are those of evaluation.
        file: Where to; replaced.

    Returns:
        T.

    Raises:
        ConfigError: If the file cannot be written.
    """
    columns: dict[str, list[Any]] = {}
    seeds = [episode_seed(agent.seed, "evaluation", index) for index in range(num_episodes)]
    env = agent.env_config.make(evaluation=True)
    try:
        for index, seed in enumerate(seeds):
            _play(agent, env, seed, index, columns)
    finally:
        env.close()
    arrays = {name: np.stack([np.asarray(v) for v in values]) for name, values in columns.items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays["seeds"] = np.asarray(seeds)
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error
    return len(arrays["rewards"])


@torch.inference_mode()
def _play(agent: Algorithm, env: Any, seed: int, index: int, columns: dict[str, list[Any]]) -> None:
    observation, _ = env.reset(seed=seed)
    state = None
    for step in range(EVAL_MAX_STEPS_PER_EPISODE):
        action, state = agent.predict_with_state(observation, state)
        following, reward, terminated, truncated, _ = env.step(action)
        truncated = truncated or step == EVAL_MAX_STEPS_PER_EPISODE - 1
        row = {
            **_named("observations", observation),
            **_named("next_observations", following),
            "actions": action,
            "rewards": reward,
            "terminated": terminated,
            "truncated": truncated and not terminated,
            "episode": index,
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
        if terminated or truncated:
            return
        observation = following


def _named(name: str, value: Any) -> dict[str, Any]:
    """Give every array of a nested observation a name of its own."""
    if isinstance(value, Mapping):
        parts = [_named(f"{name}/{key}", item) for key, item in value.items()]
    elif isinstance(value, tuple):
        parts = [_named(f"{name}/{key}", item) for key, item in enumerate(value)]
    else:
        return {name: np.array(value)}
    return {key: array for part in parts for key, array in part.items()}
