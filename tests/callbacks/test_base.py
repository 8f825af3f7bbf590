"""Hooks, listeners and plain functions as callbacks."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_rl.callbacks.base import HOOKS, Callback, EventCallback, listeners
from lightning_rl.errors import ConfigError


class Rollouts(Callback):
    def on_rollout_end(self, trainer, agent, statistics):
        self.seen = statistics


class OwnHookOnly(LightningCallback):
    def on_episode_end(self, trainer, agent, episode):
        pass


def test_all_hooks_are_no_ops():
    callback = Callback()
    assert callback.on_iteration_start(None, None) is None
    assert callback.on_metrics(None, None, {}, 0) is None
    assert callback.metrics(None, None) == {}


def test_hooks_name_ours_and_lightnings():
    assert {"on_rollout_end", "on_env_log", "metrics", "on_train_start", "setup"} <= set(HOOKS)
    assert "state_dict" not in HOOKS


def test_listeners_are_only_those_that_override():
    rollouts, event = Rollouts(), EventCallback(on_rollout_end=lambda *_: None)
    callbacks = [Callback(), rollouts, EarlyStopping("x"), event, EventCallback()]
    assert listeners(callbacks, "on_rollout_end") == [rollouts, event]
    assert listeners(callbacks, "on_update_end") == []
    assert listeners(callbacks, "on_validation_end") == [callbacks[2]]


def test_a_lightning_callback_may_have_our_hooks():
    callback = OwnHookOnly()
    assert listeners([callback], "on_episode_end") == [callback]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_event_callback_runs_under_lightning():
    calls = []
    stage = EventCallback(setup=lambda trainer, agent, stage: calls.append(stage))
    start = EventCallback(on_predict_start=lambda *_: calls.append("start"))
    trainer = Trainer(
        callbacks=[stage, start],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.predict(BoringModel(), torch.zeros(1, 32))
    assert calls == ["predict", "start"]


def test_event_callback_names_the_nearest_hook():
    with pytest.raises(ConfigError, match="'on_rolout_end'; did you mean 'on_rollout_end'"):
        EventCallback(on_rolout_end=print)


def test_event_callback_wants_functions():
    with pytest.raises(ConfigError, match="on_episode_end expects a function, received int"):
        EventCallback(on_episode_end=3)
