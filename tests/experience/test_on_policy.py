"""On-policy experience: shuffled minibatches, whole rollouts, and a stop anywhere in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import CountEnv
from lightning_rl.envs.vector import make_vector_env
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.on_policy import Minibatches, OnPolicySource

COUNT = EnvConfig(factory=CountEnv, num_envs=2)


def nothing() -> None:
    """Do not stop."""


def minibatches(num_rows: int = 10, epochs: int = 3, size: int = 4, seed: int = 0) -> Minibatches:
    experience: Any = {
        "observation": {"a": torch.arange(num_rows), "b": torch.arange(num_rows) * 10},
        "action": torch.arange(num_rows) + 100,
    }
    return Minibatches(experience, epochs, size, torch.Generator().manual_seed(seed), nothing)


def plain(minibatch: Any) -> list[int]:
    rows = minibatch["observation"]["a"].tolist()
    assert minibatch["observation"]["b"].tolist() == [row * 10 for row in rows]
    assert minibatch["action"].tolist() == [row + 100 for row in rows]
    return rows


def test_every_epoch_shows_every_row_once_in_a_new_order() -> None:
    drawn = [plain(minibatch) for minibatch in minibatches()]
    assert [len(rows) for rows in drawn] == [4, 4, 2] * 3
    epochs = [sum(drawn[start : start + 3], []) for start in (0, 3, 6)]  # noqa: RUF017
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("size", [10, 99])
def test_a_large_minibatch_is_the_whole_epoch(size: int) -> None:
    assert [len(plain(minibatch)) for minibatch in minibatches(size=size)] == [10] * 3


def test_a_single_minibatch_is_shown_once_and_not_shuffled() -> None:
    source = minibatches(epochs=1, size=10)
    generator, again = source._generator.get_state(), minibatches(epochs=1, size=10)
    again.load_state_dict(source.state_dict())
    assert [plain(minibatch) for minibatch in again] == [list(range(10))]
    assert torch.equal(source._generator.get_state(), generator)
    for minibatch in source:
        assert plain(minibatch) == list(range(10))
        again.load_state_dict(source.state_dict())
    assert list(source) == list(again) == []
    assert list(minibatches(num_rows=0, epochs=1, size=10)) == []


def test_the_order_comes_from_the_generator() -> None:
    first, second, third = ([plain(item) for item in minibatches(seed=seed)] for seed in (0, 0, 1))
    assert first == second != third


@pytest.mark.parametrize("taken", range(10))
def test_minibatches_go_on_from_any_place(taken: int, tmp_path: Any) -> None:
    whole = [plain(minibatch) for minibatch in minibatches()]
    first = minibatches()
    for number, minibatch in zip(range(taken), first, strict=False):
        first.record(torch.tensor([float(number), 1.0]))
        assert plain(minibatch) == whole[number]
    state = {"minibatches": first.state_dict(), "generator": first._generator.get_state()}
    torch.save(state, tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    saved = state["minibatches"]
    generator = torch.Generator()
    generator.set_state(state["generator"])
    again = Minibatches(saved["experience"], 3, 4, generator, nothing)
    again.load_state_dict(saved)
    for number, minibatch in enumerate(again, start=taken):
        assert plain(minibatch) == whole[number]
        again.record(torch.tensor([float(number), 1.0]))
    assert again.means() == [4.0, 1.0]  # 0 to 8


def test_a_stop_before_a_minibatch_takes_none() -> None:
    stops = iter([False, False, True])
    source = minibatches()

    def poll() -> None:
        if next(stops, False):
            raise InterruptedError

    source._poll = poll
    drawn = []
    with pytest.raises(InterruptedError):
        drawn.extend(plain(minibatch) for minibatch in source)
    drawn = [plain(minibatch) for minibatch in source]
    assert drawn == [plain(minibatch) for minibatch in minibatches()][2:]


def test_statistics_are_averaged_without_changing_what_was_recorded() -> None:
    source = minibatches()
    first = torch.tensor([1.0, 10.0])
    source.record(first)
    source.record(torch.tensor([3.0, 20.0]))
    assert source.means() == [2.0, 15.0]
    assert first.tolist() == [1.0, 10.0]


def test_means_of_nothing_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="at least one recorded minibatch"):
        minibatches().means()


# The source.


def new_source(learner: Any, started: Any, config: EnvConfig = COUNT, **options: Any) -> Any:
    source = OnPolicySource(
        learner, Collector(make_vector_env(config), 0, options.get("level", "exact")), num_steps=6
    )
    return started(source, learner) if options.get("start", True) else source


def run(source: OnPolicySource, drawn: list[Any] | None = None) -> list[Any]:
    """Return the observations and actions of all minibatches until the budget is spent."""
    drawn = [] if drawn is None else drawn
    for unit in source:
        for minibatch in unit:
            unit.record(torch.ones(1))
            drawn.append(
                [minibatch["observation"].flatten().tolist(), minibatch["action"].tolist()]
            )
        source.finish_unit()
    return drawn


@pytest.mark.parametrize(
    ("budget", "at_start", "length"), [(96, 0, 8), (97, 0, 9), (96, 24, 6), (96, 96, 1)]
)
def test_the_length_is_that_of_the_whole_epoch(
    budget: int, at_start: int, length: int, make_learner: Any, started: Any
) -> None:
    source = new_source(make_learner(budget), started)
    source.env_steps_at_epoch_start = at_start
    assert len(source) == length
    source.next_unit()
    assert len(source) == length  # batches already consumed count


def test_the_length_of_an_episode_budget_is_an_upper_bound(make_learner: Any, started: Any) -> None:
    learner = make_learner(None, episodes=5)
    source = new_source(learner, started)
    assert len(source) == 10**9
    run(source)
    assert 5 <= source.episodes <= 7
    assert source.env_steps % 12 == 0


@pytest.mark.parametrize(("budget", "collected"), [(96, 96), (97, 108), (1, 12)])
def test_it_ends_with_the_budget(
    budget: int, collected: int, make_learner: Any, started: Any
) -> None:
    source = new_source(make_learner(budget), started)
    drawn = run(source)
    assert source.env_steps == collected
    assert len(drawn) == collected // 12 * 2 * 2  # epochs, minibatches of 8 and 4 rows


def test_the_hooks_come_in_order(make_learner: Any, started: Any) -> None:
    learner = make_learner(24)
    run(new_source(learner, started))
    unit = ["announce", "on_iteration_start", "on_rollout_start", "on_rollout_end"]
    assert learner.events == unit * 2


def test_a_unit_that_was_not_finished_is_given_again(make_learner: Any, started: Any) -> None:
    source = new_source(make_learner(), started)
    assert not source.has_unfinished_unit
    unit = source.next_unit()
    assert source.has_unfinished_unit
    assert source.next_unit() is unit
    assert source.finish_unit() == {
        "rollout/mean_reward": pytest.approx((21 + 16) / 12)
    }  # 6 steps, and 5 and 1
    assert not source.has_unfinished_unit


class Logging(CountEnv):
    """Puts something into the log."""

    def step(self, action: Any) -> Any:
        *result, info = super().step(action)
        return *result, {**info, "log": {"height": 1.0}}


def test_what_environments_log_is_announced(make_learner: Any, started: Any) -> None:
    learner = make_learner(12)
    run(new_source(learner, started, EnvConfig(factory=Logging)))
    assert "on_env_log" in learner.events


@pytest.mark.parametrize("stop", [1, 4, 6, 7, 8, 10, 11, 17, 23, 40])
def test_a_stop_anywhere_changes_nothing(
    stop: int, make_learner: Any, started: Any, stopped: Any, tmp_path: Any
) -> None:
    """Polls come before each of 6 steps and 4 minibatches of a unit."""
    config = EnvConfig("CartPole-v1", num_envs=2)
    whole = run(new_source(make_learner(60), started, config))

    learner = make_learner(60)
    source = new_source(learner, started, config)
    learner.stop_at = stop
    drawn: list[Any] = []
    with pytest.raises(stopped):
        run(source, drawn)
    torch.save(learner.state_dict(), tmp_path / "state")

    again = make_learner(60)
    again.source = new_source(again, started, config, start=False)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again.source.has_unfinished_unit
    assert drawn + run(again.source) == whole
    assert again.source.env_steps == 60


def test_at_level_boundary_a_partial_rollout_is_collected_anew(
    make_learner: Any, started: Any, stopped: Any, tmp_path: Any
) -> None:
    learner = make_learner(36)
    source = new_source(learner, started, level="boundary")
    learner.stop_at = 14  # the first unit has 10 polls, so 3 steps of the second are done
    with pytest.raises(stopped):
        run(source)
    assert source.env_steps == 18
    noise = learner.streams.torch("action").get_state()
    torch.save(learner.state_dict(), tmp_path / "state")

    again = make_learner(36)
    again.source = new_source(again, started, level="boundary", start=False)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again.source.env_steps == 12
    assert not again.source.has_unfinished_unit
    assert not torch.equal(again.streams.torch("action").get_state(), noise)  # drawn anew, too
    run(again.source)
    assert again.source.env_steps == 36
    assert again.source.collector.episodes_dropped == 2


def test_steps_that_only_reset_do_not_spend_the_budget(make_learner: Any, started: Any) -> None:
    config = EnvConfig("CartPole-v1", num_envs=4, vectorization="vector")
    learner = make_learner(2_000)
    learner.stop_at = None
    source = new_source(learner, started, config, level="boundary")
    seen = []
    for unit in source:
        for _ in unit:
            unit.record(torch.ones(1))
        seen.append(source.finish_unit()["rollout/mean_reward"])
    assert 2_000 <= source.env_steps < 2_024
    assert len(seen) > 2_000 // 24
    np.testing.assert_allclose(seen, 1.0)
