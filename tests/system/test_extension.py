"""A finished run that is given a larger budget becomes the run that had it from the beginning."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.cases import RUNS
from tests.system.fork_server import (
    Run,
    assert_equal,
    complete,
    differences,
    kill_at_random,
    record,
    resume_to_end,
    state,
)

pytestmark = pytest.mark.system

NAMES = ["ppo-cartpole", "dqn-cartpole", "ppo-half-cheetah", "dqn-lunar-lander"]


def endless(name: str) -> Run:
    """A case that does not stop before its budget is spent."""
    return replace(RUNS[name], patience=None)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_n_resumed_to_m_is_a_run_of_m(name: str, tmp_path: Path) -> None:
    short = endless(name).at(tmp_path / "short")
    budget = short.agent["total_env_steps"]
    long = (
        endless(name)
        .at(tmp_path / "long")
        .changed(total_env_steps=2 * budget, schedule_env_steps=budget)
    )
    complete(short)
    extended = short.changed(total_env_steps=2 * budget)
    resume_to_end(extended)
    complete(long)
    assert_equal(long, extended)


@pytest.mark.parametrize("name", ["ppo-cartpole", "dqn-cartpole"])
def test_killed_runs_that_are_extended_stay_equal(name: str, tmp_path: Path) -> None:
    draws, runs = random.Random(1), []
    for copy in ("a", "b"):
        run = endless(name).at(tmp_path / copy)
        budget = run.agent["total_env_steps"]
        kill_at_random(run, draws, 2.0, 3)
        resume_to_end(run)
        extended = run.changed(total_env_steps=budget + budget // 2)
        kill_at_random(extended, draws, 1.0, 3)
        resume_to_end(extended)
        runs.append(extended)
    assert_equal(*runs)


@pytest.mark.parametrize("name", ["ppo-cartpole", "dqn-cartpole"])
def test_resuming_a_finished_run_changes_nothing(name: str, tmp_path: Path) -> None:
    run = endless(name).at(tmp_path)
    complete(run)
    finished = state(run)
    for _ in range(3):
        resume_to_end(run)
        assert list(differences(finished, state(run))) == []
        assert record(run)["status"] == "finished"


def test_an_early_stop_is_remembered(tmp_path: Path) -> None:
    """Acrobot's return stays at the cut episode's length, so patience runs out."""
    run = RUNS["ppo-acrobot"].at(tmp_path)
    complete(run)
    stopped = state(run)
    assert stopped["lightning_rl"]["env_steps"] < run.agent["total_env_steps"]
    resume_to_end(run)
    assert list(differences(stopped, state(run))) == []
