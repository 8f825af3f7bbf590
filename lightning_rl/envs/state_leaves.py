"""Values an exact snapshot stores whole: arrays, scalars, random generators, simulator states.

Each kind becomes what JSON can say: primitives, lists, tuples (which come back as lists) and
dictionaries with text as keys. Bytes travel in base64. Containers and objects, which are walked,
live in `state_walk`.
"""

from __future__ import annotations

import enum
import random
import sys
import weakref
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lightning_rl.errors import CheckpointError

BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class Leaf(NamedTuple):
    """How one kind of value is recognised, stored and put back.

    Attributes:
        matches: Whether a value is of this kind.
        encode: Value to payload.
        decode: Payload and the value that stands there now to the value to put there.
    """

    matches: Callable[[Any], bool]
    encode: Callable[[Any], Any]
    decode: Callable[[Any, Any], Any]


def _text(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode("ascii")


def _bytes(text: str) -> bytes:
    return a2b_base64(text)


def encode_array(array: np.ndarray) -> tuple[str, tuple[int, ...], str, str]:
    """Return `(dtype, shape, memory order, content)`; the order matters to a product's bits."""
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    data = array.tobytes(order)  # type: ignore[arg-type]
    return array.dtype.str, array.shape, order, _text(data)


def decode_array(payload: Any, _: Any = None) -> np.ndarray:
    """Return a writable array of its own from what `encode_array` gave."""
    dtype, shape, order, data = payload
    return np.ndarray(shape, _safe_dtype(dtype), _bytes(data), order=order).copy(order)


def _safe_dtype(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.hasobject:  # bytes read as pointers
        raise CheckpointError(f"expected an array of numbers, received dtype {name!r}")
    return dtype


def _is_array(value: Any) -> bool:
    return type(value) is np.ndarray and not value.dtype.hasobject and value.dtype.names is None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, np.generic) and not isinstance(value, np.void | np.object_)


def _encode_scalar(value: np.generic) -> tuple[str, str]:
    array = np.asarray(value)
    return array.dtype.str, _text(array.tobytes())


def _decode_scalar(payload: Any, _: Any) -> np.generic:
    dtype, data = payload
    return np.ndarray((), _safe_dtype(dtype), _bytes(data))[()]


def _plain(value: Any) -> Any:
    """Return a bit generator's state with its arrays (the key of MT19937) encoded."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return encode_array(value)
    return int(value) if isinstance(value, np.integer) else value


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unplain(item) for key, item in value.items()}
    return decode_array(value) if isinstance(value, list) else value


def _is_generator(value: Any) -> bool:
    if type(value) is not np.random.Generator:
        return False
    source = value.bit_generator
    known = type(source).__name__ in BIT_GENERATORS
    return known and isinstance(source.seed_seq, np.random.SeedSequence)


def _encode_generator(value: np.random.Generator) -> tuple[Any, Any]:
    source = value.bit_generator
    # The seed sequence decides what `Generator.spawn` gives next.
    return _plain(source.state), _seed_arguments(source.seed_seq)


def _seed_arguments(sequence: Any) -> dict[str, Any]:
    """Return the constructor arguments of a `SeedSequence`."""
    state = dict(sequence.state)
    entropy = state["entropy"]
    if entropy is not None and not isinstance(entropy, int | np.integer):
        state["entropy"] = [int(word) for word in entropy]
    state["spawn_key"] = [int(key) for key in state["spawn_key"]]
    return state


def _decode_generator(payload: Any, _: Any) -> np.random.Generator:
    state, seed = payload
    bit_generator = state["bit_generator"]
    if bit_generator not in BIT_GENERATORS:
        raise CheckpointError(
            f"expected a bit generator among {BIT_GENERATORS}, received {bit_generator!r}"
        )
    source = getattr(np.random, bit_generator)(np.random.SeedSequence(**seed))
    source.state = _unplain(state)
    return np.random.Generator(source)


def _encode_random_state(value: np.random.RandomState) -> Any:
    return _plain(value.get_state(legacy=False))


def _decode_random_state(payload: Any, _: Any) -> np.random.RandomState:
    generator = np.random.RandomState()
    generator.set_state(_unplain(payload))
    return generator


def _decode_random(payload: Any, _: Any) -> random.Random:
    generator = random.Random()
    version, words, gauss = payload
    generator.setstate((version, tuple(words), gauss))
    return generator


def _decode_enum(payload: Any, _: Any) -> enum.Enum:
    module, qualname, name = payload
    owner: Any = sys.modules.get(module)  # never imported: a checkpoint must not choose what runs
    for part in qualname.split("."):
        owner = getattr(owner, part, None)
    if not (isinstance(owner, type) and issubclass(owner, enum.Enum)):
        raise CheckpointError(f"expected the enumeration {module}.{qualname} to be imported")
    return owner[name]


def is_named(value: Any, module: str, name: str) -> bool:
    """Whether the class of `value` is `name` of a package that may not be installed."""
    return (
        type(value).__name__ == name
        and getattr(type(value), "__module__", "").split(".")[0] == module
    )


def mujoco_fields(data: Any) -> dict[str, np.ndarray]:
    """Return every array of an `MjData` whose size the model fixes, by name.

    Those that follow from the contacts of the moment (sized by them, or about the constraint
    islands that they form) are left out: `mj_step` computes them before use. This is more than
    `mjSTATE_INTEGRATION`, which is not enough for Ant and Humanoid, whose rewards use fields that
    lag a step behind. Unlike the bytes of `MjData.__getstate__` it holds no leftovers, so that
    equal states are equal bytes, and nothing of it is parsed by C code.
    """
    if data.model not in _mujoco_shapes:
        fresh = type(data)(data.model)
        arrays = {name: getattr(fresh, name) for name in dir(fresh) if name[0] != "_"}
        _mujoco_shapes[data.model] = {
            name: array.shape
            for name, array in arrays.items()
            if isinstance(array, np.ndarray)
            and array.size
            and not name.startswith(("maxuse", "map_"))
            and not name.endswith("_island")
        }
    shapes = _mujoco_shapes[data.model]
    now = {name: getattr(data, name) for name in shapes}
    return {name: array for name, array in now.items() if array.shape == shapes[name]}


# Of a fresh simulation, by model: making one takes longer than all the rest of a snapshot.
_mujoco_shapes: weakref.WeakKeyDictionary[Any, dict[str, tuple[int, ...]]]
_mujoco_shapes = weakref.WeakKeyDictionary()


def _mujoco_numbers(data: Any) -> list[str]:
    flags = [name for name in dir(data) if name.startswith("flg_") or name.endswith("_awake")]
    return ["time", *(name for name in flags if isinstance(getattr(data, name), int))]


def _encode_mujoco(data: Any) -> dict[str, Any]:
    return {
        "arrays": {name: encode_array(array) for name, array in mujoco_fields(data).items()},
        "numbers": {name: getattr(data, name) for name in _mujoco_numbers(data)},
    }


def _decode_mujoco(payload: Any, current: Any) -> Any:
    if not is_named(current, "mujoco", "MjData"):
        raise CheckpointError(f"expected a MuJoCo simulation, found {type(current).__name__}")
    import mujoco

    mujoco.mj_resetData(current.model, current)
    fields = mujoco_fields(current)
    if fields.keys() != payload["arrays"].keys():
        raise CheckpointError("expected the MuJoCo version and model of the checkpoint")
    for name, encoded in payload["arrays"].items():
        array = decode_array(encoded)
        if array.shape != fields[name].shape or array.dtype != fields[name].dtype:
            raise CheckpointError(
                f"expected MuJoCo field {name} of shape {array.shape}, found {fields[name].shape}"
            )
        fields[name][...] = array
    known = _mujoco_numbers(current)
    for name in payload["numbers"].keys() & set(known):
        setattr(current, name, payload["numbers"][name])
    return current


def _is_ale(value: Any) -> bool:
    """Whether `value` is an emulator whose state can be cloned in full.

    With sticky actions the clone lacks the action that may be repeated next, and about one restored
    run in ten goes elsewhere; `AtariPreprocessing` therefore repeats actions itself.
    """
    if not is_named(value, "ale_py", "ALEInterface"):
        return False
    return value.getFloat("repeat_action_probability") == 0.0


def _encode_ale(emulator: Any) -> str:
    return _text(emulator.cloneState(include_rng=True).serialize())


def _decode_ale(payload: Any, current: Any) -> Any:
    if not is_named(current, "ale_py", "ALEInterface"):
        raise CheckpointError(f"expected an Atari emulator, found {type(current).__name__}")
    import ale_py

    current.restoreState(ale_py.ALEState(_bytes(payload)))
    return current


LEAVES: dict[str, Leaf] = {
    "array": Leaf(_is_array, encode_array, decode_array),
    "scalar": Leaf(_is_scalar, _encode_scalar, _decode_scalar),
    "bytes": Leaf(lambda value: type(value) is bytes, _text, lambda payload, _: _bytes(payload)),
    "complex": Leaf(
        lambda value: type(value) is complex,
        lambda value: (value.real, value.imag),
        lambda payload, _: complex(*payload),
    ),
    "range": Leaf(
        lambda value: type(value) is range,
        lambda value: (value.start, value.stop, value.step),
        lambda payload, _: range(*payload),
    ),
    "enum": Leaf(
        lambda value: isinstance(value, enum.Enum),
        lambda value: (type(value).__module__, type(value).__qualname__, value.name),
        _decode_enum,
    ),
    "generator": Leaf(_is_generator, _encode_generator, _decode_generator),
    "random_state": Leaf(
        lambda value: type(value) is np.random.RandomState,
        _encode_random_state,
        _decode_random_state,
    ),
    "random": Leaf(
        lambda value: type(value) is random.Random,
        lambda value: value.getstate(),
        _decode_random,
    ),
    "mujoco": Leaf(
        lambda value: is_named(value, "mujoco", "MjData"), _encode_mujoco, _decode_mujoco
    ),
    "ale": Leaf(_is_ale, _encode_ale, _decode_ale),
}
"""Tag to kind; the first that matches is taken."""
