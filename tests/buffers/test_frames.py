"""Replay that stores each frame once, against the buffer that stores whole transitions."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rl.buffers.frames import FrameReplay, make_replay
from lightning_rl.buffers.replay import ReplayBuffer
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.envs.config import EnvConfig
from lightning_rl.errors import ConfigError
from lightning_rl.storage.segments import SegmentStore

ACTION = spaces.Discrete(9)


def stacked(stack: int, *shape: int) -> spaces.Box:
    return spaces.Box(0, 255, (stack, *shape), np.uint8)


class Player:
    """Environments that stack frames as Gymnasium's wrapper does, with random episode ends."""

    def __init__(self, stack: int, num_envs: int, seed: int = 0, end: float = 0.25) -> None:
        self.space = stacked(stack, 3)
        self.rng = np.random.default_rng(seed)
        self.end = end
        self.stacks = [deque([self.frame()] * stack, maxlen=stack) for _ in range(num_envs)]

    def frame(self) -> Any:
        return self.rng.integers(0, 256, 3, dtype=np.uint8)

    def observation(self) -> Any:
        return np.stack([np.stack(list(frames)) for frames in self.stacks])

    def restart(self, row: int) -> None:
        first = self.frame()
        self.stacks[row].extend([first] * len(self.stacks[row]))

    def rollout(self, num_steps: int) -> Rollout:
        num_envs, rng = len(self.stacks), self.rng
        rollout = Rollout(num_steps, num_envs, self.space, ACTION)
        for step in range(num_steps):
            rollout.write_observation(step, self.observation())
            rollout.action[step] = rng.integers(0, 9, num_envs)
            rollout.reward[step] = rng.random(num_envs)
            for frames in self.stacks:
                frames.append(self.frame())
            for row in np.flatnonzero(rng.random(num_envs) < self.end).tolist():
                (rollout.terminated if rng.random() < 0.5 else rollout.truncated)[step, row] = True
                rollout.write_final(step, row, self.observation())
                self.restart(row)
            rollout.cursor = step + 1
        rollout.write_observation(num_steps, self.observation())
        return rollout


def both(capacity: int, player: Player) -> tuple[FrameReplay, ReplayBuffer]:
    num_envs = len(player.stacks)
    return (
        FrameReplay(capacity, player.space, ACTION, num_envs),
        ReplayBuffer(capacity, player.space, ACTION),
    )


def assert_equal(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for name, column in left.items():
        assert column.dtype == right[name].dtype
        assert torch.equal(column, right[name]), name


def assert_same_content(frames: ReplayBuffer, plain: ReplayBuffer) -> None:
    assert len(frames) == len(plain)
    rows = np.arange(len(plain))
    assert_equal(frames.gather(rows), plain.gather(rows))


@given(
    capacity=st.integers(1, 30),
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    num_envs=st.integers(1, 3),
    stack=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_it_equals_a_plain_buffer(
    capacity: int, steps: list[int], num_envs: int, stack: int, seed: int
) -> None:
    """Across episode ends, environments, and wherever the ring wraps around."""
    player = Player(stack, num_envs, seed)
    frames, plain = both(capacity, player)
    for num_steps in steps:
        rollout = player.rollout(num_steps)
        frames.add(rollout)
        plain.add(rollout)
        assert_same_content(frames, plain)
    assert_equal(frames.recent(5), plain.recent(5))
    samples = [buffer.sample(7, torch.Generator().manual_seed(1)) for buffer in (frames, plain)]
    assert_equal(*samples)
    rows = np.arange(len(plain))[::-1].copy()
    for name in ("observation", "reward", "next_observation"):
        assert torch.equal(frames.take(name, rows), plain.take(name, rows))  # type: ignore[arg-type]


@settings(max_examples=30)  # each writes files
@given(
    capacity=st.integers(4, 25),
    steps=st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8),
    num_envs=st.integers(1, 3),
    end=st.sampled_from([0.05, 0.3, 1.0]),
)
def test_it_survives_in_segments(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    steps: list[tuple[int, bool]],
    num_envs: int,
    end: float,
) -> None:
    """Saved now and then, it goes on from any checkpoint as if nothing had happened."""
    store = SegmentStore(tmp_path_factory.mktemp("replay"))
    player = Player(3, num_envs, seed=capacity, end=end)
    frames, plain = both(capacity, player)
    for num_steps, saves in steps:
        rollout = player.rollout(num_steps)
        frames.add(rollout)
        plain.add(rollout)
        if saves:
            references = frames.write_segments(store)
            assert frames.segment_files(store.directory) == {r["file"] for r in references}
            state = frames.state_dict()
            frames, _ = both(capacity, player)
            frames.load_segments(state, references, SegmentStore(store.directory))
            assert_same_content(frames, plain)
    elsewhere = SegmentStore(tmp_path_factory.mktemp("elsewhere"))
    again, _ = both(capacity, player)
    again.load_segments(frames.state_dict(), frames.write_segments(elsewhere), elsewhere)
    rollout = player.rollout(2)
    again.add(rollout)
    plain.add(rollout)
    assert_same_content(again, plain)


def test_segments_hold_only_what_is_new(tmp_path: Path) -> None:
    player = Player(2, 1, end=0.0)
    frames, _ = both(6, player)
    store = SegmentStore(tmp_path)
    spans = []
    for num_steps in (3, 2, 4, 4):
        frames.add(player.rollout(num_steps))
        references = frames.write_segments(store)
        spans.append((references[-1]["start"], references[-1]["end"]))
    assert spans == [(0, 3), (3, 5), (5, 9), (9, 13)]
    assert [item["start"] for item in references] == [5, 9]  # 7 is the oldest, 6 its history
    assert frames.write_segments(store) == references


@pytest.mark.parametrize("filled", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_transition_of_atari_costs_little_more_than_a_frame(filled: int) -> None:
    """A million laid out and some filled, measured as resident memory."""
    space = stacked(4, 84, 84)
    process = psutil.Process()
    rollout = Rollout(200, 1, space, ACTION)
    rollout.observation[:] = 1  # touch it before measuring
    before = process.memory_info().rss
    buffer = FrameReplay(1_000_000, space, ACTION, num_envs=1)
    for _ in range(filled // 200):
        rollout.clear()
        rollout.truncated[-1] = True  # an end every 200 steps
        rollout.write_final(199, 0, rollout.observation[0])
        buffer.add(rollout)
    assert len(buffer) == filled
    assert 7_056 < (process.memory_info().rss - before) / len(buffer) <= 7_500


def test_frames_of_any_kind_are_stacked() -> None:
    space = spaces.Box(-1.0, 1.0, (3, 2), np.float64)
    buffer = FrameReplay(4, space, ACTION, num_envs=1)
    rollout = Rollout(1, 1, space, ACTION)
    rollout.observation[0], rollout.observation[1] = 0.5, [[[0.5, 0.5], [0.5, 0.5], [0.25, 1.0]]]
    buffer.add(rollout)
    sample = buffer.gather(np.array([0]))
    assert sample["next_observation"].tolist() == [[[0.5, 0.5], [0.5, 0.5], [0.25, 1.0]]]  # type: ignore[union-attr]


def test_it_is_chosen_for_stacked_frames() -> None:
    box, config = stacked(4, 5, 5), EnvConfig("CartPole-v1", frame_stack=4, num_envs=2)
    assert isinstance(make_replay(config, 10, box, ACTION), FrameReplay)
    tree = spaces.Dict({"a": box})
    for other, space in ((EnvConfig("CartPole-v1"), box), (config, tree)):
        assert type(make_replay(other, 10, space, ACTION)) is ReplayBuffer


def test_what_is_no_stack_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a Box of stacked frames"):
        FrameReplay(4, spaces.Discrete(3), ACTION, 1)
    rollout = Rollout(2, 1, stacked(2, 3), ACTION)
    rollout.write_valid(0, np.array([False]))
    with pytest.raises(ConfigError, match="all step at once"):
        FrameReplay(4, stacked(2, 3), ACTION, 1).add(rollout)


def test_frames_are_not_stacked_across_a_cut(tmp_path: Path) -> None:
    """A run resumed at snapshot level `boundary` begins new episodes behind the stored ones."""
    player = Player(3, num_envs=2, end=0.2)
    frames, whole = both(60, player)
    store = SegmentStore(tmp_path)
    for _ in range(3):
        rollout = player.rollout(5)
        for replay in (frames, whole):
            replay.add(rollout)
            replay.cut(2)
        player.stacks = Player(3, num_envs=2, seed=7).stacks
        references = frames.write_segments(store)
    again = FrameReplay(60, player.space, ACTION, 2)
    again.load_segments(frames.state_dict(), references, store)
    rollout = player.rollout(4)
    for replay in (frames, whole, again):
        replay.add(rollout)
    rows = np.arange(len(whole))
    for replay in (frames, again):
        assert_equal(replay.gather(rows), whole.gather(rows))
