"""The clock, the counters and the line of JSON, without any peer."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch

from benchmarks.speed import harness
from benchmarks.speed.harness import Clock, EpisodeReturns, Outcome, TorchUpdates


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Replace both clocks by numbers that the test sets."""
    now = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(harness.time, "process_time", lambda: now["cpu"])
    return now


def test_the_clock_leaves_the_warm_up_out(ticking: dict[str, float]) -> None:
    clock = Clock(warmup_env_steps=100)
    for wall, env_steps in [(1.0, 0), (2.0, 96), (5.0, 104), (6.0, 112)]:
        ticking["wall"] = wall
        clock.before_step(env_steps)
    ticking.update(wall=9.0, cpu=3.0)
    clock.stop(504)
    ticking.update(wall=99.0)
    clock.stop(999)
    assert clock.timings() == {
        "steps": 504,
        "timed_steps": 400,
        "seconds_after_warmup": 4.0,
        "steps_per_s": 100.0,
        "total_s": 9.0,
        "core_share": 0.75,
    }


def test_a_run_that_ends_in_the_warm_up_is_refused() -> None:
    clock = Clock(warmup_env_steps=100)
    clock.before_step(99)
    clock.stop(100)
    with pytest.raises(RuntimeError, match="nothing was timed"):
        clock.timings()


def test_torch_updates_are_counted_from_outside() -> None:
    updates = TorchUpdates()
    assert (updates.gradient_steps, updates.parameters) == (0, 0)
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    for _ in range(3):
        optimizer.step()
    updates.hook.remove()
    optimizer.step()
    assert (updates.gradient_steps, updates.parameters) == (3, 8)


def test_the_parameters_of_all_optimizers_are_counted_once() -> None:
    updates = TorchUpdates()
    networks = [torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)]
    optimizers = [torch.optim.Adam(network.parameters()) for network in networks]
    networks[1](networks[0](torch.ones(1, 3))).sum().backward()
    for optimizer in (*optimizers, optimizers[0]):
        optimizer.step()
    updates.hook.remove()
    assert (updates.gradient_steps, updates.parameters) == (3, 8 + 3)


def test_returns_are_summed_per_environment() -> None:
    returns = EpisodeReturns(num_envs=2)
    returns.add(np.array([1.0, 10.0]), np.array([False, False]))
    returns.add(np.array([2.0, 20.0]), np.array([True, False]))
    returns.add(np.array([4.0, 40.0]), np.array([True, True]))
    assert list(returns.last) == [3.0, 4.0, 70.0]


def test_a_run_prints_one_line_of_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.os, "environ", dict(os.environ))

    def train(case, options):
        sys.stdout.write("chatter of a library\n")
        clock = Clock(case.warmup_env_steps)
        clock.before_step(case.warmup_env_steps)
        clock.stop(case.total_env_steps)
        return Outcome("name", "1.0", 7, 11, [1.0, 2.0]), clock

    options = harness.parser().parse_args(
        ["--case", "ppo_cartpole", "--steps", "20", "--warmup", "5"]
    )
    harness.run_case(options, train)
    row = json.loads(capsys.readouterr().out)
    assert row["library"] == "name"
    assert (row["steps"], row["timed_steps"]) == (20, 15)
    assert (row["gradient_steps"], row["parameters"]) == (7, 11)
    assert row["mean_return_last_100"] == 1.5
    assert row["peak_rss_mb"] > 10
    assert harness.os.environ["OMP_NUM_THREADS"] == "1"
