"""Rows and summary of training episodes."""

from __future__ import annotations

import io
import random

import pytest
import torch

from lightning_rl.callbacks.episode_statistics import HISTORY, EpisodeStatistics


def test_row_covers_episodes_since_the_last_row(make_episode):
    callback = EpisodeStatistics()
    assert callback.metrics(None, None) == {}
    for reward, length in ((1.0, 10), (4.0, 20)):
        callback.on_episode_end(None, None, make_episode(reward, length))
    row = callback.metrics(None, None)
    assert row == {"episode/mean_reward": 2.5, "episode/mean_length": 15.0}
    assert callback.metrics(None, None) == {}
    callback.on_episode_end(None, None, make_episode(-3.0, 5))
    assert callback.metrics(None, None)["episode/mean_reward"] == -3.0


def test_summary_covers_all_episodes(make_episode):
    callback = EpisodeStatistics()
    for reward in (2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0):
        callback.on_episode_end(None, None, make_episode(reward, 3))
        callback.metrics(None, None)
    assert callback.summary() == pytest.approx(
        {
            "mean_reward": 5.0,
            "std_reward": 2.0,
            "min_reward": 2.0,
            "max_reward": 9.0,
            "mean_episode_length": 3.0,
            "episodes_completed": 8,
        }
    )


def test_summary_without_episodes():
    summary = EpisodeStatistics().summary()
    assert summary.pop("episodes_completed") == 0
    assert set(summary.values()) == {None}


def test_large_offset_does_not_cancel(make_episode):
    callback = EpisodeStatistics()
    for reward in (1e9 + 1, 1e9 + 3):
        callback.on_episode_end(None, None, make_episode(reward))
    assert callback.summary()["std_reward"] == pytest.approx(1.0)


def test_history_is_bounded(make_episode):
    callback = EpisodeStatistics()
    for index in range(HISTORY + 5):
        callback.on_episode_end(None, None, make_episode(float(index)))
    assert (len(callback.rewards), callback.rewards[0]) == (HISTORY, 5.0)
    assert callback.summary()["min_reward"] == 0.0


def test_resumed_equals_unstopped(make_episode):
    stream = random.Random(0)
    episodes = [make_episode(stream.gauss(0, 1), stream.randint(1, 99)) for _ in range(50)]
    whole, first, second = EpisodeStatistics(), EpisodeStatistics(), EpisodeStatistics()
    for index, episode in enumerate(episodes):
        whole.on_episode_end(None, None, episode)
        (first if index < 23 else second).on_episode_end(None, None, episode)
        if index == 22:
            buffer = io.BytesIO()
            torch.save(first.state_dict(), buffer)
            buffer.seek(0)
            second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.summary() == whole.summary()
    assert (second.rewards, second.lengths) == (whole.rewards, whole.lengths)
    assert second.metrics(None, None) == whole.metrics(None, None)
