"""The collector: nothing lost, nothing doubled, nothing that is not finite, and all of it saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import CountEnv, FaultEnv
from lightning_rl.envs.seeding import episode_seed
from lightning_rl.envs.vector import NativeRows, SyncRows, make_vector_env
from lightning_rl.errors import CheckpointError, ConfigError, TrainingFailed
from lightning_rl.experience.collector import Collector
from lightning_rl.functional.trees import tree_items
from lightning_rl.types import Episode

COUNT = EnvConfig(factory=CountEnv, num_envs=3)


def never_act(observation: Any, step: int) -> np.ndarray:
    return np.zeros(len(observation), dtype=np.int64)


def acting_by(seed: int, num_envs: int) -> Callable[..., np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda observation, step: rng.integers(0, 2, num_envs)


def new_rollout(collector: Collector, num_steps: int) -> Rollout:
    env = collector.env
    return Rollout(num_steps, env.num_envs, env.observation_space, env.action_space)


def collected(
    config: EnvConfig, num_steps: int, act: Any = never_act, **options: Any
) -> tuple[Collector, Rollout, list[Episode]]:
    episodes: list[Episode] = []
    env = make_vector_env(config)
    collector = Collector(env, seed=1, on_episode=episodes.append, **options)
    collector.start()
    rollout = new_rollout(collector, num_steps)
    collector.collect(rollout, act)
    return collector, rollout, episodes


def assert_equal_rollouts(left: Rollout, right: Rollout) -> None:
    for name in ("observation", "action", "reward", "terminated", "truncated"):
        pairs = zip(tree_items(getattr(left, name)), tree_items(getattr(right, name)), strict=True)
        for (_, ours), (_, theirs) in pairs:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert left.final_index == right.final_index
    assert str(left.final_observation) == str(right.final_observation)


def test_no_step_is_lost_or_doubled() -> None:
    collector, rollout, _ = collected(COUNT, 100)
    observation: Any = rollout.observation
    following: Any = rollout.next_observation()
    ended = rollout.terminated
    # The probe counts, so that each step must lead one further, and each end back to nought.
    np.testing.assert_array_equal(following[..., 0], observation[:-1, :, 0] + 1)
    np.testing.assert_array_equal(rollout.reward, following[..., 0])
    np.testing.assert_array_equal(observation[1:, :, 0][ended], 0.0)
    np.testing.assert_array_equal(observation[1:, :, 0][~ended], following[..., 0][~ended])
    assert ended.sum() > 30
    assert collector.env_steps == 300
    assert collector.episodes == ended.sum()


def test_episodes_have_the_promised_seeds_and_numbers() -> None:
    _, rollout, episodes = collected(COUNT, 60)
    assert [episode.index for episode in episodes] == list(range(len(episodes)))
    for row in range(3):
        mine = [episode for episode in episodes if episode.env_index == row]
        expected = [episode_seed(1, "train", number * 3 + row) for number in range(len(mine))]
        assert [episode.seed for episode in mine] == expected
        assert [episode.length for episode in mine] == [5 + seed % 6 for seed in expected]
        ends = np.cumsum([episode.length for episode in mine])
        assert [episode.env_steps for episode in mine] == (ends * 3).tolist()
        assert np.flatnonzero(rollout.terminated[:, row]).tolist() == (ends - 1).tolist()
    for episode in episodes:
        assert episode.reward == episode.length * (episode.length + 1) / 2
        assert (episode.terminated, episode.truncated) == (True, False)


def test_an_episode_goes_on_over_rollouts() -> None:
    collector, first, _ = collected(COUNT, 4)
    second = new_rollout(collector, 4)
    collector.collect(second, never_act)
    _, whole, _ = collected(COUNT, 8)
    for name in ("reward", "terminated"):
        parts = np.concatenate([getattr(first, name), getattr(second, name)])
        np.testing.assert_array_equal(parts, getattr(whole, name))
    np.testing.assert_array_equal(first.observation[4], second.observation[0])  # type: ignore[index]


def test_the_policy_sees_the_present_observation_and_the_steps_number() -> None:
    seen: list[tuple[int, list[float]]] = []

    def act(observation: Any, step: int) -> np.ndarray:
        seen.append((step, observation[:, 0].tolist()))
        return never_act(observation, step)

    _, rollout, _ = collected(COUNT, 12, act)
    assert seen == list(enumerate(rollout.observation[:12, :, 0].tolist()))  # type: ignore[index]


def test_ranks_and_rows_never_share_a_seed() -> None:
    seeds: list[int] = []
    indexes: list[int] = []
    for rank in range(4):
        _, _, episodes = collected(COUNT, 200, rank=rank, world_size=4)
        seeds += [episode.seed for episode in episodes]
        indexes += [episode.index for episode in episodes]
        assert episodes[0].env_steps % (4 * 3) == 0  # over all ranks
    assert len(set(seeds)) == len(seeds) > 250
    assert len(set(indexes)) == len(indexes)


def test_truncation_and_termination_stay_separate() -> None:
    config = EnvConfig("LightningRL/Truncation-v0", num_envs=2)
    _, rollout, episodes = collected(config, 10)
    assert rollout.truncated.sum() == 4
    assert not rollout.terminated.any()
    assert [(episode.terminated, episode.truncated) for episode in episodes] == [(False, True)] * 4


# Faults.


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"nan_reward_at": 3}, r"environment FaultEnv \(row 0\) returned a reward that is not fin"),
        ({"nan_at": 3}, r"FaultEnv \(row 0\) returned an observation that is not finite near"),
        ({"nan_at": 5, "max_length": 5}, "returned a final observation that is not finite near"),
        ({"nan_at": 2, "where": "reset", "max_length": 5}, "an observation that is not finite"),
    ],
)
def test_what_is_not_finite_stops_training(fault: dict[str, Any], message: str) -> None:
    config = EnvConfig(factory=FaultEnv, num_envs=2, kwargs=fault)
    with pytest.raises(TrainingFailed, match=message):
        collected(config, 8)


class Infinite(CountEnv):
    """Infinities of both signs, whose sum is no number either."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + {2: np.float32(np.inf), 3: -np.float32(np.inf)}.get(
            self.count, 0
        ), *rest


def test_infinities_stop_training_without_other_warnings() -> None:
    with pytest.raises(TrainingFailed, match="an observation that is not finite near env step 2"):
        collected(EnvConfig(factory=Infinite), 4)


class Huge(CountEnv):
    """Finite numbers whose squares are not."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation + np.float32(1e30), 1e30, *rest


def test_huge_numbers_are_finite() -> None:
    _, rollout, _ = collected(EnvConfig(factory=Huge), 4)
    assert rollout.reward[3, 0] == np.float32(1e30)


def test_the_part_of_a_nested_observation_is_named() -> None:
    class Nested(CountEnv):
        def __init__(self) -> None:
            from gymnasium import spaces

            super().__init__()
            self.observation_space = spaces.Dict({"a": spaces.Tuple((self.observation_space,))})

        def reset(self, **kwargs: Any) -> Any:
            observation, info = super().reset(**kwargs)
            return {"a": (observation,)}, info

        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            return {"a": (observation * (np.nan if self.count == 2 else 1),)}, *rest

    with pytest.raises(TrainingFailed, match=r"an observation\['a.0'\] that is not finite"):
        collected(EnvConfig(factory=Nested), 4, lambda observation, step: np.zeros(1, dtype=int))


# State.


class Reporting(CountEnv):
    """Reports parts of its reward, and something to log."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = super().step(action)
        info: dict[str, Any] = {"reward_components": {"count": reward, "cost": -0.5}}
        if self.count % 2:
            info["log"] = {"/height": float(self.count)}
        return observation, reward, terminated, truncated, info


class Interrupt(Exception):  # noqa: N818
    """Stands for the signal."""


def stop_after(steps: int) -> Callable[[], None]:
    calls = iter(range(steps))

    def poll() -> None:
        if next(calls, None) is None:
            raise Interrupt

    return poll


def round_trip(state: Any, tmp_path: Any) -> Any:
    torch.save(state, tmp_path / "state")
    return torch.load(tmp_path / "state", weights_only=True)


@pytest.mark.parametrize(
    ("config", "level"),
    [
        (EnvConfig("CartPole-v1", num_envs=3), "exact"),
        (EnvConfig(factory=Reporting, num_envs=3), "exact"),
        (EnvConfig("CartPole-v1", num_envs=2, vectorization="async"), "exact"),
        (EnvConfig("CartPole-v1", num_envs=3), "replay"),
        (EnvConfig("LunarLander-v3", num_envs=2), "replay"),
        (EnvConfig("CartPole-v1", num_envs=2, vectorization="async"), "replay"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("stop", [0, 1, 37, 64])
def test_a_stop_in_a_rollout_changes_nothing(
    config: EnvConfig, level: Any, stop: int, tmp_path: Any
) -> None:
    if config.id == "LunarLander-v3":
        pytest.importorskip("Box2D")
    noise = np.random.default_rng(0).integers(0, 2, (80, config.num_envs))

    def act(observation: Any, step: int) -> np.ndarray:
        return noise[step]

    whole_collector, whole, whole_episodes = collected(config, 80, act, level=level)

    episodes: list[Episode] = []
    first = Collector(make_vector_env(config), 1, level, on_episode=episodes.append)
    first.start()
    part = new_rollout(first, 80)
    with pytest.raises(Interrupt):
        first.collect(part, act, stop_after(stop))
    state = round_trip([first.state_dict(), part.state_dict()], tmp_path)
    first.close()

    second = Collector(make_vector_env(config), 1, level, on_episode=episodes.append)
    rollout = new_rollout(second, 80)
    second.load_state_dict(state[0])
    rollout.load_state_dict(state[1])
    second.collect(rollout, act)

    assert_equal_rollouts(rollout, whole)
    assert episodes == whole_episodes
    assert (second.env_steps, second.episodes) == (
        whole_collector.env_steps,
        whole_collector.episodes,
    )
    assert second.take_log() == whole_collector.take_log()
    assert second.episodes_dropped == 0
    assert str(second.state_dict()) == str(whole_collector.state_dict())
    second.close()
    whole_collector.close()


def test_at_level_boundary_open_episodes_are_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, _, episodes = collected(COUNT, 12, level="boundary")
    state = first.state_dict()
    assert (state["envs"], state["actions"]) == ([], [])
    later: list[Episode] = []
    second = Collector(make_vector_env(COUNT), 1, "boundary", on_episode=later.append)
    second.load_state_dict(state)
    assert caplog.messages == ["CountEnv cannot be saved mid-episode: 3 open episodes are dropped"]
    assert second.episodes_dropped == 3
    assert (second.env_steps, second.episodes) == (36, len(episodes))
    second.collect(new_rollout(second, 30), never_act)
    seeds = [episode.seed for episode in episodes] + [episode.seed for episode in later]
    assert len(set(seeds)) == len(seeds)
    assert [episode.index for episode in later] == list(
        range(len(episodes), len(episodes) + len(later))
    )
    assert all(episode.length == 5 + episode.seed % 6 for episode in later)


class Growing(CountEnv):
    """Holds something that cannot be saved once an episode has three steps."""

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.count == 3:
            self.secret = (item for item in range(3))
        return result


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_snapshot_that_fails_later_lowers_the_level_once(
    vectorization: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = EnvConfig(factory=Growing, num_envs=2, vectorization=vectorization)
    collector, _, _ = collected(config, 2, level="exact")
    assert collector.state_dict()["level"] == "exact"
    collector.collect(new_rollout(collector, 2), never_act)
    for _ in range(2):
        state = collector.state_dict()
        assert (state["level"], state["envs"]) == ("boundary", [])
    assert collector.level == "boundary"
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Growing can no longer be saved mid-episode (")
    assert "secret" in caplog.messages[0]
    collector.collect(new_rollout(collector, 20), never_act)  # and training goes on
    assert collector.env_steps == 48
    second = Collector(make_vector_env(config), 1, "exact")
    second.load_state_dict(state)
    assert second.episodes_dropped == 2
    second.close()
    collector.close()


def test_another_number_of_environments_is_refused() -> None:
    first, _, _ = collected(COUNT, 2)
    second = Collector(SyncRows(COUNT, 2), 1)
    with pytest.raises(CheckpointError, match=r"expected 3 environments .*, received 2"):
        second.load_state_dict(first.state_dict())


class Forgetful(CountEnv):
    """Differs from instance to instance."""

    born = 0

    def __init__(self) -> None:
        super().__init__()
        Forgetful.born += 1
        self.offset = Forgetful.born / 1000

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + np.float32(self.offset), *rest


def test_a_replay_that_leads_elsewhere_is_noticed() -> None:
    config = EnvConfig(factory=Forgetful)
    first, _, _ = collected(config, 3, level="replay")
    second = Collector(make_vector_env(config), 1, "replay")
    with pytest.raises(CheckpointError, match="Forgetful did not return to its saved observation"):
        second.load_state_dict(first.state_dict())


# Batched implementations.


def test_steps_that_only_reset_are_not_counted() -> None:
    config = EnvConfig("CartPole-v1", num_envs=4, vectorization="vector")
    collector, rollout, episodes = collected(config, 120, acting_by(0, 4))
    assert isinstance(collector.env, NativeRows)
    assert rollout.valid is not None
    ended = rollout.terminated | rollout.truncated
    # Behind every end but a common one of all rows stands one step that is none.
    alone = ended & ~ended.all(axis=1, keepdims=True)
    np.testing.assert_array_equal(~rollout.valid[1:], alone[:-1])
    assert len(episodes) == ended.sum() > 10
    assert collector.env_steps == rollout.num_transitions == rollout.valid.sum()
    assert rollout.reward.sum() == rollout.num_transitions  # one for each step
    for episode in episodes:
        assert episode.reward == episode.length
    open_steps = collector.env_steps - sum(episode.length for episode in episodes)
    assert open_steps == collector.state_dict()["lengths"].sum()
    following: Any = rollout.next_observation()
    steps, rows = rollout.final_indices()
    assert (np.abs(following[steps, rows, 2]) > 0.2).all()  # it had fallen over


def test_a_batch_works_in_one_process_only() -> None:
    env = NativeRows(EnvConfig("CartPole-v1"), 2)
    with pytest.raises(ConfigError, match="vectorization: vector works in one process"):
        Collector(env, 0, world_size=2)
