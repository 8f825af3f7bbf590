"""Shared by the tests of algorithms: the smallest possible training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest

import lightning_rl.envs.probes  # noqa: F401  registers the probe environments
from lightning_rl import algorithms
from lightning_rl.algorithms.base import Algorithm
from tests.algorithms.cases import CASES, NAMES

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
    cls, case = getattr(algorithms, request.param), CASES[request.param]
    compilation = {} if case.gradient_steps is None else {"compile": False}

    def build(env: Any = None, total_env_steps: int | None = 96, **arguments: Any) -> Algorithm:
        env = {"id": case.env, "num_envs": 2} if env is None else env
        small = {"seed": 1, **compilation, **case.arguments, **arguments}
        return cls(env, total_env_steps=total_env_steps, **small)

    build.case = case  # type: ignore[attr-defined]
    return build


@pytest.fixture
def count_env(make: Any) -> dict[str, Any]:
    """Return the counting environment with spaces that the algorithm supports."""
    return {"id": "LightningRL/Count-v0", "kwargs": make.case.probe}
