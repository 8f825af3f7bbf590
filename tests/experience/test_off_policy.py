"""Off-policy experience: when it collects, when it draws, and a stop anywhere in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_rl.buffers.replay import ReplayBuffer
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import CountEnv
from lightning_rl.envs.vector import make_vector_env
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.off_policy import OffPolicySource, steps_per_round, unit_env_steps
from lightning_rl.storage.segments import SegmentStore

COUNT = EnvConfig(factory=CountEnv, num_envs=2)
CARTPOLE = EnvConfig("CartPole-v1", num_envs=2)


@pytest.mark.parametrize(
    ("num_envs", "train_frequency", "steps"), [(1, 4, 4), (2, 4, 2), (8, 4, 1), (3, 10, 3)]
)
def test_a_round_has_whole_steps_of_all_environments(
    num_envs: int, train_frequency: int, steps: int
) -> None:
    assert steps_per_round(num_envs, train_frequency) == steps


@pytest.mark.parametrize(
    ("num_envs", "train_frequency", "wanted", "given"),
    [(1, 4, 1000, 1000), (2, 4, 10, 8), (8, 4, 100, 96), (8, 4, 1, 8), (3, 10, 20, 18)],
)
def test_a_unit_has_whole_rounds(
    num_envs: int, train_frequency: int, wanted: int, given: int
) -> None:
    assert unit_env_steps(num_envs, train_frequency, wanted) == given


def new_source(learner: Any, started: Any, config: EnvConfig = CARTPOLE, **options: Any) -> Any:
    env = make_vector_env(config)
    replay = ReplayBuffer(options.get("capacity", 50), env.observation_space, env.action_space)
    collector = Collector(env, 0, options.get("level", "exact"))
    source = OffPolicySource(learner, collector, replay, 4, 12)  # rounds of 4, units of 12
    return started(source, learner) if options.get("start", True) else source


def run(source: Any, drawn: list[Any] | None = None) -> list[Any]:
    drawn = [] if drawn is None else drawn
    for unit in source:
        for minibatch in unit:
            drawn.append(
                [minibatch["observation"].flatten().tolist(), minibatch["action"].tolist()]
            )
        source.finish_unit()
    return drawn


@pytest.mark.parametrize(("budget", "at_start", "length"), [(96, 0, 8), (97, 0, 9), (96, 24, 6)])
def test_the_length_is_that_of_the_whole_epoch(
    budget: int, at_start: int, length: int, make_learner: Any, started: Any
) -> None:
    source = new_source(make_learner(budget), started)
    source.env_steps_at_epoch_start = at_start
    assert len(source) == length
    list(source.next_unit())
    assert len(source) == length


@pytest.mark.parametrize(("budget", "collected"), [(24, 24), (25, 28), (1, 4)])
def test_it_ends_in_the_round_that_spends_the_budget(
    budget: int, collected: int, make_learner: Any, started: Any
) -> None:
    source = new_source(make_learner(budget), started)
    drawn = run(source)
    assert source.env_steps == source.replay.inserted == collected
    assert len(drawn) == collected // 4 * 2
    assert all(len(actions) == 4 for _, actions in drawn)


@pytest.mark.parametrize(("num_envs", "every"), [(2, None), (3, 3), (16, 16)])
def test_a_frequency_that_the_rows_cannot_meet_is_said(
    num_envs: int, every: int | None, make_learner: Any, started: Any, caplog: Any
) -> None:
    config = EnvConfig("CartPole-v1", num_envs=num_envs)
    new_source(make_learner(), started, config)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (every is not None)
    assert all(f"updates follow every {every} env steps, not every 4 " in line for line in said)


@pytest.mark.parametrize(("budget", "is_said"), [(16, True), (17, False)])
def test_a_budget_without_learning_is_said(
    budget: int, is_said: bool, make_learner: Any, started: Any, caplog: Any
) -> None:
    learner = make_learner(budget)
    learner.learning_starts = 16
    new_source(learner, started)
    said = [r.getMessage() for r in caplog.records if "nothing will be learned" in r.getMessage()]
    assert len(said) == is_said


def test_learning_starts_when_told(make_learner: Any, started: Any) -> None:
    learner = make_learner(24)
    learner.learning_starts = 16
    drawn = run(new_source(learner, started))
    assert len(drawn) == 3 * 2  # after 16, 20 and 24 env steps


def test_each_unit_is_announced_before_it_collects(make_learner: Any, started: Any) -> None:
    learner = make_learner(24)
    source = new_source(learner, started)
    assert not source.has_unfinished_unit
    unit = source.next_unit()
    assert source.has_unfinished_unit
    assert source.env_steps == 0
    assert learner.events == ["announce", "on_iteration_start", "on_rollout_start"]
    list(unit)
    source.finish_unit()
    assert not source.has_unfinished_unit
    assert learner.events[3:] == ["on_rollout_end"]


def test_a_units_transitions_and_reward_are_its_own(make_learner: Any, started: Any) -> None:
    config = EnvConfig(factory=CountEnv, num_envs=2, kwargs={"min_length": 100, "max_length": 100})
    source = new_source(make_learner(24), started, config)
    means = []
    for unit in source:
        list(unit)
        assert len(source.recent_transitions()["reward"]) == 12
        means.append(source.finish_unit()["rollout/mean_reward"])
    assert means == [3.5, 9.5]  # the probe's rewards count its steps


@pytest.mark.parametrize("stop", range(1, 20))
def test_a_stop_anywhere_changes_nothing(
    stop: int, make_learner: Any, started: Any, stopped: Any, tmp_path: Any
) -> None:
    """Polls come before each round and each minibatch."""
    whole_learner = make_learner(36)
    whole_source = new_source(whole_learner, started, capacity=20)
    whole = run(whole_source)

    learner = make_learner(36)
    source = new_source(learner, started, capacity=20)
    learner.stop_at = stop
    drawn: list[Any] = []
    with pytest.raises(stopped):
        run(source, drawn)
    store = SegmentStore(tmp_path / "replay")
    state = {**learner.state_dict(), "segments": source.replay.write_segments(store)}
    torch.save(state, tmp_path / "state")

    again = make_learner(36)
    again.source = new_source(again, started, capacity=20, start=False)
    state = torch.load(tmp_path / "state", weights_only=True)
    again.source.replay.load_segments(state["source"]["replay"], state["segments"], store)
    again.load_state_dict(state)
    assert again.source.has_unfinished_unit
    assert drawn + run(again.source) == whole
    assert again.source.env_steps == 36
    for name, column in again.source.replay.columns.items():
        assert torch.equal(column, whole_source.replay.columns[name]), name
    again_at, whole_at = (
        item.streams.torch("replay").get_state() for item in (again, whole_learner)
    )
    assert torch.equal(again_at, whole_at)


def test_steps_that_only_reset_are_not_stored(make_learner: Any, started: Any) -> None:
    config = EnvConfig("CartPole-v1", num_envs=4, vectorization="vector")
    source = new_source(make_learner(600), started, config, level="boundary", capacity=1000)
    run(source)
    assert 600 <= source.env_steps == source.replay.inserted < 604
    stored = source.replay.recent(1000)
    assert (stored["reward"] == 1.0).all()
    ended = stored["terminated"] | stored["truncated"]
    # Starts lie near nought, so a step that led from an end to a start would stand out.
    moved = (stored["next_observation"] - stored["observation"]).abs().amax(dim=1)
    assert ended.sum() > 10
    assert (moved < 0.9).all()
