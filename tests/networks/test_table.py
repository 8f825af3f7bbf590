"""The table of action values: which row an observation has, and where the numbers live."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.envs.spaces import flatten_space
from lightning_rl.errors import ConfigError
from lightning_rl.networks.table import QTable, TableRows

TWO = spaces.Discrete(2)


def table(space: spaces.Space, **arguments: Any) -> QTable:
    return QTable(flatten_space(space), TWO, "Agent", **arguments)


def test_integers_are_digits_of_a_mixed_radix_number() -> None:
    grid = table(spaces.MultiDiscrete([3, 5, 2]))
    assert grid.num_states == 30
    assert grid.index(np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])).tolist() == [
        0, 1, 2, 10,
    ]  # fmt: skip
    assert grid.index(np.array([2, 4, 1])) == 29


@pytest.mark.parametrize(
    ("space", "batches"),
    [
        (spaces.Discrete(4, start=-2), [range(-2, 2)]),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), [range(5, 7), range(-1, 2)]),
        (spaces.MultiDiscrete([[2, 3], [1, 4]]), [range(2), range(3), range(1), range(4)]),
        (spaces.MultiBinary(9), [range(2)] * 9),  # more states than int8 can count
    ],
)
def test_every_combination_has_a_row_of_its_own(space: Any, batches: list[Any]) -> None:
    made = table(space)
    batch = np.array(list(itertools.product(*batches)), dtype=space.dtype)
    batch = batch.reshape(-1, *space.shape)
    assert made.index(batch).tolist() == list(range(made.num_states))
    assert made.rows(batch) == list(range(made.num_states))
    assert made.index(torch.from_numpy(batch)).tolist() == list(range(made.num_states))
    assert made.rows(batch[-1:]) == [made.num_states - 1]


def test_tuples_and_dicts_are_joined() -> None:
    space = spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 2])))
    made = table(space)
    assert made.num_states == 12
    observation = {"0": np.array([1, 3]), "1": np.array([[0, 1], [1, 0]])}
    assert made.rows(observation) == made.index(observation).tolist() == [1, 10]
    values = made({key: torch.from_numpy(leaf) for key, leaf in observation.items()})
    assert values.shape == (2, 2)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 1, (2,)), r"Agent expects an observation space of Discrete.*Box.*use DQN"),
        (spaces.Dict({"a": TWO, "b": spaces.Box(0, 1, (2,))}), r"Agent expects.*received Dict"),
        (
            spaces.MultiDiscrete([1_000, 1_000, 1_000]),
            r"at most 134,217,728 action values, received 1,000,000,000 observations x 2 actions "
            r"= 2,000,000,000 \(14.9 GiB\) for MultiDiscrete.*use DQN",
        ),
    ],
)
def test_what_no_table_can_hold_is_refused_by_name(space: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        table(space)
    assert "\n" not in str(caught.value)


def test_actions_must_be_discrete() -> None:
    with pytest.raises(ConfigError, match="Agent expects a Discrete action space, received Multi"):
        QTable(TWO, spaces.MultiBinary(2), "Agent")


def test_two_tables_act_by_their_mean() -> None:
    made = table(spaces.Discrete(2), num_tables=2)
    made.arrays[0][:], made.arrays[1][:] = [[1, 2], [3, 4]], [[5, 0], [-1, 8]]
    assert made(torch.tensor([1, 0])).tolist() == [[1.0, 6.0], [3.0, 1.0]]
    assert made.action_values([0, 1]).tolist() == [[3.0, 1.0], [1.0, 6.0]]


def test_rows_are_read_once_and_written_to_list_and_table() -> None:
    array = np.array([[1.0, 2.0], [3.0, 4.0]])
    rows = TableRows(array)
    assert rows[1] == [3.0, 4.0]
    assert rows.move(1, 0, target=7.0, step_size=0.25) == 4.0
    assert rows.move(0, 1, target=0.0, step_size=1.0) == -2.0
    assert rows == {0: [1.0, 0.0], 1: [4.0, 4.0]}
    assert array.tolist() == [[1.0, 0.0], [4.0, 4.0]]
    array[1, 0] = 9.0
    assert rows[1] == [4.0, 4.0]  # read once


@pytest.mark.parametrize(
    ("space", "observations", "rows"),
    [
        (spaces.Discrete(4), [[3], [0]], [3, 0]),
        (spaces.Discrete(4, start=-2), [[-2], [1]], [0, 3]),
        (spaces.MultiDiscrete([7]), [[[5]], [[2]]], [5, 2]),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), [[[6, 0]], [[5, 1]]], [4, 2]),
    ],
)
def test_a_reader_follows_one_environment(space: Any, observations: Any, rows: list[int]) -> None:
    observation = np.zeros((1, *space.shape), dtype=space.dtype)
    read = table(space).row_reader(observation)
    for seen, row in zip(observations, rows, strict=True):
        observation[:] = seen
        assert read() == row
    pair = spaces.Tuple((TWO, spaces.Discrete(3)))
    both = {"0": np.array([1]), "1": np.array([2])}
    read = table(pair).row_reader(both)
    assert read() == 5
    both["1"][0] = 0
    assert read() == 3
    assert table(pair).row({"0": np.int64(1), "1": np.int64(1)}) == 4  # one row of a batch
    switches = spaces.Tuple((spaces.MultiBinary([2, 2]), spaces.Discrete(3, start=1)))
    seen = {"0": np.array([[[1, 0], [1, 1]]], dtype=np.int8), "1": np.array([3])}
    assert table(switches).row_reader(seen)() == 0b1011 * 3 + 2


def test_the_views_stay_views() -> None:
    made = table(spaces.Discrete(2), initial_value=1.5)
    assert made.values.tolist() == [[[1.5, 1.5], [1.5, 1.5]]]
    twin = copy.deepcopy(made)
    for moved in (made, made.to(torch.float16), made.to("meta"), twin):
        moved.arrays[0][1, 0] = 7.0
        assert moved.values[0, 1, 0].item() == 7.0
        assert moved.values.dtype == torch.float64
        moved.load_state_dict({"values": torch.zeros(1, 2, 2)})
        assert moved.arrays[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    twin.arrays[0][:] = 3.0
    assert made.arrays[0].max() == 0.0
