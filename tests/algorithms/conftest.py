"""Shared by the tests of algorithms: the smallest possible training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest

import lightning_rl.envs.probes  # noqa: F401  registers the probe environments
from lightning_rl import algorithms
from lightning_rl.algorithms.base import Algorithm

BARE = {
    "max_epochs": -1,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}

NAMES = sorted(set(algorithms.__all__) - {"Algorithm"})
# Small units, so that a tiny budget has several of them. One without an entry uses its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "PPO": {"num_steps": 16, "minibatch_size": 32, "update_epochs": 2},
    "DQN": {"learning_starts": 16, "batch_size": 16, "env_steps_per_iteration": 32},
}
CARTPOLE = {"id": "CartPole-v1", "num_envs": 2}


@pytest.fixture
def fit() -> Callable[..., pl.Trainer]:
    """Return a function that trains an agent to the end of its budget with a stock trainer."""

    def train(agent: Algorithm, ckpt_path: str | None = None, **settings: Any) -> pl.Trainer:
        trainer = pl.Trainer(**{**BARE, **settings})
        trainer.fit(agent, ckpt_path=ckpt_path)
        return trainer

    return train


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest) -> Callable[..., Algorithm]:
    """Return a function that builds a small agent of one algorithm."""
    cls = getattr(algorithms, request.param)

    def build(env: Any = CARTPOLE, total_env_steps: int | None = 96, **arguments: Any) -> Algorithm:
        small = {"seed": 1, "compile": False, **SMALL.get(request.param, {}), **arguments}
        return cls(env, total_env_steps=total_env_steps, **small)

    return build
