"""Speed, time and memory."""

from __future__ import annotations

import pytest
import torch

from lightning_rl.callbacks.throughput import Throughput


def advance(agent, seconds, env_steps, gradient_steps=0, collect_s=0.0, logging_s=0.0):
    agent.elapsed_s += seconds
    agent.env_steps += env_steps
    agent.gradient_steps += gradient_steps
    agent.collect_s += collect_s
    agent.logging_s += logging_s


def test_rates_are_those_since_the_last_row(agent):
    callback = Throughput()
    callback.on_training_begins(None, agent)
    advance(agent, 2.0, 100, 10, 1.5, 0.5)
    row = callback.metrics(None, agent)
    assert row["time/env_steps_per_second"] == 50.0
    assert row["time/gradient_steps_per_second"] == 5.0
    assert row["time/collect_share"] == 0.75
    assert row["time/logging_share"] == 0.25
    assert row["time/elapsed_s"] == 2.0
    assert row["time/eta_s"] == pytest.approx(18.0)
    advance(agent, 1.0, 200)
    row = callback.metrics(None, agent)
    assert row["time/env_steps_per_second"] == 200.0
    assert row["time/eta_s"] == pytest.approx(7.0)  # 700 steps at 300 steps in 3 s


def test_steps_of_an_earlier_attempt_are_no_speed(agent):
    advance(agent, 10.0, 500, 50, 5.0)
    callback = Throughput()
    callback.on_training_begins(None, agent)
    advance(agent, 1.0, 100)
    row = callback.metrics(None, agent)
    assert row["time/env_steps_per_second"] == pytest.approx(100.0)
    assert row["time/elapsed_s"] == 11.0
    assert row["time/eta_s"] == pytest.approx(4.0)


def test_eta_of_an_episode_budget_and_past_the_end(agent):
    agent.total_env_steps, agent.total_episodes = None, 4
    callback = Throughput()
    callback.on_training_begins(None, agent)
    advance(agent, 1.0, 10)
    agent.episodes = 1
    assert callback.metrics(None, agent)["time/eta_s"] == pytest.approx(3.0)
    advance(agent, 1.0, 10)
    agent.episodes = 5
    assert callback.metrics(None, agent)["time/eta_s"] == 0.0


def test_no_time_no_rate(agent):
    callback = Throughput()
    callback.on_training_begins(None, agent)
    row = callback.metrics(None, agent)
    assert set(row) == {"time/elapsed_s", "system/rss_mb"}
    assert 10 < row["system/rss_mb"] < 100_000


def test_has_no_state(agent):
    callback = Throughput()
    callback.on_training_begins(None, agent)
    assert callback.state_dict() == {}


def test_a_gpu_is_measured_where_the_agent_has_one(agent, monkeypatch):
    def unknown(device):
        raise ModuleNotFoundError("pynvml")

    assert not any("gpu" in tag for tag in Throughput().metrics(None, agent))
    agent.device = torch.device("cpu")
    assert not any("gpu" in tag for tag in Throughput().metrics(None, agent))
    agent.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3_000_000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5_500_000)
    monkeypatch.setattr(torch.cuda, "utilization", unknown)
    row = Throughput().metrics(None, agent)
    assert (row["system/gpu_memory_mb"], row["system/gpu_reserved_mb"]) == (3.0, 5.5)
    assert "system/gpu_utilization" not in row
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 42)
    assert Throughput().metrics(None, agent)["system/gpu_utilization"] == 42.0
