"""Small fakes of what callbacks see of an agent and its trainer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from lightning_rl.types import Episode


@pytest.fixture
def agent() -> SimpleNamespace:
    """An agent with a budget of 1,000 env steps of which none is spent."""
    return SimpleNamespace(
        env_steps=0,
        episodes=0,
        gradient_steps=0,
        total_env_steps=1000,
        total_episodes=None,
        elapsed_s=0.0,
        collect_s=0.0,
        logging_s=0.0,
    )


@pytest.fixture
def trainer() -> SimpleNamespace:
    """A trainer that is fitting, on one rank, without a run directory."""
    return SimpleNamespace(
        is_global_zero=True,
        run_dir=None,
        sanity_checking=False,
        should_stop=False,
        callback_metrics={},
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
    )


@pytest.fixture
def make_episode() -> Callable[..., Episode]:
    """Return a function from return and length to a finished episode."""

    def make(reward: float = 1.0, length: int = 1, **fields: Any) -> Episode:
        values: dict[str, Any] = {"index": 0, "env_index": 0, "seed": 0}
        values |= {"terminated": True, "truncated": False} | fields
        return Episode(reward=reward, length=length, **values)

    return make
