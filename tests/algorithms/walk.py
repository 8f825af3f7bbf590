"""A corridor for tabular algorithms, and what they did in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import lightning.pytorch as pl
import numpy as np
from gymnasium import spaces

from lightning_rl.algorithms import Algorithm
from lightning_rl.callbacks.base import EventCallback
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import ProbeEnv

Fit = Callable[..., pl.Trainer]
BITS = {"id": "LightningRL/ObservationAction-v0", "kwargs": {"observation": "discrete"}}
COUNT = {"id": "LightningRL/Count-v0", "kwargs": {"observation": "discrete"}}


class Walk(ProbeEnv):
    """A corridor of five places from the middle; the right end pays 1 and ends, the left is a wall.

    Args:
        nan_at: Step, over the life of the instance, whose reward is NaN.
    """

    def __init__(self, nan_at: int | None = None) -> None:
        super().__init__()
        self.observation_space = spaces.Discrete(5)
        self.nan_at, self.steps = nan_at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        gymnasium.Env.reset(self, seed=seed)
        self.place = 2
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.place = max(0, self.place + (1 if action == 1 else -1))
        reward = float("nan") if self.steps == self.nan_at else float(self.place == 4)
        return self.place, reward, self.place == 4, False, {}


WALK = {"factory": Walk, "max_episode_steps": 7}  # long enough to end either way


def walk(num_envs: int = 2, **options: Any) -> Any:
    return EnvConfig(**{**WALK, "num_envs": num_envs, **options})


def table_of(agent: Any) -> np.ndarray:
    return agent.table.values.numpy().copy()


def collected(fit: Fit, agent: Algorithm) -> list[dict[str, Any]]:
    """Train, and return every step: of each environment what it saw, did, got and was led to."""
    steps: list[dict[str, Any]] = []

    def note(trainer: Any, agent: Any, statistics: Any) -> None:
        rollout = agent.source.rollout
        following = rollout.next_observation()
        for t in range(rollout.num_steps):
            for n in range(rollout.num_envs):
                steps.append(
                    {
                        "env": n,
                        "seen": int(rollout.observation[t, n]),
                        "action": int(rollout.action[t, n]),
                        "reward": float(rollout.reward[t, n]),
                        "terminated": bool(rollout.terminated[t, n]),
                        "truncated": bool(rollout.truncated[t, n]),
                        "next": int(following[t, n]),
                    }
                )

    fit(agent, callbacks=[EventCallback(on_rollout_end=note)])
    return steps
