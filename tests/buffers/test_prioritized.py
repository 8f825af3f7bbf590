"""Prioritised replay: its sums, its draws, its weights, and its state in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from lightning_rl.buffers.n_step import NStepReplay
from lightning_rl.buffers.prioritized import EPS, PrioritizedReplay, SumTree
from lightning_rl.buffers.replay import ReplayBuffer
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.storage.segments import SegmentStore

OBSERVATION = spaces.Box(-1e9, 1e9, (1,), np.float32)
ACTION = spaces.Discrete(2)


def rollout_of(first: int, steps: int) -> Rollout:
    rollout = Rollout(steps, 1, OBSERVATION, ACTION)
    for step in range(steps + 1):
        rollout.write_observation(step, np.array([[first + step]], dtype=np.float32))
    rollout.reward[:, 0] = np.arange(first, first + steps)
    rollout.cursor = steps
    return rollout


def filled(
    steps: int, capacity: int = 10, alpha: float = 1.0, beta: float = 1.0
) -> PrioritizedReplay:
    base = ReplayBuffer(capacity, OBSERVATION, ACTION)
    replay = PrioritizedReplay(base, alpha, lambda: beta)
    replay.add(rollout_of(0, steps))
    return replay


def set_errors(replay: PrioritizedReplay, errors: list[float]) -> None:
    replay.update_priorities(torch.arange(len(errors)), torch.tensor(errors))


# The tree.


@given(
    size=st.integers(1, 40),
    writes=st.lists(
        st.lists(st.tuples(st.integers(0, 39), st.floats(0.0, 100.0, width=32)), min_size=1),
        max_size=4,
    ),
    seed=st.integers(0, 100),
)
def test_the_tree_equals_a_list(size: int, writes: list[Any], seed: int) -> None:
    tree, leaves = SumTree(size), [0.0] * size
    for write in writes:
        indices = np.array([index % size for index, _ in write])
        tree.set(indices, np.array([value for _, value in write]))
        for index, (_, value) in zip(indices, write, strict=True):
            leaves[index] = value
    assert tree.get(np.arange(size)).tolist() == pytest.approx(leaves)
    assert tree.total == pytest.approx(sum(leaves))
    if sum(leaves) > 0:
        for position in np.random.default_rng(seed).random(5) * sum(leaves) * (1 - 1e-9):
            found = int(tree.find(np.array([position]))[0])
            running = np.cumsum(leaves)
            assert running[found] >= position - 1e-6
            assert found == 0 or running[found - 1] <= position + 1e-6


def test_sums_do_not_drift() -> None:
    """They are added up anew, never corrected by a difference."""
    tree, rng = SumTree(1000), np.random.default_rng(0)
    for _ in range(300):
        tree.set(rng.integers(0, 1000, 64), rng.random(64) * 10.0 ** rng.integers(-6, 6))
    again = SumTree(1000)
    again.set(np.arange(1000), tree.get(np.arange(1000)))
    assert again.total == tree.total
    positions = rng.random(500) * tree.total
    assert np.array_equal(again.find(positions), tree.find(positions))


# Draws and weights.


def test_draws_are_proportional_to_the_errors() -> None:
    replay = filled(4)
    set_errors(replay, [1.0, 2.0, 0.0, 5.0])
    generator = torch.Generator().manual_seed(0)
    counts = np.bincount(
        np.concatenate([replay.draw(80, generator) for _ in range(100)]), minlength=4
    )
    assert counts / 8000 == pytest.approx([1 / 8, 2 / 8, 0.0, 5 / 8], abs=0.01)


def test_alpha_flattens_and_zero_makes_uniform() -> None:
    for alpha, shares in ((0.5, [1 / 3, 2 / 3]), (0.0, [1 / 2, 1 / 2])):
        replay = filled(2, alpha=alpha)
        set_errors(replay, [1.0, 4.0])
        drawn = replay.draw(9_000, torch.Generator().manual_seed(0))
        assert np.bincount(drawn) / 9_000 == pytest.approx(shares, abs=0.001)


def test_a_batch_takes_one_row_from_each_part_of_the_sum() -> None:
    replay = filled(8, capacity=8)
    assert sorted(replay.draw(8, torch.Generator().manual_seed(3))) == list(range(8))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_weights_against_literal_numbers(beta: float) -> None:
    replay = filled(3, beta=beta)
    set_errors(replay, [1.0, 2.0, 5.0])
    sample: Any = replay.sample(200, torch.Generator().manual_seed(0))
    # (3 p)^-beta with p = 1/8, 2/8, 5/8, over that of p = 1/8.
    expected = {0: 1.0, 1: 0.5**beta, 2: 0.2**beta}
    for row, weight in zip(sample["row"].tolist(), sample["weight"].tolist(), strict=True):
        assert weight == pytest.approx(expected[row], rel=1e-4)
    assert set(sample["row"].tolist()) == {0, 1, 2}
    assert torch.equal(sample["reward"], sample["row"].float())


def test_weighted_draws_estimate_the_uniform_mean() -> None:
    """With beta = 1 the weights undo the bias of the draws."""
    replay = filled(10, beta=1.0)
    set_errors(replay, [float(i + 1) for i in range(10)])
    sample: Any = replay.sample(20_000, torch.Generator().manual_seed(1))
    weight = sample["weight"]
    assert ((weight * sample["reward"]).sum() / weight.sum()).item() == pytest.approx(4.5, abs=0.1)


def test_new_transitions_get_the_largest_priority_so_far() -> None:
    replay = filled(3)
    assert replay.tree.get(np.arange(3)).tolist() == [1.0, 1.0, 1.0]
    set_errors(replay, [7.0, 0.5, 0.5])
    set_errors(replay, [0.5, 0.5, 0.5])
    replay.add(rollout_of(3, 2))
    expected = [0.5 + EPS] * 3 + [7.0 + EPS] * 2
    assert replay.tree.get(np.arange(5)).tolist() == pytest.approx(expected)


def test_overwritten_transitions_lose_their_priority() -> None:
    replay = filled(10)
    set_errors(replay, [9.0] * 10)
    set_errors(replay, [0.0] * 10)
    replay.add(rollout_of(10, 25))
    assert replay.tree.get(np.arange(10)).tolist() == pytest.approx([9.0] * 10)


def test_every_row_drawn_is_filled() -> None:
    replay = filled(3, capacity=1000)
    set_errors(replay, [1e-3, 1e3, 1e-3])
    assert replay.draw(5_000, torch.Generator().manual_seed(0)).max() <= 2


def test_multi_step_transitions_are_drawn_by_priority() -> None:
    base = NStepReplay(ReplayBuffer(10, OBSERVATION, ACTION), 2, 0.5, 1)
    replay = PrioritizedReplay(base, 1.0, lambda: 1.0)
    replay.add(rollout_of(0, 4))
    set_errors(replay, [0.0, 1.0, 0.0, 0.0])
    sample: Any = replay.sample(8, torch.Generator().manual_seed(0))
    assert sample["row"].tolist() == [1] * 8
    assert sample["reward"].tolist() == [1 + 0.5 * 2] * 8
    assert sample["discount"].tolist() == [0.25] * 8


# Checkpoints.


@pytest.mark.parametrize("steps", [0, 4, 25])
def test_a_restored_replay_draws_the_same_rows(tmp_path: Path, steps: int) -> None:
    replay = filled(steps, alpha=0.6, beta=0.4)
    if steps:
        set_errors(replay, [0.1 * i for i in range(min(steps, 10))])
    store = SegmentStore(tmp_path)
    references, state = replay.write_segments(store), replay.state_dict()
    torch.save(state, tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    again = PrioritizedReplay(ReplayBuffer(10, OBSERVATION, ACTION), 0.6, lambda: 0.4)
    again.load_segments(state, references, store)
    assert again.segment_files(tmp_path) == replay.segment_files(tmp_path)
    for one in (replay, again):
        one.add(rollout_of(100, 3))
    first, second = (one.sample(64, torch.Generator().manual_seed(2)) for one in (replay, again))
    assert first.keys() == second.keys()
    for name, column in first.items():
        assert torch.equal(column, second[name]), name  # type: ignore[arg-type]
