"""Evaluation: fixed episodes, however many rows play them, and nothing else disturbed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import CountEnv, FaultEnv
from lightning_rl.envs.seeding import episode_seed
from lightning_rl.errors import TrainingFailed
from lightning_rl.experience import evaluation
from lightning_rl.experience.evaluation import EpisodeMetric, EvaluationSource, episode_statistics
from lightning_rl.types import Episode

COUNT = EnvConfig(factory=CountEnv)
CARTPOLE = EnvConfig("CartPole-v1")


def balance(observation: Any) -> np.ndarray:
    """Push to where the pole falls, row by row: no batch can round differently."""
    return (observation[:, 2] > 0).numpy().astype(np.int64)


def stay(observation: Any) -> np.ndarray:
    return np.zeros(len(observation), dtype=np.int64)


def played(config: EnvConfig, policy: Any, count: int, **options: Any) -> list[Episode]:
    source = EvaluationSource(config, policy, count, options.pop("seed", 3), **options)
    episodes = list(source)
    source.close()
    return sorted(episodes, key=lambda episode: episode.index)


def results(episodes: list[Episode]) -> list[tuple[Any, ...]]:
    return [(item.index, item.seed, item.reward, item.length, item.truncated) for item in episodes]


def test_episodes_have_fixed_seeds_and_true_returns() -> None:
    episodes = played(COUNT, stay, 40)
    assert [episode.index for episode in episodes] == list(range(40))
    for episode in episodes:
        assert episode.seed == episode_seed(3, "evaluation", episode.index)
        assert episode.length == 5 + episode.seed % 6
        assert episode.reward == episode.length * (episode.length + 1) / 2
        assert (episode.terminated, episode.truncated) == (True, False)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_the_number_of_rows_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = results(played(CARTPOLE, balance, 12))
    monkeypatch.setattr(evaluation, "MAX_ROWS", rows)
    assert results(played(CARTPOLE, balance, 12)) == expected
    assert len({length for _, _, _, length, _ in expected}) > 3


def test_ranks_share_the_episodes() -> None:
    whole = results(played(CARTPOLE, balance, 7))
    parts = [played(CARTPOLE, balance, 7, rank=rank, world_size=3) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(results(parts[0]) + results(parts[1]) + results(parts[2])) == whole


def test_a_rank_without_episodes_plays_none() -> None:
    source = EvaluationSource(COUNT, stay, 1, 0, rank=1, world_size=2)
    assert len(source) == 0
    assert list(source) == []


def test_an_evaluation_can_be_repeated_and_broken_off() -> None:
    source = EvaluationSource(CARTPOLE, balance, 5, 3)
    first = results(list(source))
    next(iter(source))
    assert results(list(source)) == first
    source.close()
    assert results(list(source)) == first
    source.close()
    assert len(source) == 5


def test_streams_and_runs_have_other_episodes() -> None:
    def seeds(**options: Any) -> set[int]:
        return {episode.seed for episode in played(COUNT, stay, 9, **options)}

    assert not seeds() & seeds(stream="test")
    assert not seeds() & seeds(seed=4)
    assert seeds() == seeds()


def test_global_streams_are_left_alone() -> None:
    def states() -> list[Any]:
        return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]

    before = states()
    played(CARTPOLE, balance, 5)
    assert states() == before


def test_evaluation_keywords_apply() -> None:
    config = EnvConfig(factory=CountEnv, eval_kwargs={"min_length": 2, "max_length": 2})
    assert [episode.length for episode in played(config, stay, 3)] == [2, 2, 2]


def test_an_environment_that_never_ends_is_cut_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(evaluation, "EVAL_MAX_STEPS_PER_EPISODE", 6)
    config = EnvConfig(factory=CountEnv, kwargs={"min_length": 50, "max_length": 50})
    episodes = played(config, stay, 4)
    assert [(item.length, item.reward) for item in episodes] == [(6, 21.0)] * 4
    assert [(item.terminated, item.truncated) for item in episodes] == [(False, True)] * 4
    assert caplog.messages == [
        "CountEnv does not end its episodes; evaluation cuts them at 6 steps "
        "(env.max_episode_steps sets a limit)"
    ]


def test_a_chosen_limit_is_not_remarked_upon(caplog: pytest.LogCaptureFixture) -> None:
    assert [item.length for item in played(COUNT, stay, 3, max_steps_per_episode=4)] == [4, 4, 4]
    assert caplog.messages == []


def test_an_end_at_the_limit_is_an_end() -> None:
    config = EnvConfig(factory=CountEnv, kwargs={"min_length": 4, "max_length": 4})
    (episode,) = played(config, stay, 1, max_steps_per_episode=4)
    assert (episode.terminated, episode.truncated) == (True, False)


def test_a_reward_that_is_not_finite_fails() -> None:
    with pytest.raises(TrainingFailed, match="a reward that is not finite in evaluation"):
        played(EnvConfig(factory=FaultEnv, kwargs={"nan_reward_at": 2}), stay, 1)


def test_polls_come_before_every_step() -> None:
    calls: list[None] = []
    config = EnvConfig(factory=CountEnv, kwargs={"min_length": 4, "max_length": 4})
    played(config, stay, 2, poll=lambda: calls.append(None))
    assert len(calls) == 4  # both rows step together


class Reporting(CountEnv):
    """Reports a part of its reward."""

    def step(self, action: Any) -> Any:
        *result, _ = super().step(action)
        return *result, {"reward_components": {"cost": -0.5}}


def test_reward_components_are_summed() -> None:
    for episode in played(EnvConfig(factory=Reporting), stay, 3):
        assert episode.reward_components == {"cost": -0.5 * episode.length}


# The metric.


def episode(index: int, reward: float, length: int) -> Episode:
    return Episode(index, 0, 0, reward, length, terminated=True, truncated=False)


def test_the_metric_orders_by_number_and_describes() -> None:
    metric = EpisodeMetric()
    for item in (episode(2, 6.0, 30), episode(0, 1.0, 10), episode(1, 2.0, 20)):
        metric.update(item)
    assert metric.compute() == {
        "rewards": [1.0, 2.0, 6.0],
        "lengths": [10, 20, 30],
        "mean_reward": 3.0,
        "std_reward": pytest.approx(14**0.5 / 3**0.5),
        "min_reward": 1.0,
        "max_reward": 6.0,
        "mean_length": 20.0,
    }


def test_the_metric_keeps_float64_and_forgets_on_reset() -> None:
    metric = EpisodeMetric()
    metric.update(episode(0, 16_777_217.25, 1))
    assert metric.compute()["mean_reward"] == 16_777_217.25
    metric.reset()
    metric.update(episode(0, 1.0, 1))
    assert metric.compute()["rewards"] == [1.0]


def test_statistics_of_one_episode() -> None:
    assert episode_statistics([5.0], [9]) == {
        "mean_reward": 5.0,
        "std_reward": 0.0,
        "min_reward": 5.0,
        "max_reward": 5.0,
        "mean_length": 9.0,
    }


def test_the_first_episodes_are_those_with_the_lowest_numbers() -> None:
    """Not the shortest ones, although they end first."""
    source = EvaluationSource(EnvConfig("CartPole-v1"), _random_actions(), 12, seed=3)
    complete = list(source)
    again = EvaluationSource(EnvConfig("CartPole-v1"), _random_actions(), 12, seed=3)
    first = [next(iterator) for iterator in [iter(again)] for _ in range(4)]
    assert [episode.index for episode in complete] == list(range(12))
    assert [episode.length for episode in complete] != sorted(e.length for e in complete)
    assert first == complete[:4]


def _random_actions():
    random = np.random.default_rng(0)
    return lambda observation: random.integers(2, size=len(observation))
