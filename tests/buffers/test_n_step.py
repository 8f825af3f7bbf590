"""Multi-step transitions, against a loop over complete episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from lightning_rl.buffers.n_step import NStepReplay
from lightning_rl.buffers.replay import ReplayBuffer
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.vector import make_vector_env
from lightning_rl.errors import ConfigError
from lightning_rl.experience.collector import Collector
from lightning_rl.functional.returns import n_step_return

OBSERVATION = spaces.Box(0.0, 1e9, (1,), np.float32)
ACTION = spaces.Discrete(2)


def rollout_of(flags: list[list[str]], first: int = 0) -> Rollout:
    """One row of flags per step: `.` goes on, `t` terminated, `c` cut by a time limit.

    The observation of row n at step t is 100 n + t, the final one 0.5 more than expected there, and
    the reward of step t is 10^t in row 0 and minus that in row 1.
    """
    num_envs = len(flags[0])
    rollout = Rollout(len(flags), num_envs, OBSERVATION, ACTION)
    numbers = 100.0 * np.arange(num_envs)[:, None]
    for step, row in enumerate(flags):
        rollout.write_observation(step, (numbers + first + step).astype(np.float32))
        rollout.reward[step] = [10.0 ** (first + step) * (-1) ** n for n in range(num_envs)]
        for n, flag in enumerate(row):
            rollout.terminated[step, n], rollout.truncated[step, n] = flag == "t", flag == "c"
            if flag != ".":
                final = (numbers + first + step + 1.5).astype(np.float32)
                rollout.write_final(step, n, final)
    rollout.write_observation(len(flags), (numbers + first + len(flags)).astype(np.float32))
    rollout.cursor = len(flags)
    return rollout


def filled(flags: list[list[str]], n: int, gamma: float = 0.5, capacity: int = 100) -> NStepReplay:
    rollout = rollout_of(flags)
    base = ReplayBuffer(capacity, OBSERVATION, ACTION)
    replay = NStepReplay(base, n, gamma, rollout.num_envs)
    replay.add(rollout)
    return replay


def row_of(replay: NStepReplay, row: int) -> tuple[float, float, float, bool, bool]:
    one: Any = replay.gather(np.array([row]))
    names = ("reward", "discount", "next_observation", "terminated", "truncated")
    return tuple(one[name].flatten()[0].item() for name in names)  # type: ignore[return-value]


def test_three_steps_inside_an_episode_against_literal_numbers() -> None:
    replay = filled([["."]] * 5, 3)
    assert row_of(replay, 0) == (1 + 5 + 25, 0.125, 3.0, False, False)
    assert row_of(replay, 1) == (10 + 50 + 250, 0.125, 4.0, False, False)


def test_the_newest_transitions_have_fewer_steps() -> None:
    replay = filled([["."]] * 5, 3)
    assert row_of(replay, 3) == (1_000 + 5_000, 0.25, 5.0, False, False)
    assert row_of(replay, 4) == (10_000, 0.5, 5.0, False, False)


def test_an_end_of_the_task_stops_the_sum() -> None:
    replay = filled([["."], ["t"], ["."], ["."]], 3)
    assert row_of(replay, 0) == (1 + 5, 0.25, 2.5, True, False)
    assert row_of(replay, 1) == (10, 0.5, 2.5, True, False)
    assert row_of(replay, 2) == (100 + 500, 0.25, 4.0, False, False)


def test_a_time_limit_bootstraps_from_the_true_final_observation_after_k_steps() -> None:
    replay = filled([["."], ["c"], ["."], ["."]], 3)
    assert row_of(replay, 0) == (1 + 5, 0.25, 2.5, False, True)
    assert row_of(replay, 1) == (10, 0.5, 2.5, False, True)


def test_environments_do_not_mix() -> None:
    replay = filled([[".", "."], ["t", "."], [".", "."], [".", "c"]], 3)
    assert row_of(replay, 0) == (1 + 5, 0.25, 2.5, True, False)
    assert row_of(replay, 1) == (-(1 + 5 + 25), 0.125, 103.0, False, False)
    assert row_of(replay, 3) == (-(10 + 50 + 250), 0.125, 104.5, False, True)


@given(
    n=st.integers(1, 6),
    num_envs=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    capacity=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_targets_equal_those_of_whole_rollouts(
    n: int, num_envs: int, lengths: list[int], capacity: int, seed: int
) -> None:
    """Across calls of `add`, the wrap of the ring, ends of both kinds and several environments."""
    rng = np.random.default_rng(seed)
    flags = rng.choice([".", "t", "c"], (sum(lengths), num_envs), p=[0.7, 0.15, 0.15]).tolist()
    replay = NStepReplay(ReplayBuffer(capacity, OBSERVATION, ACTION), n, 0.9, num_envs)
    at = 0
    rewards, nexts, ends = [], [], []
    for length in lengths:
        rollout = rollout_of(flags[at : at + length], at)
        rollout.reward[:] = rng.random(rollout.reward.shape)
        replay.add(rollout)
        rewards.append(rollout.reward.copy())
        nexts.append(np.asarray(rollout.next_observation())[..., 0])
        ends.append((rollout.terminated.copy(), (rollout.terminated | rollout.truncated)))
        at += length
    reward, following = (torch.from_numpy(np.concatenate(x)) for x in (rewards, nexts))
    terminated, ended = (torch.from_numpy(np.concatenate(x)) for x in zip(*ends, strict=True))
    value = following / 100.0  # any function of the observation
    expected = n_step_return(reward, value, terminated, ended, 0.9, n).flatten()
    numbers = np.arange(max(0, at * num_envs - capacity), at * num_envs)
    sample: Any = replay.gather(numbers % capacity)
    bootstrap = sample["next_observation"][:, 0] / 100.0 * ~sample["terminated"]
    target = sample["reward"] + sample["discount"] * bootstrap
    assert target == pytest.approx(expected[numbers].numpy(), rel=1e-5)


def test_a_dropped_episode_is_not_read_into_the_next() -> None:
    """A run resumed at snapshot level `boundary` begins new episodes behind the stored ones."""
    replay = filled([["."], ["."]], 3)
    replay.cut(1)
    replay.add(rollout_of([["."], ["."], ["."]], first=2))
    assert row_of(replay, 0) == (1 + 5, 0.25, 2.0, False, True)
    assert row_of(replay, 2) == (100 + 500 + 2_500, 0.125, 5.0, False, False)


def test_environments_that_skip_steps_are_refused() -> None:
    config = EnvConfig("CartPole-v1", num_envs=4, vectorization="vector")
    env = make_vector_env(config)
    collector = Collector(env, 0)
    collector.start()
    replay = NStepReplay(ReplayBuffer(500, env.observation_space, env.action_space), 3, 0.9, 4)
    rollout = Rollout(60, 4, env.observation_space, env.action_space)
    collector.collect(rollout, lambda observation, step: np.zeros(4, dtype=np.int64))
    with pytest.raises(ConfigError, match="use vectorization: sync or async, or n_step: 1"):
        replay.add(rollout)
    env.close()
