"""What ends a run, what only warns, and what is left alone."""

from __future__ import annotations

import io
import math
import random

import pytest
import torch

from lightning_rl.callbacks.failure_guard import FailureGuard, RewardTrend, RunningMedian
from lightning_rl.errors import ConfigError, TrainingFailed

HEALTHY = {
    "train/policy_loss": -0.01,
    "train/value_loss": 30.0,
    "train/entropy_loss": -0.6,
    "train/approx_kl": 0.01,
}


def update(guard, agent, times=1, **changes):
    statistics = HEALTHY | {f"train/{name}": value for name, value in changes.items()}
    for _ in range(times):
        guard.on_update_end(None, agent, statistics)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_ends_the_run_in_one_line(value, agent):
    agent.env_steps = 4096
    with pytest.raises(TrainingFailed) as failure:
        update(FailureGuard(), agent, policy_loss=value)
    message = str(failure.value)
    assert message.startswith(f"Training failed at env step 4096: train/policy_loss is {value};")
    assert "lower learning_rate" in message
    assert "\n" not in message


def test_non_finite_rollout_blames_the_env_first(agent):
    with pytest.raises(TrainingFailed, match="rollout/mean_reward is nan; likely an env"):
        FailureGuard().on_rollout_end(None, agent, {"rollout/mean_reward": math.nan})


def test_action_std_collapse_must_last(agent):
    guard = FailureGuard(min_action_std=1e-3, patience=3)
    update(guard, agent, 2, action_std=1e-4)
    update(guard, agent, 1, action_std=1e-2)
    update(guard, agent, 2, action_std=1e-4)
    with pytest.raises(TrainingFailed, match=r"standard deviation collapsed to 0\.0001"):
        update(guard, agent, 1, action_std=1e-4)


def test_kl_blow_up_must_last(agent):
    guard = FailureGuard(max_approx_kl=1.0, patience=2)
    update(guard, agent, 1, approx_kl=5.0)
    update(guard, agent, 1, approx_kl=0.5)
    update(guard, agent, 1, approx_kl=5.0)
    with pytest.raises(TrainingFailed, match="approx_kl is 6 and was above 1 in 2 iterations"):
        update(guard, agent, 1, approx_kl=6.0)


@pytest.mark.parametrize("tag", ["value_loss", "td_loss"])
def test_value_explosion_warns_once_after_100_updates(tag, agent, caplog):
    guard = FailureGuard()
    update(guard, agent, 50, **{tag: 2.0})
    update(guard, agent, 99, **{tag: 2.1e6})
    assert guard.marks == []
    update(guard, agent, 300, **{tag: 2.1e6})
    assert guard.marks == ["value_explosion"]
    (record,) = caplog.records
    assert f"train/{tag} is 2.1e+06, its usual size was 2" in record.getMessage()


def test_exploding_mean_value_of_either_sign(agent):
    guard = FailureGuard(explosion_patience=3)
    for value in (1.0, -2e6, -3e6, -4e6):
        guard.on_update_end(None, agent, {"rollout/mean_value": value})
    assert guard.marks == ["value_explosion"]


def test_first_reward_of_a_sparse_task_is_no_explosion(agent):
    guard = FailureGuard()
    update(guard, agent, 500, value_loss=1e-12)
    update(guard, agent, 500, value_loss=5.0)
    assert guard.marks == []


def play(guard, agent, make_episode, reward, count=100):
    for _ in range(count):
        guard.on_episode_end(None, agent, make_episode(reward))


def test_entropy_death_without_progress_warns(agent, make_episode, caplog):
    guard = FailureGuard()
    play(guard, agent, make_episode, 20.0)
    update(guard, agent)
    play(guard, agent, make_episode, 9.0)
    update(guard, agent, 300, entropy_loss=-1e-9)
    assert guard.marks == ["entropy_death"]
    assert len(caplog.records) == 1


def test_solved_and_deterministic_is_left_alone(agent, make_episode):
    guard = FailureGuard()
    play(guard, agent, make_episode, 20.0)
    update(guard, agent)
    play(guard, agent, make_episode, 500.0)
    update(guard, agent, 300, entropy_loss=-1e-9)
    assert guard.marks == []


def test_entropy_that_was_never_there_did_not_die(agent, make_episode):
    guard = FailureGuard()
    play(guard, agent, make_episode, 500.0)
    update(guard, agent, 300, entropy_loss=0.0)
    assert guard.marks == []


def test_gaussian_entropy_may_be_negative(agent, make_episode):
    guard = FailureGuard()
    play(guard, agent, make_episode, 1.0)
    update(guard, agent, 1, entropy_loss=-3.0, action_std=1.0)
    update(guard, agent, 300, entropy_loss=5.0, action_std=0.01)
    assert guard.marks == []


def test_healthy_noise_raises_nothing(agent, make_episode):
    stream, guard = random.Random(1), FailureGuard()
    for _ in range(2000):
        guard.on_episode_end(None, agent, make_episode(stream.gauss(0, 100)))
        statistics = {
            "train/value_loss": math.exp(stream.gauss(3, 3)),
            "train/approx_kl": math.exp(stream.gauss(-4, 1)),
            "train/entropy_loss": -abs(stream.gauss(0, 0.3)),
        }
        guard.on_update_end(None, agent, statistics | {"rollout/mean_value": stream.gauss(0, 10)})
    assert guard.marks == []


def test_resumed_fails_where_unstopped_does(agent, make_episode):
    whole, before, after = (FailureGuard(patience=5) for _ in range(3))
    for guard in (whole, before):
        play(guard, agent, make_episode, 1.5, 130)
        update(guard, agent, 3, approx_kl=99.0)
    buffer = io.BytesIO()
    torch.save(before.state_dict(), buffer)
    buffer.seek(0)
    after.load_state_dict(torch.load(buffer, weights_only=True))
    for guard in (whole, after):
        update(guard, agent, 1, approx_kl=99.0)
    assert after.state_dict() == whole.state_dict()
    with pytest.raises(TrainingFailed):
        update(after, agent, 1, approx_kl=99.0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_action_std": -1},
        {"max_approx_kl": math.nan},
        {"patience": 0},
        {"explosion_factor": 0.5},
        {"explosion_patience": 0},
        {"min_entropy": -1},
        {"entropy_patience": 0},
    ],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        FailureGuard(**arguments)


def test_running_median_equals_sorting_the_window():
    stream, median, values = random.Random(2), RunningMedian(), []
    assert median.value == 0.0
    for _ in range(300):
        values.append(stream.choice([0.5, 1.0, stream.random()]))
        median.add(values[-1])
        window = sorted(values[-101:])
        assert median.value == window[len(window) // 2]


def test_reward_trend():
    trend = RewardTrend()
    for reward in [0.0] * 100 + [10.0] * 100:
        trend.add(reward)
    assert not trend.is_poor()
    for reward in [1.0] * 60:
        trend.add(reward)
    assert trend.recent == pytest.approx(4.6)
    assert trend.is_poor()
