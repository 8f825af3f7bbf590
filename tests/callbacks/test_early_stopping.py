"""Stopping by evaluations."""

from __future__ import annotations

import logging

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from lightning_rl.callbacks.early_stopping import EvaluationEarlyStopping, StopOnReward
from lightning_rl.errors import ConfigError

TAG = "eval/mean_reward"


def evaluate(callback, trainer, agent, *values):
    """Feed evaluations until the stop; return how many were needed, or None."""
    for count, value in enumerate(values, start=1):
        trainer.callback_metrics[TAG] = value
        callback.on_validation_end(trainer, agent)
        if trainer.should_stop:
            return count
    return None


@pytest.mark.parametrize(
    ("arguments", "values", "stops_after"),
    [
        ({"patience": 2}, [1, 2, 2, 2, 9], 4),
        ({"patience": 2}, [1, 2, 1, 3, 2, 4], None),
        ({"patience": 1, "min_delta": 0.5}, [1, 1.5], 2),
        ({"patience": 1, "min_delta": 0.5}, [1, 1.6], None),
        ({"patience": 1, "mode": "min"}, [3, 2, 1], None),
        ({"patience": 1, "mode": "min"}, [3, 3], 2),
        ({"patience": 2}, [float("nan"), float("nan"), 5], 2),
    ],
)
def test_patience(arguments, values, stops_after, trainer, agent):
    assert evaluate(EvaluationEarlyStopping(**arguments), trainer, agent, *values) == stops_after


def test_stop_on_reward_and_its_line(trainer, agent, caplog):
    caplog.set_level(logging.INFO)
    agent.env_steps = 640
    assert evaluate(StopOnReward(475), trainer, agent, 100, 474.9, 475.0, 500) == 3
    (record,) = caplog.records
    assert record.getMessage() == (
        "Stopping at env step 640: eval/mean_reward 475.0 has reached 475."
    )


@pytest.mark.parametrize("callback", [EvaluationEarlyStopping(1), StopOnReward(0)])
def test_only_evaluations_of_a_training_run_count(callback, trainer, agent):
    trainer.callback_metrics[TAG] = 1.0
    trainer.sanity_checking = True
    for _ in range(3):
        callback.on_validation_end(trainer, agent)
    trainer.sanity_checking = False
    trainer.state.fn = TrainerFn.VALIDATING
    for _ in range(3):
        callback.on_validation_end(trainer, agent)
    assert not trainer.should_stop


@pytest.mark.parametrize(
    ("make", "values"),
    [(lambda: EvaluationEarlyStopping(2), [3, 2, 1]), (lambda: StopOnReward(3), [1, 3])],
)
def test_a_decided_stop_survives_a_restart(make, values, trainer, agent):
    before = make()
    assert evaluate(before, trainer, agent, *values) == len(values)
    trainer.should_stop = False
    after = make()
    after.load_state_dict(before.state_dict())
    after.on_training_begins(trainer, agent)
    assert trainer.should_stop


@pytest.mark.parametrize("split", [1, 2, 3, 4])
def test_resumed_counts_on(split, trainer, agent):
    values = [1, 2, 2, 1, 1]
    before, after = EvaluationEarlyStopping(3), EvaluationEarlyStopping(3)
    assert evaluate(before, trainer, agent, *values[:split]) is None
    after.load_state_dict(before.state_dict())
    after.on_training_begins(trainer, agent)
    assert evaluate(after, trainer, agent, *values[split:]) == len(values) - split


def test_larger_patience_or_threshold_lets_a_stopped_run_go_on(trainer, agent):
    for callback, state in (
        (EvaluationEarlyStopping(9), {"best": 1.0, "waited": 3}),
        (StopOnReward(9), {"latest": 8.0}),
    ):
        callback.load_state_dict(state)
        callback.on_training_begins(trainer, agent)
        assert not trainer.should_stop


def test_unknown_monitor_names_the_nearest(trainer, agent):
    trainer.callback_metrics = {"eval/mean_reward": 1.0}
    with pytest.raises(ConfigError, match="did you mean 'eval/mean_reward'"):
        StopOnReward(1, monitor="eval/mean_rewrd").on_validation_end(trainer, agent)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EvaluationEarlyStopping(0),
        lambda: EvaluationEarlyStopping(1, min_delta=-1),
        lambda: EvaluationEarlyStopping(1, min_delta=float("nan")),
        lambda: EvaluationEarlyStopping(1, mode="best"),
        lambda: StopOnReward(float("nan")),
    ],
)
def test_arguments_out_of_range(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


def test_two_that_watch_different_values_have_different_keys():
    assert StopOnReward(1, "a").state_key != StopOnReward(1, "b").state_key
    keys = {EvaluationEarlyStopping(1, monitor=monitor).state_key for monitor in "ab"}
    assert len(keys) == 2
