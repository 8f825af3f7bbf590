"""Whether an exported policy acts as the agent does: observations to try, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from lightning_rl.envs.spaces import action_adapter, storage_dtype
from lightning_rl.errors import CheckpointError
from lightning_rl.functional.trees import map_tree, tree_leaves
from lightning_rl.types import Array, TensorObservation

Run = Callable[..., list[Tensor]]
"""The written file: from its inputs to its outputs."""

LARGEST = 1e6
"""Magnitude up to which unbounded entries are tried; bounds are tried where they are smaller."""

RTOL, ATOL = 1e-4, 1e-5
TIE = 1e-4
"""Relative change of an observation under which another choice is called a tie."""


def trial_observations(space: spaces.Space, num: int, seed: int = 0) -> TensorObservation:
    """Return `num` observations of a flat space as a batch, extremes among them.

    The first rows are all zeros and the bounds (or `LARGEST` where there are none); then come equal
    parts drawn within the bounds, around zero at every magnitude, and at random corners.

    Args:
        space: A leaf space or a flat Dict.
        num: Rows; at least 4.
        seed: Of the draws.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    if isinstance(space, spaces.Dict):
        return {
            key: torch.from_numpy(_leaf(leaf, num, random)) for key, leaf in space.spaces.items()
        }
    return torch.from_numpy(_leaf(space, num, random))


def _leaf(space: Any, num: int, random: np.random.Generator) -> Array:
    shape, dtype = (num, *(space.shape or ())), storage_dtype(space)
    if isinstance(space, spaces.Discrete):
        return random.integers(space.start, space.start + space.n, shape).astype(dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return (random.random(shape) * space.nvec + space.start).astype(dtype)
    if isinstance(space, spaces.MultiBinary):
        return random.integers(2, size=shape).astype(dtype)
    low = np.maximum(space.low.astype(np.float64), -LARGEST)
    high = np.minimum(space.high.astype(np.float64), LARGEST)
    drawn = low + (high - low) * random.random(shape)
    scale = 10.0 ** random.uniform(-3.0, np.log10(LARGEST), (num, *(1,) * len(space.shape)))
    around = np.clip(random.standard_normal(shape) * scale, low, high)
    corners = np.where(random.random(shape) < 0.5, low, high)
    kind = random.integers(3, size=num).reshape(scale.shape)
    rows = np.where(kind == 0, drawn, np.where(kind == 1, around, corners))
    rows[0], rows[1], rows[2] = np.clip(0.0, low, high), low, high
    return rows.astype(dtype)


def check_actions(agent: Any, module: Any, run: Run, num: int, steps: int = 3) -> int:
    """Compare the file's actions with the agent's, and those of one row with those of the batch.

    Actions of a recurrent policy are compared over `steps` steps with the state handed on.

    Args:
        agent: The agent.
        module: What was exported, as PyTorch runs it.
        run: The file.
        num: Observations.
        steps: Steps of a recurrent policy.

    Returns:
        The number of observations compared.

    Raises:
        CheckpointError: An action differs by more than rounding.
    """
    if module.state_shape is not None:
        return _check_recurrent(agent, module, run, num, steps)
    observation = trial_observations(agent.observation_space, num)
    to_env = action_adapter(agent.action_space, agent.env_config.action)

    def expected(batch: TensorObservation) -> Array:
        return np.asarray(to_env(agent.act_from_cpu(batch)))

    found = run(*tree_leaves(observation))[0].numpy()
    _compare(expected(observation), found, observation, expected)
    first = map_tree(lambda leaf: leaf[:1], observation)
    _compare(found[:1], run(*tree_leaves(first))[0].numpy(), first, expected)
    return num


def _check_recurrent(agent: Any, module: Any, run: Run, num: int, steps: int) -> int:
    rows = max(4, num // steps)
    state = own_state = torch.zeros(rows, *module.state_shape)
    for step in range(steps):
        observation = trial_observations(agent.observation_space, rows, seed=step)
        with torch.no_grad():
            expected, own_state = module(*tree_leaves(observation), own_state)
        found, state = run(*tree_leaves(observation), state)
        _compare(expected.numpy(), found.numpy(), observation, None)
        if not torch.allclose(state, own_state, RTOL, ATOL):
            raise CheckpointError("the exported policy's state differs from the agent's")
    return rows * steps


def _compare(
    expected: Array,
    found: Array,
    observation: TensorObservation,
    act: Callable[[TensorObservation], Array] | None,
) -> None:
    if expected.shape != found.shape:
        raise CheckpointError(
            f"the exported policy returns actions of shape {found.shape}, the agent's have "
            f"{expected.shape}"
        )
    if found.dtype.kind == "f":
        size = np.maximum(1.0, np.abs(expected).max(initial=0.0))
        differs = ~np.isclose(found, expected, RTOL, ATOL * size, equal_nan=True)
    else:
        differs = found != expected
    rows = np.flatnonzero(differs.reshape(len(differs), -1).any(axis=1))
    if found.dtype.kind != "f" and act is not None and len(rows):
        rows = rows[~_is_tie(rows, observation, act)]
    if len(rows):
        row = int(rows[0])
        raise CheckpointError(
            f"the exported policy acts otherwise than the agent on {len(rows)} of {len(expected)} "
            f"observations, for example {found[row]} instead of {expected[row]}; nothing was kept"
        )


def _is_tie(
    rows: Array, observation: TensorObservation, act: Callable[[TensorObservation], Array]
) -> Array:
    """Return for which rows the agent itself chooses otherwise after a change like rounding's."""
    chosen = act(map_tree(lambda leaf: leaf[rows], observation))
    tie = np.zeros(len(rows), dtype=bool)
    for factor in (1.0 - TIE, 1.0 + TIE):
        moved = map_tree(
            lambda leaf, by=factor: leaf[rows] * by if leaf.is_floating_point() else leaf[rows],
            observation,
        )
        other = act(moved) != chosen
        tie |= other.reshape(len(rows), -1).any(axis=1)
    return tie
