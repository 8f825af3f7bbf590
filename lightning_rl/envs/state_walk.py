"""The typed walk over the attributes of an environment: an exact snapshot, and its way back.

`encode_state` turns an object (the outermost wrapper) into JSON; `decode_state` writes it into
another instance of the same construction. No pickle: a stored state names no class to build
and no function to call, and a value of a kind that is not known here raises `UnsupportedState`
instead of being guessed at.

The encoding: `None`, `bool`, `int`, `float` and `str` stand for themselves, everything else is a
pair `[tag, payload]`. What is reachable twice is stored once and then referred to
by number, so that what was shared stays shared.
"""

from __future__ import annotations

import contextlib
import json
import logging
import types
from collections import deque
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec

from lightning_rl.envs.state_leaves import LEAVES, is_named
from lightning_rl.errors import CheckpointError

PRIMITIVES = (bool, int, float, str, types.NoneType)
FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodWrapperType,
    np.ufunc,
)
CONSTANTS = (type, types.ModuleType, EnvSpec, np.dtype, PurePath, logging.Logger)
# Parts of C libraries that exist once per environment and are written in place.
IN_PLACE = ("mujoco", "ale")
CONSTANT_MODULES = ("pygame", "gymnasium.envs.mujoco.mujoco_rendering")

# Descriptions of an environment, which its construction sets.
IGNORED = {"spec", "metadata", "_cached_spec", "_metadata", "_saved_kwargs", "_ezpickle_args"}
IGNORED |= {"_ezpickle_kwargs"}
# By class: wall clock, and tables that construction fills for good.
IGNORED_BY_CLASS = {
    "gymnasium.wrappers.common.RecordEpisodeStatistics": {"episode_start_time", "time_queue"},
    "gymnasium.envs.toy_text.frozen_lake.FrozenLakeEnv": {"P", "desc", "initial_state_distrib"},
    "gymnasium.envs.toy_text.cliffwalking.CliffWalkingEnv": {"P", "_cliff"},
    "gymnasium.envs.toy_text.taxi.TaxiEnv": {"P", "desc", "initial_state_distrib"},
}


_NOT_AS_BUILT = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)


class UnsupportedState(CheckpointError):  # noqa: N818 - reads as what was found
    """An environment holds a value that an exact snapshot cannot store; the message names it."""


def encode_state(root: object) -> str:
    """Return the state of `root` and of all it reaches, as one text.

    A text and no tree, which would have hundreds of branches for each environment: checking and
    pickling them took most of the time of saving a small run.

    Raises:
        UnsupportedState: Naming the first attribute whose kind is not known.
    """
    try:
        return json.dumps(_Encoder().encode(root, type(root).__name__, attribute=True))
    except RecursionError as error:
        raise UnsupportedState(f"{type(root).__name__} is nested too deeply to be saved") from error


def decode_state(state: str, root: object) -> None:
    """Write a state from `encode_state` into `root`, which was constructed in the same way.

    When it raises, `root` may be half written and must be thrown away.

    Raises:
        CheckpointError: When `root` is built differently from the object that was saved.
    """
    try:
        _Decoder().decode(json.loads(state), root, type(root).__name__)
    except _NOT_AS_BUILT as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"expected the saved state of {type(root).__name__}, received another: {reason}"
        ) from error


def has_codec(value: object) -> bool:
    """Whether the class of `value` declares its own `snapshot()` and `restore(state)`."""
    kind = type(value)
    return callable(getattr(kind, "snapshot", None)) and callable(getattr(kind, "restore", None))


class _Encoder:
    """One walk; remembers what it met, by identity."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an object that is kept cannot leave its id to another
        self._memory: set[int] = set()

    def encode(self, value: Any, path: str, attribute: bool = False) -> Any:
        """Encode one value.

        Args:
            value: What to encode.
            path: Where it stands, for messages.
            attribute: It stands in an attribute, where construction puts an object of the same
                class; only there can an object be written back without building it from a name.
        """
        if type(value) in PRIMITIVES:
            return value
        if id(value) in self._numbers:
            return "same", self._numbers[id(value)]
        if type(value) is tuple:
            return "tuple", self._items(value, path)
        if type(value) in (list, dict, deque):
            return self._encode_container(value, path)
        leaf = next((tag for tag, leaf in LEAVES.items() if leaf.matches(value)), None)
        if leaf is not None and (attribute or leaf not in IN_PLACE):
            return self._encode_leaf(leaf, value, path)
        if attribute and leaf is None:
            return self._encode_fixed(value, path)
        raise UnsupportedState(f"{path} is {_class_name(type(value))}, which cannot be saved here")

    def _encode_leaf(self, tag: str, value: Any, path: str) -> Any:
        self._check_memory(value, path)
        if tag != "scalar":
            self._remember(value)
        return tag, LEAVES[tag].encode(value)

    def _encode_container(self, value: Any, path: str) -> Any:
        self._remember(value)
        if type(value) is dict:
            return "dict", (self._items(value, f"{path} (key)"), self._items(value.values(), path))
        items = self._items(value, path)
        return ("deque", (value.maxlen, items)) if type(value) is deque else ("list", items)

    def _encode_fixed(self, value: Any, path: str) -> Any:
        """Encode what is written back in place: constants, spaces, objects."""
        constant = self._constant_name(value)
        if constant is not None:
            return "constant", constant
        if isinstance(value, Space):
            self._remember(value)
            return "space", [self.encode(part._np_random, path) for part in _nested_spaces(value)]
        if not _is_walkable(value):
            raise UnsupportedState(f"{path} is {_class_name(type(value))}, which cannot be saved")
        self._remember(value)
        name = _class_name(type(value))
        if has_codec(value):
            return "codec", (name, _Encoder().encode(value.snapshot(), f"{path}.snapshot()"))
        ignored = _ignored(type(value))
        attributes = {
            key: self.encode(item, f"{path}.{key}", attribute=True)
            for key, item in _attributes(value).items()
            if key not in ignored
        }
        return "object", (name, attributes)

    def _items(self, values: Any, path: str) -> list[Any]:
        return [self.encode(item, f"{path}[{index}]") for index, item in enumerate(values)]

    def _remember(self, value: Any) -> None:
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)

    def _check_memory(self, value: Any, path: str) -> None:
        """Refuse arrays over memory that another array or object writes: the link would be lost."""
        if type(value) is not np.ndarray:
            return
        owner = value
        while type(owner.base) is np.ndarray:
            owner = owner.base
        if owner.base is not None or id(owner) in self._memory:
            raise UnsupportedState(f"{path} is a view of memory that something else owns")
        self._memory.add(id(owner))
        self._alive.append(owner)

    def _constant_name(self, value: Any) -> str | None:
        """Return a name for what construction sets for good, `None` for everything else."""
        kind = type(value)
        if isinstance(value, FUNCTIONS):
            return _function_name(value) if self._is_pure(value) else None
        if isinstance(value, type):
            return _class_name(value)
        scenery = _module(kind).startswith(CONSTANT_MODULES)
        if isinstance(value, CONSTANTS) or scenery or is_named(value, "mujoco", "MjModel"):
            return _class_name(kind)
        return None

    def _is_pure(self, function: Any) -> bool:
        """Whether a function hides no state of its own in its closure, defaults aside."""
        owner = getattr(function, "__self__", None)
        if not (owner is None or isinstance(owner, CONSTANTS) or id(owner) in self._numbers):
            return False
        return all(self._is_harmless(content) for content in _closure(function))

    def _is_harmless(self, value: Any) -> bool:
        if type(value) in (*PRIMITIVES, np.ndarray) or id(value) in self._numbers:
            return True
        if isinstance(value, FUNCTIONS):
            return not _closure(value) and self._is_pure(value)
        return isinstance(value, (*CONSTANTS, Space))


class _Decoder:
    """The way back; numbers what it makes as the encoder did."""

    def __init__(self) -> None:
        self._made: list[Any] = []

    def decode(self, state: Any, current: Any, path: str) -> Any:
        """Return what belongs at `path`, where `current` stands now."""
        if _module(type(current)).startswith(CONSTANT_MODULES):
            return current  # a window that is open stays open
        if not isinstance(state, list):
            return state
        tag, payload = state
        if tag in LEAVES:
            value = LEAVES[tag].decode(payload, current)
            if tag != "scalar":
                self._keep(value)
            return value
        return getattr(self, f"_decode_{tag}")(payload, current, path)

    def _decode_same(self, number: int, _: Any, __: str) -> Any:
        return self._made[number]

    def _decode_tuple(self, items: list[Any], _: Any, path: str) -> tuple[Any, ...]:
        return tuple(self.decode(item, None, path) for item in items)

    def _decode_list(self, items: list[Any], _: Any, path: str) -> list[Any]:
        made = self._keep([])
        made.extend(self.decode(item, None, path) for item in items)
        return made

    def _decode_deque(self, payload: Any, _: Any, path: str) -> deque[Any]:
        maxlen, items = payload
        made = self._keep(deque(maxlen=maxlen))
        made.extend(self.decode(item, None, path) for item in items)
        return made

    def _decode_dict(self, payload: Any, _: Any, path: str) -> dict[Any, Any]:
        made = self._keep({})
        keys = [self.decode(key, None, path) for key in payload[0]]
        values = [self.decode(value, None, path) for value in payload[1]]
        made.update(zip(keys, values, strict=True))
        return made

    def _decode_constant(self, name: str, current: Any, path: str) -> Any:
        if name not in (_class_name(type(current)), _function_name(current)):
            raise CheckpointError(f"expected {path} to hold {name}, found {current!r}")
        return current

    def _decode_space(self, generators: list[Any], current: Any, path: str) -> Any:
        self._keep(current)
        if not isinstance(current, Space):
            raise CheckpointError(f"expected {path} to hold a space, found {current!r}")
        for space, state in zip(_nested_spaces(current), generators, strict=True):
            space._np_random = self.decode(state, space._np_random, path)
        return current

    def _decode_codec(self, payload: Any, current: Any, path: str) -> Any:
        name, state = payload
        self._keep(current)
        _check_class(name, current, path)
        current.restore(_Decoder().decode(state, None, f"{path}.snapshot()"))
        return current

    def _decode_object(self, payload: Any, current: Any, path: str) -> Any:
        name, attributes = payload
        self._keep(current)
        _check_class(name, current, path)
        held = _attributes(current)
        ignored = _ignored(type(current))
        for key in held.keys() - attributes.keys() - ignored:
            del held[key]
        for key, state in attributes.items():
            held[key] = self.decode(state, held.get(key), f"{path}.{key}")
        return current

    def _keep(self, value: Any) -> Any:
        self._made.append(value)
        return value


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, and leave it as fast as before.

    CPython keeps attributes in the object until somebody asks for `__dict__`. From then on versions
    3.11 and 3.12 look each one up in a dictionary that shares its keys, which they cannot do in
    their fast way: steps of CartPole took a tenth longer for the rest of the run. With an ordinary
    dictionary they can.
    """
    with contextlib.suppress(AttributeError, TypeError):  # a class may forbid it
        object.__setattr__(value, "__dict__", dict(vars(value)))
    return vars(value)


def _is_walkable(value: Any) -> bool:
    """Whether all the state of `value` lies in a `__dict__` that Python code fills."""
    kind = type(value)
    plain = kind.__new__ is object.__new__ and hasattr(value, "__dict__")
    return plain and not any(cls.__dict__.get("__slots__") for cls in kind.__mro__)


def _check_class(name: str, current: Any, path: str) -> None:
    if _class_name(type(current)) != name:
        raise CheckpointError(f"expected {path} to be {name}, found {_class_name(type(current))}")


def _class_name(kind: type) -> str:
    return f"{_module(kind)}.{kind.__qualname__}"


def _module(kind: type) -> str:
    return getattr(kind, "__module__", "")  # some C types have none


def _function_name(value: Any) -> str | None:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return f"{getattr(value, '__module__', None)}.{name}" if name else None


def _closure(function: Any) -> list[Any]:
    cells = getattr(function, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if cell != types.CellType()]


def _ignored(kind: type) -> set[str]:
    names = set(IGNORED)
    for cls in kind.__mro__:
        names |= IGNORED_BY_CLASS.get(_class_name(cls), set())
    return names


def _nested_spaces(space: Space) -> Iterator[Space]:
    yield space
    children = getattr(space, "spaces", ())
    for child in children.values() if isinstance(children, dict) else children:
        yield from _nested_spaces(child)
