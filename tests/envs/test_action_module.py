"""The tensor form of the action adapter equals the array form, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.envs.action_module import ActionModule
from lightning_rl.envs.spaces import action_adapter
from lightning_rl.errors import ConfigError

BOUNDS = [-2.0, 0.5], [0.3, 7.0]
FLOATS = np.array([[-9.0, 9.0], [0.1, 0.6], [-1.0, 1.0], [0.3, -0.0]], dtype=np.float32)


def box(dtype: Any) -> spaces.Box:
    return spaces.Box(*(np.array(bound, dtype) for bound in BOUNDS), dtype=dtype)


@pytest.mark.parametrize(
    ("space", "mode", "action"),
    [
        (box(np.float32), "clip", FLOATS),
        (box(np.float32), "rescale", FLOATS),
        (box(np.float64), "clip", FLOATS),
        (box(np.float64), "rescale", FLOATS),
        (spaces.Box(-np.inf, np.inf, (2,)), "clip", FLOATS),
        (spaces.Discrete(3), "clip", np.array([0, 2])),
        (spaces.Discrete(3, start=-5), "clip", np.array([0, 2])),
        (spaces.MultiDiscrete([2, 3], start=[1, 4]), "clip", np.array([[0, 2], [1, 1]])),
        (spaces.MultiDiscrete([2, 3]), "clip", np.array([[0, 2], [1, 1]])),
        (spaces.MultiBinary(2), "clip", np.array([[0, 1], [1, 1]], dtype=np.int8)),
    ],
)
def test_it_equals_the_adapter(space: Any, mode: Any, action: np.ndarray) -> None:
    expected = action_adapter(space, mode)(action)
    found = ActionModule(space, mode)(torch.from_numpy(action)).numpy()
    assert np.array_equal(found, expected)
    assert found.dtype == space.dtype
    assert space.contains(found[0] if found.ndim > 1 else found.dtype.type(found[0]))


def test_what_the_adapter_refuses_is_refused() -> None:
    with pytest.raises(ConfigError, match="finite bounds"):
        ActionModule(spaces.Box(-np.inf, np.inf, (2,)), "rescale")
    with pytest.raises(ConfigError, match="action space among"):
        ActionModule(spaces.Text(3), "clip")
