"""Shared by the tests of algorithms: the smallest possible training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest

import lightning_rl.envs.probes  # noqa: F401  registers the probe environments
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


@pytest.fixture
def fit() -> Callable[..., pl.Trainer]:
    """Return a function that trains an agent to the end of its budget with a stock trainer."""

    def train(agent: Algorithm, ckpt_path: str | None = None, **settings: Any) -> pl.Trainer:
        trainer = pl.Trainer(**{**BARE, **settings})
        trainer.fit(agent, ckpt_path=ckpt_path)
        return trainer

    return train
