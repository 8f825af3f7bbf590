"""Spaces: flattening, storage, the adaptation of actions, and their form in checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from lightning_rl.envs.spaces import (
    action_adapter,
    allocate,
    flatten_space,
    observation_flattener,
    space_from_dict,
    space_to_dict,
    storage_dtype,
)
from lightning_rl.errors import ConfigError

BIT = spaces.Discrete(2)
PAIR = spaces.Box(-1.0, 1.0, (2,), np.float32)
LEAVES = [
    PAIR,
    BIT,
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-np.inf, np.inf, (3,), np.float64),
    spaces.Box(np.array([-1.0, -2.5], np.float32), np.array([0.1, np.inf], np.float32)),
    spaces.Box(-(2**62), 2**62, (2,), np.int64),
    spaces.Box(0.1, 0.3, (), np.float32),
]


@pytest.mark.parametrize("space", LEAVES, ids=str)
def test_a_leaf_is_flat_already(space: spaces.Space) -> None:
    assert flatten_space(space) is space
    observation = space.sample()
    assert observation_flattener(space)(observation) is observation


def test_nested_spaces_become_one_flat_dict() -> None:
    space = spaces.Dict({"a": spaces.Dict({"b": PAIR, "c": spaces.Tuple((BIT, PAIR))}), "d": BIT})
    flat = flatten_space(space)
    assert isinstance(flat, spaces.Dict)
    assert dict(flat.spaces) == {"a.b": PAIR, "a.c.0": BIT, "a.c.1": PAIR, "d": BIT}
    pair = np.array([0.5, -0.5], np.float32)
    observation = {"a": {"b": pair, "c": (1, -pair)}, "d": 0}
    result = observation_flattener(space)(observation)
    assert result["a.b"] is pair
    assert result["a.c.0"] == 1
    assert result["a.c.1"].tolist() == [-0.5, 0.5]
    assert result["d"] == 0


def test_a_flattened_sample_lies_in_the_flat_space() -> None:
    space = spaces.Tuple((spaces.Dict({"x": PAIR}), spaces.Tuple((BIT, spaces.MultiBinary(2)))))
    flat = flatten_space(space)
    assert list(flat.spaces) == ["0.x", "1.0", "1.1"]  # type: ignore[attr-defined]
    assert flat.contains(observation_flattener(space)(space.sample()))


def test_keys_may_hold_dots() -> None:
    space = spaces.Dict({"arm.position": PAIR, "arm.speed": PAIR})
    observation = {"arm.position": np.ones(2), "arm.speed": np.zeros(2)}
    assert observation_flattener(space)(observation) == observation


def test_keys_that_would_collide_are_refused() -> None:
    space = spaces.Dict({"a.b": BIT, "a": spaces.Dict({"b": BIT})})
    with pytest.raises(ConfigError, match="stay distinct when joined by dots"):
        flatten_space(space)


@pytest.mark.parametrize(
    ("space", "place"),
    [
        (spaces.Text(5), "'the top'"),
        (spaces.Dict({"a": spaces.Tuple((BIT, spaces.Text(5)))}), "'a.1'"),
        (spaces.Sequence(BIT), "'the top'"),
        (spaces.Dict({}), "'the top'"),
    ],
    ids=str,
)
def test_other_spaces_are_refused_by_place(space: spaces.Space, place: str) -> None:
    with pytest.raises(ConfigError, match=f"Box, Discrete, MultiDiscrete.* at {place}"):
        flatten_space(space)


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (PAIR, np.float32),
        (spaces.Box(-1, 1, (2,), np.float64), np.float32),
        (spaces.Box(0, 255, (2,), np.uint8), np.uint8),
        (BIT, np.int64),
        (spaces.MultiBinary(2), np.int8),
    ],
)
def test_storage_dtype(space: spaces.Space, dtype: type) -> None:
    assert storage_dtype(space) == dtype


def test_allocate_gives_one_array_per_leaf() -> None:
    single = allocate(spaces.Box(0, 255, (4, 4, 3), np.uint8), 7, 2)
    assert isinstance(single, np.ndarray)
    assert (single.shape, single.dtype) == ((7, 2, 4, 4, 3), np.uint8)
    nested = allocate(spaces.Dict({"a": PAIR, "b": BIT}), 3)
    assert isinstance(nested, dict)
    assert {key: leaf.shape for key, leaf in nested.items()} == {"a": (3, 2), "b": (3,)}


def adapt(space: spaces.Space, action: Any, mode: Any = "clip") -> np.ndarray:
    return action_adapter(space, mode)(np.asarray(action))


def test_box_actions_are_clipped() -> None:
    space = spaces.Box(np.float32([-1.0, 0.0]), np.float32([1.0, 3.0]))
    assert adapt(space, [[-2.0, 5.0], [0.5, 0.5]]).tolist() == [[-1.0, 3.0], [0.5, 0.5]]


def test_an_unbounded_box_is_not_clipped() -> None:
    assert adapt(spaces.Box(-np.inf, np.inf, (1,)), [[1e6]]).tolist() == [[1e6]]


def test_rescale_maps_the_unit_interval_to_the_bounds() -> None:
    space = spaces.Box(np.float32([-2.0, 10.0]), np.float32([2.0, 30.0]))
    actions = [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [-7.0, 7.0]]
    expected = [[-2.0, 10.0], [0.0, 20.0], [2.0, 30.0], [-2.0, 30.0]]
    assert adapt(space, actions, "rescale").tolist() == expected


def test_rescale_needs_bounds() -> None:
    with pytest.raises(ConfigError, match=r"finite bounds for action: rescale.*use action: clip"):
        action_adapter(spaces.Box(-1.0, np.inf, (1,)), "rescale")


def test_the_start_of_discrete_spaces_is_added() -> None:
    assert adapt(spaces.Discrete(3, start=-1), [0, 1, 2]).tolist() == [-1, 0, 1]
    space = spaces.MultiDiscrete([2, 3], start=[5, 0])
    assert adapt(space, [[0, 0], [1, 2]]).tolist() == [[5, 0], [6, 2]]


def test_multi_binary_actions_get_their_dtype() -> None:
    result = adapt(spaces.MultiBinary(2), np.array([[0, 1]], dtype=np.int64))
    assert result.dtype == np.int8
    assert spaces.MultiBinary(2).contains(result[0])


@pytest.mark.parametrize("space", LEAVES[:7], ids=str)
def test_adapted_actions_lie_in_the_space(space: spaces.Space) -> None:
    raw = np.zeros((1, *space.shape), np.float32 if isinstance(space, spaces.Box) else np.int64)
    assert space.contains(action_adapter(space, "clip")(raw)[0])


def test_an_unsupported_action_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected an action space among Box"):
        action_adapter(spaces.Tuple((BIT,)), "clip")


@pytest.mark.parametrize("space", LEAVES, ids=str)
def test_a_space_survives_its_form_in_checkpoints(space: spaces.Space) -> None:
    assert space_from_dict(space_to_dict(space)) == space


def test_a_dict_space_survives_its_form_in_checkpoints() -> None:
    space = flatten_space(spaces.Dict({"z": PAIR, "a": spaces.Tuple((BIT, BIT))}))
    result = space_from_dict(space_to_dict(space))
    assert result == space
    assert list(result.spaces) == list(space.spaces)  # type: ignore[attr-defined]


def test_an_image_space_is_short_in_a_checkpoint() -> None:
    state = space_to_dict(spaces.Box(0, 255, (84, 84, 4), np.uint8))
    assert state == {
        "kind": "Box",
        "low": 0.0,
        "high": 255.0,
        "shape": [84, 84, 4],
        "dtype": "uint8",
    }


def test_unknown_descriptions_are_refused() -> None:
    with pytest.raises(ConfigError, match="received 'Graph'"):
        space_from_dict({"kind": "Graph"})
    with pytest.raises(ConfigError, match="expected a space among"):
        space_to_dict(spaces.Text(3))
