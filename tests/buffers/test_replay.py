"""The replay buffer, against a list that keeps everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from lightning_rl.buffers import replay
from lightning_rl.buffers.replay import ReplayBuffer
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.errors import CheckpointError
from lightning_rl.functional.trees import tree_items
from lightning_rl.storage.segments import SegmentStore

BOTH = spaces.Dict(
    {"image": spaces.Box(0, 255, (2,), np.uint8), "line": spaces.Box(0.0, 1e9, (1,), np.float32)}
)
ACTION = spaces.Discrete(1_000_000)


class Naive:
    """Every transition ever, as a list of plain tuples."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def add(self, rollout: Rollout) -> None:
        finals = dict(zip(rollout.final_index, rollout.final_observation, strict=True))
        observation: Any = rollout.observation
        for step in range(rollout.num_steps):
            for row in range(rollout.num_envs):
                if rollout.valid is not None and not rollout.valid[step, row]:
                    continue
                after: Any = finals.get((step, row))
                if after is None:
                    after = {key: leaf[step + 1, row] for key, leaf in observation.items()}
                self.rows.append(
                    (
                        {key: leaf[step, row].tolist() for key, leaf in observation.items()},
                        rollout.action[step, row].item(),
                        rollout.reward[step, row].item(),
                        rollout.terminated[step, row].item(),
                        rollout.truncated[step, row].item(),
                        {key: leaf.tolist() for key, leaf in after.items()},
                    )
                )


def rows_of(transitions: Any) -> list[tuple[Any, ...]]:
    count = len(transitions["reward"])
    return [
        tuple(
            {key: leaf[row].tolist() for key, leaf in column.items()}
            if isinstance(column, dict)
            else column[row].item()
            for column in transitions.values()
        )
        for row in range(count)
    ]


def random_rollout(
    rng: np.random.Generator, num_steps: int, num_envs: int, gaps: bool = False
) -> Rollout:
    rollout = Rollout(num_steps, num_envs, BOTH, ACTION)

    def observe() -> Any:
        return {
            "image": rng.integers(0, 256, (num_envs, 2), dtype=np.uint8),
            "line": rng.random((num_envs, 1), dtype=np.float32),
        }

    for step in range(num_steps):
        rollout.write_observation(step, observe())
        rollout.action[step] = rng.integers(0, 1_000_000, num_envs)
        rollout.reward[step] = rng.random(num_envs)
        for row in np.flatnonzero(rng.random(num_envs) < 0.4).tolist():
            (rollout.terminated if rng.random() < 0.5 else rollout.truncated)[step, row] = True
            rollout.write_final(step, row, observe())
        if gaps:
            rollout.write_valid(step, rng.random(num_envs) < 0.7)
        rollout.cursor = step + 1
    rollout.write_observation(num_steps, observe())
    return rollout


def filled(
    capacity: int, steps: list[int], num_envs: int = 2, gaps: bool = False
) -> tuple[ReplayBuffer, Naive]:
    rng = np.random.default_rng(0)
    buffer, naive = ReplayBuffer(capacity, BOTH, ACTION), Naive()
    for num_steps in steps:
        rollout = random_rollout(rng, num_steps, num_envs, gaps)
        buffer.add(rollout)
        naive.add(rollout)
    return buffer, naive


@given(
    capacity=st.integers(1, 30),
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    num_envs=st.integers(1, 3),
    gaps=st.booleans(),
)
def test_it_holds_the_last_transitions(
    capacity: int, steps: list[int], num_envs: int, gaps: bool
) -> None:
    """Whatever wraps around where, also where one rollout is longer than the buffer."""
    buffer, naive = filled(capacity, steps, num_envs, gaps)
    assert buffer.inserted == len(naive.rows)
    assert len(buffer) == min(capacity, len(naive.rows))
    kept = naive.rows[-capacity:]
    assert rows_of(buffer.recent(capacity)) == kept
    assert rows_of(buffer.recent(3)) == kept[-3:]
    for number in range(len(naive.rows) - len(kept), len(naive.rows)):
        at = number % capacity
        row = {name: _at(column, at) for name, column in buffer.columns.items()}
        assert rows_of(row) == [naive.rows[number]]


def _at(column: Any, row: int) -> Any:
    if isinstance(column, dict):
        return {key: leaf[row : row + 1] for key, leaf in column.items()}
    return column[row : row + 1]


def test_observations_keep_their_dtypes() -> None:
    columns = ReplayBuffer(4, BOTH, spaces.Box(-1, 1, (2,), np.float64)).columns
    assert columns["observation"]["image"].dtype == torch.uint8  # type: ignore[index,call-overload]
    assert columns["action"].dtype == torch.float32  # type: ignore[union-attr]
    assert columns["terminated"].dtype == torch.bool  # type: ignore[union-attr]


def test_samples_are_uniform_whole_transitions() -> None:
    buffer, naive = filled(20, [7, 7])
    kept = naive.rows[-20:]
    sample = rows_of(buffer.sample(4_000, torch.Generator().manual_seed(0)))
    counts = [sample.count(row) for row in kept]
    assert sum(counts) == 4_000
    assert 140 < min(counts) <= max(counts) < 260  # 200 on average, deviation 14


def test_only_what_is_filled_is_sampled() -> None:
    buffer, naive = filled(100, [2])
    assert set(map(str, rows_of(buffer.sample(200, torch.Generator())))) == set(
        map(str, naive.rows)
    )


def test_samples_come_from_the_given_generator() -> None:
    buffer, _ = filled(20, [9])
    first, second = (rows_of(buffer.sample(5, torch.Generator().manual_seed(3))) for _ in range(2))
    before = torch.get_rng_state()
    third = rows_of(buffer.sample(5, torch.Generator().manual_seed(4)))
    assert first == second != third
    assert torch.equal(before, torch.get_rng_state())


def test_a_sample_is_a_copy() -> None:
    buffer, naive = filled(20, [9])
    sample = buffer.sample(5, torch.Generator())
    sample["reward"].zero_()  # type: ignore[union-attr]
    assert rows_of(buffer.recent(18)) == naive.rows


# Checkpoints.


def restored(buffer: ReplayBuffer, references: Any, store: SegmentStore) -> ReplayBuffer:
    again = ReplayBuffer(buffer.capacity, BOTH, ACTION)
    again.load_segments(buffer.state_dict(), references, store)
    return again


def assert_equal(left: ReplayBuffer, right: ReplayBuffer) -> None:
    assert left.inserted == right.inserted
    for name, column in left.columns.items():
        for (_, leaf), (_, other) in zip(
            tree_items(column), tree_items(right.columns[name]), strict=True
        ):
            assert torch.equal(leaf, other), name


def test_the_content_survives_in_segments_that_hold_only_what_is_new(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = SegmentStore(tmp_path)
    buffer = ReplayBuffer(16, BOTH, ACTION)
    spans = []
    for num_steps in (3, 2, 4, 6, 1, 5):  # 42 transitions: wraps around twice
        buffer.add(random_rollout(rng, num_steps, 2))
        references = buffer.write_segments(store)
        spans.append((references[-1]["start"], references[-1]["end"]))
        assert_equal(restored(buffer, references, SegmentStore(tmp_path)), buffer)
    assert spans == [(0, 6), (6, 10), (10, 18), (18, 30), (30, 32), (32, 42)]


def test_overwritten_segments_are_no_longer_named(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path)
    buffer, _ = filled(8, [2])
    buffer.write_segments(store)
    buffer.add(random_rollout(np.random.default_rng(1), 4, 2))
    references = buffer.write_segments(store)
    assert [(item["start"], item["end"]) for item in references] == [(4, 12)]
    assert buffer.segment_files(tmp_path) == {references[0]["file"]}
    assert buffer.segment_files(tmp_path / "elsewhere") == set()


def test_without_new_transitions_nothing_is_written(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path)
    buffer, _ = filled(8, [2])
    first = buffer.write_segments(store)
    assert buffer.write_segments(store) == first
    assert len(list(tmp_path.iterdir())) == 1


def test_a_restored_buffer_goes_on_appending(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path)
    buffer, _ = filled(16, [3])
    again = restored(buffer, buffer.write_segments(store), store)
    again.add(random_rollout(np.random.default_rng(5), 2, 2))
    references = again.write_segments(store)
    assert [(item["start"], item["end"]) for item in references] == [(0, 6), (6, 10)]
    assert_equal(restored(again, references, store), again)


def test_a_segment_that_is_missing_is_written_again_with_all_behind_it(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path)
    (buffer, _), rng = filled(16, [2]), np.random.default_rng(3)
    for _ in range(2):
        buffer.write_segments(store)
        buffer.add(random_rollout(rng, 1, 2))
    (tmp_path / buffer.write_segments(store)[1]["file"]).unlink()
    references = buffer.write_segments(store)
    assert [(item["start"], item["end"]) for item in references] == [(0, 4), (4, 8)]
    assert_equal(restored(buffer, references, store), buffer)


def test_another_folder_gets_the_whole_content(tmp_path: Path) -> None:
    buffer, _ = filled(16, [3, 2])
    buffer.write_segments(SegmentStore(tmp_path / "a"))
    references = buffer.write_segments(SegmentStore(tmp_path / "b"))
    assert [(item["start"], item["end"]) for item in references] == [(0, 10)]
    assert_equal(restored(buffer, references, SegmentStore(tmp_path / "b")), buffer)


def test_an_empty_buffer_survives(tmp_path: Path) -> None:
    buffer = ReplayBuffer(4, BOTH, ACTION)
    references = buffer.write_segments(SegmentStore(tmp_path))
    assert references == []
    assert len(restored(buffer, references, SegmentStore(tmp_path))) == 0


def test_another_capacity_is_refused(tmp_path: Path) -> None:
    buffer, _ = filled(16, [3])
    references = buffer.write_segments(SegmentStore(tmp_path))
    with pytest.raises(CheckpointError, match="expected replay capacity 16, received 8"):
        ReplayBuffer(8, BOTH, ACTION).load_segments(
            buffer.state_dict(), references, SegmentStore(tmp_path)
        )


def test_a_missing_segment_is_noticed(tmp_path: Path) -> None:
    buffer, _ = filled(16, [3])
    references = buffer.write_segments(SegmentStore(tmp_path))
    (tmp_path / references[0]["file"]).unlink()
    with pytest.raises(CheckpointError):
        restored(buffer, references, SegmentStore(tmp_path))


def test_cut_episodes_are_truncated_also_in_a_restored_buffer(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path)
    buffer, _ = filled(8, [3])
    buffer.columns["terminated"][:] = torch.arange(8) == 5
    buffer.columns["truncated"][:] = False
    buffer.write_segments(store)
    buffer.cut(2)
    assert buffer.columns["truncated"][:6].tolist() == [False] * 4 + [True, False]
    references = buffer.write_segments(store)
    assert len(references) == 1  # written before; the cut stands in the state
    assert_equal(restored(buffer, references, store), buffer)
    buffer.add(random_rollout(np.random.default_rng(3), 4, 2))
    assert_equal(restored(buffer, buffer.write_segments(store), store), buffer)


def test_much_that_is_new_is_cut_into_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment is all that saving holds in memory; here one takes three transitions."""
    buffer = ReplayBuffer(16, BOTH, ACTION)
    row = sum(leaf[:1].nbytes for _, leaf in buffer._named_leaves())
    monkeypatch.setattr(replay, "SEGMENT_BYTES", 4 * row - 1)
    store = SegmentStore(tmp_path)
    rng = np.random.default_rng(0)
    for num_steps in (4, 3, 9, 6):  # 44 transitions: segments that wrap around and that do not
        buffer.add(random_rollout(rng, num_steps, 2))
        references = buffer.write_segments(store)
        assert {item["end"] - item["start"] for item in references} <= {1, 2, 3}
        assert_equal(restored(buffer, references, SegmentStore(tmp_path)), buffer)
    assert [item["start"] for item in references] == [28, 31, 32, 35, 38, 41]
