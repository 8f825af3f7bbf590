"""A run that was asked to stop, anywhere and repeatedly, is the run that was never stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.cases import RUNS
from tests.system.fork_server import Run, assert_equal, complete, finish, resume_to_end, start

pytestmark = pytest.mark.system

# (module that asks whether to stop, which time it asks in that attempt), one per attempt.
Stops = list[tuple[str, int]]
STOPS: dict[str, Stops] = {
    "at the first step": [("collector", 1)],
    "in the first rollout": [("collector", 20)],
    "at the end of a rollout": [("collector", 64 * 4)],
    "between two minibatches": [("on_policy", 4 * 5 + 3)],
    "before the last minibatch": [("on_policy", 4 * 12)],
    "twice before one step": [("collector", 300), ("collector", 1)],
    "twice before one minibatch": [("on_policy", 6), ("on_policy", 1)],
    "in an evaluation": [("evaluation", 5)],
    "before the first step of an evaluation": [("evaluation", 1)],
    "twice in one evaluation": [("evaluation", 9), ("evaluation", 9)],
    "three times before one step of an evaluation": [("evaluation", 1)] * 3,
    "in an evaluation and before the next unit": [("evaluation", 9), ("collector", 1)],
    "in an evaluation and in the next update": [("evaluation", 9), ("on_policy", 2)],
    "in an evaluation, the next unit, the next evaluation": [
        ("evaluation", 9),
        ("collector", 1),
        ("collector", 64 * 2),
        ("evaluation", 3),
        ("collector", 1),
    ],
    "in a rollout, its update, the next rollout": [
        ("collector", 10),
        ("on_policy", 1),
        ("collector", 1),
        ("collector", 64),
    ],
}
DQN_STOPS: dict[str, Stops] = {
    "before the first step": [("off_policy", 1)],
    "between two gradient steps": [("off_policy", 200)],
    "twice before one gradient step": [("off_policy", 201), ("off_policy", 1)],
    "in an evaluation": [("evaluation", 5)],
    "in an evaluation and the unit after it": [("evaluation", 5), ("off_policy", 1)],
    "in an evaluation, the next unit, the next evaluation": [
        ("evaluation", 5),
        ("off_policy", 7),
        ("evaluation", 1),
        ("off_policy", 1),
    ],
}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The runs that nothing stops."""
    names = ("ppo-cartpole", "dqn-cartpole")
    runs = {name: RUNS[name].at(tmp_path_factory.mktemp(name)) for name in names}
    for run in runs.values():
        complete(run)
    return runs


def check_stops(reference: Run, run: Run, stops: Stops) -> None:
    for stop in stops:
        assert finish(start(replace(run.resumed(), stop=stop))) == 143
    resume_to_end(run)
    assert_equal(reference, run)


@pytest.mark.parametrize("stops", STOPS.values(), ids=STOPS)
def test_ppo(stops: Stops, references: dict[str, Run], tmp_path: Path) -> None:
    check_stops(references["ppo-cartpole"], RUNS["ppo-cartpole"].at(tmp_path), stops)


@pytest.mark.parametrize("stops", DQN_STOPS.values(), ids=DQN_STOPS)
def test_dqn(stops: Stops, references: dict[str, Run], tmp_path: Path) -> None:
    check_stops(references["dqn-cartpole"], RUNS["dqn-cartpole"].at(tmp_path), stops)
