"""Hindsight replay: against a slow search for episodes, over the wrap, and after a resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.buffers.hindsight import HindsightReplay, wrap_replay
from lightning_rl.buffers.replay import ReplayBuffer
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.spaces import flatten_space
from lightning_rl.errors import ConfigError
from lightning_rl.storage.segments import SegmentStore

CAPACITY, NUM_ENVS = 37, 3


class NumberedEnv(gymnasium.Env):
    """Goals are single numbers; what is achieved tells the transition and thereby its episode."""

    def __init__(self) -> None:
        box = spaces.Box(-1e6, 1e6, (1,), np.float32)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = spaces.Dict(dict.fromkeys(names, box))
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return (achieved_goal - desired_goal)[..., 0]

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return (achieved_goal == desired_goal)[..., 0]


class Scalar(NumberedEnv):
    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return 0.0


class Goalless(NumberedEnv):
    compute_reward = None


CONFIG = EnvConfig(factory=NumberedEnv, num_envs=NUM_ENVS)


def make_replay(strategy: str = "future", **arguments: Any) -> HindsightReplay:
    env = NumberedEnv()
    plain = ReplayBuffer(CAPACITY, flatten_space(env.observation_space), env.action_space)
    return HindsightReplay(plain, CONFIG, strategy, **arguments)


class Feed:
    """Adds rollouts in which transition i achieves the number i, with random ends of episodes.

    Args:
        seed: Of the ends.
        length: Mean length of an episode.
    """

    def __init__(self, seed: int = 0, length: int = 3) -> None:
        self.random, self.length = np.random.default_rng(seed), length
        self.episode: dict[int, tuple[int, int]] = {}
        self._episodes = [0] * NUM_ENVS
        self.count = 0

    def rollout(self, steps: int) -> Rollout:
        env = NumberedEnv()
        rollout = Rollout(steps, NUM_ENVS, env.observation_space, env.action_space)
        for step in range(steps):
            numbers = self.count + np.arange(NUM_ENVS, dtype=np.float32)[:, None]
            zeros = np.zeros_like(numbers)
            rollout.write_observation(
                step, {"observation": zeros, "achieved_goal": zeros - 1, "desired_goal": zeros - 5}
            )
            after = {"observation": zeros, "achieved_goal": numbers, "desired_goal": zeros - 5}
            rollout.write_observation(step + 1, after)
            kind = self.random.integers(2 * self.length, size=NUM_ENVS)
            rollout.terminated[step], rollout.truncated[step] = kind == 0, kind == 1
            rollout.reward[step] = 7.0
            for env_index in range(NUM_ENVS):
                # As the collector does; the next observation is kept apart from what follows it.
                rollout.write_final(step, env_index, after)
                self.episode[self.count + env_index] = env_index, self._episodes[env_index]
                self._episodes[env_index] += int(kind[env_index] < 2)
            self.count += NUM_ENVS
            rollout.cursor = step + 1
        return rollout


def goals_of(replay: HindsightReplay, draws: int = 3_000, seed: int = 0) -> dict[int, set[int]]:
    """Return the goals that each transition was seen with, by number."""
    transitions: Any = replay.sample(draws, torch.Generator().manual_seed(seed))
    achieved, desired = (
        transitions["next_observation"][key][:, 0].long().tolist()
        for key in ("achieved_goal", "desired_goal")
    )
    assert transitions["observation"]["desired_goal"][:, 0].long().tolist() == desired
    relabelled = np.array(desired) >= 0
    reward, terminated = transitions["reward"].numpy(), transitions["terminated"].numpy()
    assert (reward[~relabelled] == 7.0).all()
    assert np.array_equal(reward[relabelled], (np.array(achieved) - desired)[relabelled])
    assert np.array_equal(terminated[relabelled], (np.array(achieved) == desired)[relabelled])
    seen: dict[int, set[int]] = {}
    for number, goal in zip(achieved, desired, strict=True):
        seen.setdefault(number, set()).add(goal)
    return seen


def expected_goals(feed: Feed, strategy: str) -> dict[int, set[int]]:
    """Search all transitions that are kept for those of the same episode."""
    kept = range(max(0, feed.count - CAPACITY), feed.count)
    expected = {}
    for number in kept:
        same = [other for other in kept if feed.episode[other] == feed.episode[number]]
        chosen = {
            "episode": same,
            "final": same[-1:],
            "future": [other for other in same if other >= number],
        }
        expected[number] = set(chosen[strategy])
    return expected


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
@pytest.mark.parametrize("rollouts", [[2], [4, 1, 1, 3], [1] * 40, [13, 9]])
def test_goals_are_those_of_the_same_episode(strategy: str, rollouts: list[int]):
    feed, replay = Feed(), make_replay(strategy, num_goals=1e9)
    for steps in rollouts:
        replay.add(feed.rollout(steps))
    assert goals_of(replay) == expected_goals(feed, strategy)


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
@pytest.mark.parametrize("rollouts", [[1] * 60, [20] * 3])
def test_episodes_may_be_longer_than_the_buffer(strategy: str, rollouts: list[int]):
    feed, replay = Feed(length=15), make_replay(strategy, num_goals=1e9)
    for steps in rollouts:
        replay.add(feed.rollout(steps))
        if feed.count > 2 * CAPACITY:
            expected = expected_goals(feed, strategy)
            for number, goals in goals_of(replay, draws=500).items():
                assert goals <= expected[number]


def test_the_share_of_relabelled_transitions():
    feed = Feed()
    for num_goals, share in ((0, 0.0), (1, 0.5), (4, 0.8), (math.inf, 1.0)):
        replay = make_replay(num_goals=num_goals)
        replay.add(feed.rollout(5))
        transitions: Any = replay.sample(4_000, torch.Generator().manual_seed(1))
        relabelled = transitions["next_observation"]["desired_goal"] >= 0
        assert relabelled.float().mean().item() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("rollouts", [[3, 2], [1] * 40])
def test_a_restored_replay_draws_the_same(tmp_path: Path, rollouts: list[int]):
    feed, replay = Feed(3), make_replay("episode")
    for steps in rollouts:
        replay.add(feed.rollout(steps))
    store = SegmentStore(tmp_path)
    references, state = replay.write_segments(store), replay.state_dict()
    restored = make_replay("episode")
    restored.load_segments(state, references, store)
    for _ in range(3):
        assert goals_of(restored, seed=5) == goals_of(replay, seed=5)
        rollout = feed.rollout(2)
        replay.add(rollout)
        restored.add(rollout)


def test_an_episode_that_was_given_up_lends_no_goals_to_the_next():
    feed, replay = Feed(1), make_replay("future", num_goals=1e9)
    replay.add(feed.rollout(3))
    replay.cut(NUM_ENVS)
    before = feed.count
    replay.add(feed.rollout(3))
    for number, goals in goals_of(replay).items():
        assert all((goal < before) == (number < before) for goal in goals)


def test_the_stored_transitions_stay_as_they_were():
    feed, replay = Feed(), make_replay()
    replay.add(feed.rollout(4))
    first: Any = replay.gather(np.arange(12))
    copy = first["next_observation"]["desired_goal"].clone()
    replay.sample(100, torch.Generator().manual_seed(0))
    again: Any = replay.gather(np.arange(12))
    assert torch.equal(again["next_observation"]["desired_goal"], copy)
    assert (again["reward"] == 7.0).all()


def test_a_specification_names_it_with_or_without_its_path():
    plain = make_replay().replay
    assert wrap_replay(None, plain, CONFIG) is plain
    path = "lightning_rl.buffers.hindsight.HindsightReplay"
    for spec in ("HindsightReplay", path, {"class_path": path}):
        assert isinstance(wrap_replay(spec, plain, CONFIG), HindsightReplay)
    spec = {"class_path": "HindsightReplay", "init_args": {"strategy": "final", "num_goals": 1}}
    wrapped: Any = wrap_replay(spec, plain, CONFIG)
    assert (wrapped.strategy, wrapped.share) == ("final", 0.5)


@pytest.mark.parametrize(
    ("spec", "config", "message"),
    [
        ("HindsightReplay", EnvConfig(factory=Scalar), "one reward for each.*received shape"),
        ("HindsightReplay", EnvConfig(factory=Goalless), "compute_reward.*received none"),
        (
            {"class_path": "HindsightReplay", "init_args": {"strategy": "futrue"}},
            CONFIG,
            "did you mean 'future'",
        ),
        (
            {"class_path": "HindsightReplay", "init_args": {"num_goals": -1}},
            CONFIG,
            "expected num_goals to be at least 0.0, received -1",
        ),
        ("torch.nn.Linear", CONFIG, "must name a subclass of ReplayWrapper"),
        ("os.system", CONFIG, "not on the allow-list"),
    ],
)
def test_mistakes_are_named(spec: Any, config: EnvConfig, message: str):
    with pytest.raises(ConfigError, match=message):
        wrap_replay(spec, make_replay().replay, config)


def test_observations_without_goals_are_refused():
    box = spaces.Box(-1.0, 1.0, (1,), np.float32)
    with pytest.raises(ConfigError, match="achieved_goal and desired_goal"):
        HindsightReplay(ReplayBuffer(4, box, box), EnvConfig("Pendulum-v1"))
