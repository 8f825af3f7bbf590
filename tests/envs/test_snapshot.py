"""Snapshots of one environment: levels that hold, bits that return, claims that are found out."""

from __future__ import annotations

import copy
import io
import random
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from lightning_rl.envs.probes import PROBES, CountEnv
from lightning_rl.envs.snapshot import (
    SnapshotWrapper,
    probe_snapshot_level,
    replay_env,
    replay_snapshot,
    restore_env,
    same_bits,
    snapshot_env,
)
from lightning_rl.envs.state_walk import UnsupportedState
from lightning_rl.envs.wrappers import FreshWorld
from lightning_rl.errors import CheckpointError, ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

CLASSIC = ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0"]
TABLES = ["FrozenLake-v1", "CliffWalking-v1", "Blackjack-v1", "Taxi-v4"]
MUJOCO = ["HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5", "HalfCheetah-v4"]
OURS = [identifier for identifier in PROBES if "Fault" not in identifier]
NEEDS = dict.fromkeys(("HalfCheetah", "Hopper", "Ant", "Humanoid"), "mujoco")
NEEDS |= dict.fromkeys(("LunarLander", "BipedalWalker", "CarRacing"), "Box2D")


def make(identifier: str, **kwargs: Any) -> gym.Env:
    package = NEEDS.get(identifier.split("-")[0])
    if package:
        pytest.importorskip(package)
    return gym.make(identifier, **kwargs)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def play(env: gym.Env, num_steps: int, seed: int, reset: bool = False) -> list[Any]:
    """Step with the actions of `seed`, resetting at each end; return copies of all that came."""
    actions = copy.deepcopy(env.action_space)
    actions.seed(seed)
    events: list[Any] = []
    for step in range(num_steps):
        if reset:
            events.append(copy.deepcopy(env.reset(seed=seed + step)[0]))
        observation, reward, terminated, truncated, _ = env.step(actions.sample())
        events.append((copy.deepcopy(observation), reward, terminated, truncated))
        reset = bool(terminated or truncated)
    if reset:
        env.reset(seed=seed)
    return events


def assert_same_future(one: gym.Env, other: gym.Env, seed: int = 11) -> None:
    assert same_bits(play(one, 60, seed), play(other, 60, seed))
    assert same_bits(play(one, 20, seed + 1, reset=True), play(other, 20, seed + 1, reset=True))


@pytest.mark.parametrize("identifier", CLASSIC + TABLES + MUJOCO + OURS)
def test_the_probe_finds_exact(identifier: str) -> None:
    assert probe_snapshot_level(partial(make, identifier), seed=1) == "exact"


@pytest.mark.parametrize("identifier", CLASSIC + TABLES + MUJOCO + OURS)
def test_a_state_goes_through_a_file_into_another_instance(identifier: str) -> None:
    source = make(identifier)
    play(source, 37, seed=3, reset=True)
    state = through_a_file(snapshot_env(source))
    used, new = make(identifier), make(identifier)
    play(used, 13, seed=8, reset=True)
    for target in (used, new):
        restore_env(target, state)
        # Equal states are equal bytes: a resumed run's next checkpoint equals the unstopped one's.
        assert snapshot_env(target) == state
    expected = play(source, 60, seed=11)
    for target in (used, new):
        assert same_bits(play(target, 60, seed=11), expected)
        assert snapshot_env(target) == snapshot_env(source)


@pytest.mark.parametrize(
    ("identifier", "level"),
    [
        ("PongNoFrameskip-v4", "exact"),
        # The emulator's state lacks the sticky action: about one restored run in ten differed.
        ("ALE/Pong-v5", "replay"),
    ],
)
def test_atari_is_exact_without_the_emulators_sticky_actions(identifier: str, level: str) -> None:
    gym.register_envs(pytest.importorskip("ale_py"))
    assert probe_snapshot_level(partial(make, identifier), seed=1) == level


def test_equal_states_of_mujoco_are_equal_bytes_after_different_lives() -> None:
    one, other = make("Ant-v5"), make("Ant-v5")
    play(other, 50, seed=99, reset=True)
    assert same_bits(play(one, 30, 5, reset=True), play(other, 30, 5, reset=True))
    left, right = (snapshot_env(env)["state"] for env in (one, other))
    assert left == right


@pytest.mark.parametrize("identifier", ["LunarLander-v3", "BipedalWalker-v3", "CarRacing-v3"])
def test_box2d_is_replayed(identifier: str) -> None:
    def build() -> gym.Env:
        env = make(identifier)
        return FreshWorld(env) if FreshWorld.applies(env) else env

    begun = time.monotonic()
    assert probe_snapshot_level(build, seed=1) == "replay"
    assert time.monotonic() - begun < 8  # about 2 s on a quiet machine
    with pytest.raises(UnsupportedState, match=r"world|contactListener"):
        snapshot_env(build())


def test_a_walker_as_shipped_is_found_out() -> None:
    levels = [
        probe_snapshot_level(partial(make, "BipedalWalker-v3"), seed=seed) for seed in (1, 21, 41)
    ]
    assert "boundary" in levels
    assert "exact" not in levels


@pytest.mark.parametrize(
    "wrap",
    [
        partial(wrappers.FrameStackObservation, stack_size=4),
        wrappers.RecordEpisodeStatistics,
        wrappers.NormalizeObservation,
        wrappers.NormalizeReward,
        wrappers.TimeAwareObservation,
        partial(wrappers.StickyAction, repeat_action_probability=0.5),
        partial(wrappers.DelayObservation, delay=2),
    ],
)
def test_stateful_wrappers_are_part_of_the_state(wrap: Callable[[gym.Env], gym.Env]) -> None:
    def build() -> gym.Env:
        return wrap(make("CartPole-v1"))

    assert probe_snapshot_level(build, seed=1) == "exact"
    source, target = build(), build()
    play(source, 17, seed=3, reset=True)
    restore_env(target, through_a_file(snapshot_env(source)))
    assert_same_future(source, target)


def test_wall_clock_is_not_part_of_the_state() -> None:
    env = wrappers.RecordEpisodeStatistics(make("CartPole-v1"))
    play(env, 60, seed=0, reset=True)
    assert "time_queue" not in str(snapshot_env(env))
    assert "return_queue" in str(snapshot_env(env))


class OpaqueEnv(CountEnv):
    """Its state lies in the frame of a Python generator and survives `reset`."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = iter(step * 0.5 for step in range(10**9))

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, next(self.stream), terminated, truncated, info


class SnapshotThatForgets(CountEnv):
    """Declares a codec that leaves out the count."""

    def snapshot(self) -> dict[str, Any]:
        return {"length": self.length}

    def restore(self, state: dict[str, Any]) -> None:
        self.length, self.count = state["length"], 0


class GlobalNoiseEnv(CountEnv):
    """Draws from NumPy's global stream."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward + np.random.rand(), *rest


class HiddenInAClass(CountEnv):
    """Counts over all instances."""

    total = 0

    def step(self, action: Any) -> Any:
        type(self).total += 1
        observation, _, *rest = super().step(action)
        return observation, float(type(self).total), *rest


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        (OpaqueEnv, "boundary"),
        (SnapshotThatForgets, "replay"),
        (GlobalNoiseEnv, "boundary"),
        (HiddenInAClass, "boundary"),
    ],
)
def test_claims_are_found_out(kind: type[gym.Env], level: str) -> None:
    assert probe_snapshot_level(kind, seed=1) == level


class OwnCodec(CountEnv):
    """Declares a codec for a state that the walk refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = iter(())

    def snapshot(self) -> dict[str, Any]:
        return {"count": self.count, "length": self.length, "extra": np.arange(3)}

    def restore(self, state: dict[str, Any]) -> None:
        self.count, self.length = state["count"], state["length"]
        assert state["extra"].tolist() == [0, 1, 2]


def test_a_class_may_declare_its_own_codec() -> None:
    assert probe_snapshot_level(OwnCodec, seed=1) == "exact"
    source, target = wrappers.TimeLimit(OwnCodec(), 4), wrappers.TimeLimit(OwnCodec(), 4)
    source.reset(seed=0)
    source.step(0)
    restore_env(target, through_a_file(snapshot_env(source)))
    assert target.step(0)[0] == [2.0]


def test_an_environment_that_raises_is_not_hidden_by_the_probe() -> None:
    with pytest.raises(RuntimeError, match="raises at step 3"):
        probe_snapshot_level(partial(make, "LightningRL/Fault-v0", raise_at=3))


def test_the_probe_is_short_on_a_slow_environment_and_closes_what_it_made() -> None:
    open_envs: list[int] = []

    class Slow(CountEnv):
        def __init__(self) -> None:
            super().__init__()
            open_envs.append(1)

        def step(self, action: Any) -> Any:
            time.sleep(0.05)
            return super().step(action)

        def close(self) -> None:
            open_envs.pop()

    begun = time.monotonic()
    assert probe_snapshot_level(Slow) == "exact"
    assert time.monotonic() - begun < 4
    assert open_envs == []


def test_the_probe_moves_no_global_stream() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    probe_snapshot_level(GlobalNoiseEnv)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before


def test_replay_returns_to_the_saved_observation() -> None:
    env = make("LunarLander-v3")
    rng = np.random.default_rng(0)
    actions = [int(action) for action in rng.integers(4, size=40)]
    observation = replay_env(env, 5, actions)
    state = through_a_file(replay_snapshot(env, 5, actions, observation))
    target = make("LunarLander-v3")
    target.reset(seed=77)
    restore_env(target, state)
    assert same_bits(env.step(2)[:4], target.step(2)[:4])


def test_a_replay_that_leads_elsewhere_is_refused() -> None:
    env = CountEnv()
    replay_env(env, 5, [0, 0])
    state = replay_snapshot(env, 5, [0, 0], np.array([7.0], dtype=np.float32))
    with pytest.raises(CheckpointError, match="CountEnv did not return"):
        restore_env(CountEnv(), state)


def test_a_state_of_another_environment_is_refused() -> None:
    source = make("CartPole-v1")
    source.reset(seed=0)
    with pytest.raises(CheckpointError, match="expected a state of Acrobot-v1, received CartPole"):
        restore_env(make("Acrobot-v1"), snapshot_env(source))


def test_a_state_under_other_wrappers_is_refused() -> None:
    source = wrappers.FrameStackObservation(make("CartPole-v1"), 2)
    source.reset(seed=0)
    with pytest.raises(CheckpointError, match=r"FrameStackObservation, found .*TimeLimit"):
        restore_env(make("CartPole-v1"), snapshot_env(source))


def test_a_mujoco_state_of_another_model_is_refused() -> None:
    source, target = make("Hopper-v5"), make("Ant-v5")
    source.reset(seed=0)
    state = snapshot_env(source)
    state["env"] = "Ant-v5"
    with pytest.raises(CheckpointError):
        restore_env(target, state)


@pytest.mark.parametrize("level", ["replay", "boundary"])
def test_only_exact_can_be_taken_from_the_environment_alone(level: Any) -> None:
    with pytest.raises(ConfigError, match="expected level 'exact'"):
        snapshot_env(CountEnv(), level)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (np.array([np.nan]), np.array([np.nan]), True),
        (np.array([0.0]), np.array([-0.0]), False),
        (np.zeros(2, np.float32), np.zeros(2, np.float64), False),
        ({"a": (1, np.zeros(2))}, {"a": (1, np.zeros(2))}, True),
        ({"a": 1}, {"b": 1}, False),
        ((1, 2), (1,), False),
    ],
)
def test_same_bits(left: Any, right: Any, equal: bool) -> None:
    assert same_bits(left, right) is equal


def test_workers_can_be_told_to_save_and_restore() -> None:
    build = partial(_snapshotable, "CartPole-v1")
    with_workers = AsyncVectorEnv([build, build], autoreset_mode=AutoresetMode.DISABLED)
    try:
        with_workers.reset(seed=[1, 2])
        with_workers.step(np.array([0, 1]))
        states = with_workers.call("snapshot_state", "exact")
        local = SnapshotWrapper(make("CartPole-v1"))
        local.restore_state(states[1])
        observation = with_workers.step(np.array([1, 1]))[0]
        assert same_bits(local.step(1)[0], observation[1])
        assert same_bits(
            with_workers.call("replay_state", 9, [0, 1])[0], local.replay_state(9, [0, 1])
        )
    finally:
        with_workers.close()


def _snapshotable(identifier: str) -> gym.Env:
    return SnapshotWrapper(gym.make(identifier))


def test_a_state_is_the_same_with_and_without_the_wrapper() -> None:
    env = make("CartPole-v1")
    env.reset(seed=0)
    assert SnapshotWrapper(env).snapshot_state() == snapshot_env(env)
    assert snapshot_env(SnapshotWrapper(env)) == snapshot_env(env)


def test_the_frame_stack_holds_its_frames() -> None:
    env = wrappers.FrameStackObservation(make("CartPole-v1"), 3)
    env.reset(seed=0)
    assert isinstance(env.obs_queue, deque)
    target = wrappers.FrameStackObservation(make("CartPole-v1"), 3)
    restore_env(target, snapshot_env(env))
    assert same_bits(list(env.obs_queue), list(target.obs_queue))
    assert target.obs_queue.maxlen == 3
