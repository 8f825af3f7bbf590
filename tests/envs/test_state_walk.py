"""The typed walk: every kind of value comes back as it was, every other kind is refused by name."""

from __future__ import annotations

import enum
import io
import itertools
import json
import random
import threading
from collections import Counter, OrderedDict, deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.envs.state_walk import UnsupportedState, decode_state, encode_state
from lightning_rl.errors import CheckpointError


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Holder:
    """An object with any attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def round_trip(source: Holder, target: Holder) -> Holder:
    file = io.BytesIO()
    torch.save(encode_state(source), file)
    file.seek(0)
    decode_state(torch.load(file, weights_only=True), target)
    return target


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        2**127,
        -0.0,
        float("inf"),
        "text",
        b"\x00\xff",
        b"",
        1 + 2j,
        range(1, 9, 2),
        (1, (2, "x")),
        [1, [2.5], None],
        {1: "a", (2, 3): [4], "k": {}},
        Color.BLUE,
        np.float64(0.1),
        np.float32(0.1),
        np.bool_(True),
        np.int64(-5),
        np.uint64(2**64 - 1),
        np.str_("D"),
        np.datetime64("2020-01-01"),
    ],
)
def test_a_value_returns_with_its_type(value: Any) -> None:
    held = round_trip(Holder(value=value), Holder(value="something else")).value
    assert held == value
    assert type(held) is type(value)


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "int8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "complex64",
        "S3",
    ],
)
def test_an_array_returns_with_its_dtype(dtype: str) -> None:
    array = np.array([[0, 1], [1, 1]]).astype(dtype)
    held = round_trip(Holder(value=array), Holder()).value
    assert held.dtype == array.dtype
    assert held.tobytes() == array.tobytes()
    assert held.flags.writeable
    assert held.flags.owndata


def test_the_memory_order_of_an_array_returns() -> None:
    held = round_trip(Holder(value=np.asfortranarray(np.eye(3)[:2])), Holder()).value
    assert held.flags.f_contiguous
    assert held.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("array", [np.array(2.5), np.zeros((0, 3)), np.array([], dtype="S1")])
def test_arrays_without_rows_return(array: np.ndarray) -> None:
    assert round_trip(Holder(value=array), Holder()).value.shape == array.shape


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_a_generator_goes_on(name: str) -> None:
    generator = np.random.Generator(getattr(np.random, name)(5))
    generator.integers(10, size=3, dtype=np.uint8)  # leaves half a word behind
    held = round_trip(Holder(rng=generator), Holder(rng=np.random.default_rng(0))).rng
    draws = held.integers(10, size=5, dtype=np.uint8)
    assert draws.tolist() == generator.integers(10, size=5, dtype=np.uint8).tolist()
    assert held.spawn(1)[0].random() == generator.spawn(1)[0].random()


def test_old_generators_go_on() -> None:
    source = Holder(python=random.Random(3), legacy=np.random.RandomState(3))
    source.python.gauss(0, 1)
    source.legacy.normal()
    held = round_trip(source, Holder())
    assert held.python.gauss(0, 1) == source.python.gauss(0, 1)
    assert held.legacy.normal() == source.legacy.normal()


def test_what_was_shared_stays_shared() -> None:
    rng, frame = np.random.default_rng(0), np.zeros(2)
    source = Holder(rng=rng, other=Holder(rng=rng), frames=deque([frame, frame], maxlen=2))
    held = round_trip(source, Holder(rng=None, other=Holder(rng=None), frames=None))
    assert held.rng is held.other.rng
    assert held.frames[0] is held.frames[1]
    assert held.frames.maxlen == 2


def test_a_circle_closes() -> None:
    source, target = Holder(child=Holder()), Holder(child=Holder())
    source.child.parent, target.child.parent = source, target
    source.items = [1]
    source.items.append(source.items)
    held = round_trip(source, target)
    assert held.child.parent is held
    assert held.items[1] is held.items


def test_attributes_that_came_later_are_removed() -> None:
    held = round_trip(Holder(kept=1), Holder(kept=2, late=3))
    assert vars(held) == {"kept": 1}


def test_a_used_space_goes_on_drawing() -> None:
    source = Holder(space=spaces.Dict(a=spaces.Discrete(9), b=spaces.Box(0, 1)))
    target = Holder(space=spaces.Dict(a=spaces.Discrete(9), b=spaces.Box(0, 1)))
    source.space.seed(4)
    source.space.sample()
    assert round_trip(source, target).space.sample() == source.space.sample()


def test_constants_stay_as_construction_made_them() -> None:
    def attributes() -> dict[str, Any]:
        return {"kind": int, "path": Path("x"), "call": len, "pure": test_a_circle_closes}

    assert vars(round_trip(Holder(**attributes()), Holder(**attributes()))) == attributes()


def test_a_function_that_was_exchanged_is_noticed() -> None:
    with pytest.raises(CheckpointError, match=r"Holder.call to hold .*len"):
        round_trip(Holder(call=len), Holder(call=sum))


def test_an_object_of_another_class_is_noticed() -> None:
    class Other(Holder):
        pass

    with pytest.raises(CheckpointError, match=r"Holder\.part to be"):
        round_trip(Holder(part=Holder()), Holder(part=Other()))


def counting_function() -> Any:
    calls = [0]

    def call() -> int:
        calls[0] += 1
        return calls[0]

    return call


def view_of_shared_memory() -> dict[str, Any]:
    array = np.zeros(4)
    return {"whole": array, "part": array[:2]}


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"bad": iter([1])}, "Holder.bad"),
        ({"bad": (step for step in range(3))}, "Holder.bad"),
        ({"bad": itertools.count()}, "Holder.bad"),
        ({"bad": threading.Lock()}, "Holder.bad"),
        ({"bad": {1, 2}}, "Holder.bad"),
        ({"bad": OrderedDict(a=1)}, "Holder.bad"),
        ({"bad": Counter("a")}, "Holder.bad"),
        ({"bad": partial(len)}, "Holder.bad"),
        ({"bad": counting_function()}, "Holder.bad"),
        ({"bad": [].append}, "Holder.bad"),
        ({"bad": np.array([None, {}])}, "Holder.bad"),
        ({"bad": np.zeros(1, dtype=[("x", float)])}, "Holder.bad"),
        ({"bad": torch.zeros(2)}, "Holder.bad"),
        ({"bad": np.frombuffer(bytearray(8))}, "Holder.bad"),
        ({"bad": [1, Holder()]}, r"Holder.bad\[1\]"),
        ({"part": Holder(deep=threading.Event())}, r"Holder.part.deep._cond"),
        (view_of_shared_memory(), "Holder.part is a view"),
    ],
)
def test_other_kinds_are_refused_by_name(attributes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedState, match=named):
        encode_state(Holder(**attributes))


def test_a_list_that_is_nested_without_end_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(UnsupportedState, match="nested too deeply"):
        encode_state(Holder(nested=nested))


@pytest.mark.parametrize(
    "state",
    [
        ("unknown", 1),
        ("object", ("tests.Other", {})),
        ("object", 3),
        ("same", 9),
        ("generator", ({"bit_generator": "seed"}, {})),
        ("enum", ("os", "system", "x")),
        ("array", ("|O", (1,), "C", "MTIzNDU2Nzg=")),
        ("array", ("<f8", (10**6,), "C", "MTIzNDU2Nzg=")),
        ("array", ("<f8", (1,), "C", "no base64")),
        ("scalar", ("|O", "MTIzNDU2Nzg=")),
    ],
)
def test_a_state_that_makes_no_sense_is_one_error(state: Any) -> None:
    whole = ("object", (f"{Holder.__module__}.Holder", {"a": state}))
    with pytest.raises(CheckpointError, match="expected"):
        decode_state(json.dumps(whole), Holder())


@pytest.mark.parametrize("text", ["", "no json", "[" * 100_000, ("object", {})])
def test_what_is_no_state_at_all_is_one_error(text: Any) -> None:
    with pytest.raises(CheckpointError, match="expected the saved state of Holder"):
        decode_state(text, Holder())


def test_walking_leaves_an_object_with_an_ordinary_dictionary() -> None:
    """The one that CPython makes of it slows attributes down for good."""

    class Plain:
        def __init__(self, a: int) -> None:
            self.a = a

    first, second = Plain(1), Plain(2)
    made = [vars(item) for item in (first, second)]
    decode_state(encode_state(first), second)
    assert all(vars(item) is not before for item, before in zip((first, second), made, strict=True))
    assert vars(first) == vars(second) == {"a": 1}
