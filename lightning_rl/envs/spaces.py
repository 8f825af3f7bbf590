"""Spaces: which are supported, how nested ones become flat, and how actions are adapted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from lightning_rl.errors import ConfigError
from lightning_rl.types import Array, Observation

ActionMode = Literal["clip", "rescale"]
LEAF_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
SUPPORTED_OBSERVATIONS = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
SUPPORTED_ACTIONS = "Box, Discrete, MultiDiscrete, MultiBinary"
_Path = tuple[Any, ...]  # keys of Dicts and indices of Tuples, outermost first


def flatten_space(space: spaces.Space) -> spaces.Space:
    """Return the leaf space itself, or one flat `Dict` of leaves.

    Its keys are `"a.b"` for nested Dicts and `"0"`, `"1"` for Tuples.

    Raises:
        ConfigError: For a space that is not supported; the message names the supported ones.
    """
    if isinstance(space, LEAF_SPACES):
        return space
    leaves = _leaves(space, ())
    flat = {_flat_key(path): leaf for path, leaf in leaves}
    if len(flat) < len(leaves):
        raise ConfigError(f"expected keys that stay distinct when joined by dots, received {space}")
    return spaces.Dict(flat)


def _leaves(space: spaces.Space, path: _Path) -> list[tuple[_Path, spaces.Space]]:
    if isinstance(space, LEAF_SPACES):
        return [(path, space)]
    children = _children(space)
    if not children:
        raise ConfigError(
            f"expected an observation space among {SUPPORTED_OBSERVATIONS}, "
            f"received {space} at {_flat_key(path) or 'the top'!r}"
        )
    return [leaf for key, child in children for leaf in _leaves(child, (*path, key))]


def _children(space: spaces.Space) -> list[tuple[Any, spaces.Space]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return list(enumerate(space.spaces))
    return []


def _flat_key(path: _Path) -> str:
    return ".".join(map(str, path))


def observation_flattener(space: spaces.Space) -> Callable[[Any], Any]:
    """Return what turns an observation (or batch) of `space` into an array or a flat dictionary."""
    if isinstance(space, LEAF_SPACES):
        return lambda observation: observation
    paths = [(_flat_key(path), path) for path, _ in _leaves(space, ())]

    def flatten(observation: Any) -> dict[str, Any]:
        return {name: _descend(observation, path) for name, path in paths}

    return flatten


def _descend(observation: Any, path: _Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def storage_dtype(space: spaces.Space) -> np.dtype:
    """Return the dtype in which a leaf space is stored: float64 becomes float32, integers stay."""
    dtype = np.dtype(space.dtype)
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def allocate(space: spaces.Space, *leading: int) -> Observation:
    """Return zeroed storage `(*leading, *shape)` for a flat space: one array, or one per leaf."""
    if isinstance(space, spaces.Dict):
        return {key: _allocate_leaf(leaf, leading) for key, leaf in space.spaces.items()}
    return _allocate_leaf(space, leading)


def _allocate_leaf(space: spaces.Space, leading: tuple[int, ...]) -> Array:
    return np.zeros((*leading, *(space.shape or ())), dtype=storage_dtype(space))


def action_adapter(space: spaces.Space, mode: ActionMode) -> Callable[[Array], Array]:
    """Return the function from the policy's actions `(N, ...)` to what `step` takes.

    This is the only place where actions are changed. Box: `clip` cuts to the bounds; `rescale` maps
    `[-1, 1]` linearly to the bounds (which must be finite). Discrete: the space's `start` is added.
    The others pass unchanged. What is learned from is always the policy's own action.

    Raises:
        ConfigError: For an unsupported space, or `rescale` with an unbounded one.
    """
    if isinstance(space, spaces.Box):
        return _box_adapter(space, mode)
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return (lambda action: action + start) if start else (lambda action: action)
    if isinstance(space, spaces.MultiDiscrete):
        offset = np.asarray(space.start)
        return (lambda action: action + offset) if offset.any() else (lambda action: action)
    if isinstance(space, spaces.MultiBinary):
        return lambda action: action.astype(np.int8)
    raise ConfigError(f"expected an action space among {SUPPORTED_ACTIONS}, received {space}")


def _box_adapter(space: spaces.Box, mode: ActionMode) -> Callable[[Array], Array]:
    low, high = space.low, space.high
    if mode == "clip":
        return lambda action: np.clip(action, low, high)
    if not space.is_bounded():
        raise ConfigError(
            f"expected finite bounds for action: rescale, received {space}; use action: clip"
        )
    half_range, middle = (high - low) / 2, (high + low) / 2
    return lambda action: np.clip(action, -1.0, 1.0) * half_range + middle


def space_to_dict(space: spaces.Space) -> dict[str, Any]:
    """Return a flat observation space or an action space as primitives."""
    if isinstance(space, spaces.Dict):
        return {
            "kind": "Dict",
            "spaces": {key: space_to_dict(leaf) for key, leaf in space.spaces.items()},
        }
    kind = type(space).__name__
    if isinstance(space, spaces.Box):
        bounds = [
            np.broadcast_to(bound, space.shape).astype(float) for bound in (space.low, space.high)
        ]
        same = [bool((bound == bound.flat[0]).all()) if bound.size else False for bound in bounds]
        low, high = (
            float(bound.flat[0]) if is_same else bound.ravel().tolist()
            for bound, is_same in zip(bounds, same, strict=True)
        )
        return {
            "kind": kind,
            "low": low,
            "high": high,
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.Discrete):
        return {"kind": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": kind, "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": kind, "n": list(space.shape)}
    raise ConfigError(f"expected a space among {SUPPORTED_OBSERVATIONS}, received {space}")


def space_from_dict(state: dict[str, Any]) -> spaces.Space:
    """Return the space that `space_to_dict` described.

    Raises:
        ConfigError: For a description of no known kind.
    """
    kind = state.get("kind")
    if kind == "Dict":
        return spaces.Dict({key: space_from_dict(leaf) for key, leaf in state["spaces"].items()})
    if kind == "Box":
        shape, dtype = tuple(state["shape"]), np.dtype(state["dtype"])
        low, high = (_bound(state[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(state["n"], start=state["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.asarray(state["nvec"]), start=np.asarray(state["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(state["n"][0] if len(state["n"]) == 1 else state["n"])
    raise ConfigError(f"expected a stored space among {SUPPORTED_OBSERVATIONS}, received {kind!r}")


def _bound(value: float | list[float], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    bound = np.asarray(value, dtype=np.float64).astype(dtype)
    return np.full(shape, bound) if bound.ndim == 0 else bound.reshape(shape)
