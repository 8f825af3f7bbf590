"""The callbacks that every run has unless it brings its own of the same kind."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback, Trainer

from lightning_rl.callbacks.episode_statistics import EpisodeStatistics
from lightning_rl.callbacks.failure_guard import FailureGuard
from lightning_rl.callbacks.reward_components import RewardComponents
from lightning_rl.callbacks.throughput import Throughput


def monitoring_callbacks(present: Iterable[Callback]) -> list[Callback]:
    """Return what counts, measures and guards any run, without the kinds that are present."""
    kinds = (EpisodeStatistics, RewardComponents, Throughput, FailureGuard)
    return missing((kind() for kind in kinds), present)


def missing(defaults: Iterable[Callback], present: Iterable[Callback]) -> list[Callback]:
    """Return the defaults of whose class no callback is present."""
    present = tuple(present)
    return [
        default
        for default in defaults
        if not any(isinstance(callback, type(default)) for callback in present)
    ]


def for_stock_trainer(trainer: Trainer) -> list[Callback]:
    """Return what a plain `lightning.Trainer` lacks; a barebones one stays as it is."""
    return [] if trainer.barebones else monitoring_callbacks(trainer.callbacks)  # type: ignore[attr-defined]
