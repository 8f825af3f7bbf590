"""JSON that every reader accepts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_rl.runs.plain_json import dumps, loads


def refuse(constant):
    raise AssertionError(f"not standard JSON: {constant}")


def test_numbers_json_has_no_word_for_come_back():
    text = dumps({"a": math.nan, "b": [math.inf, -math.inf], "c": 1.5})
    json.loads(text, parse_constant=refuse)
    back = loads(text)
    assert math.isnan(back["a"])
    assert back["b"] == [math.inf, -math.inf]
    assert back["c"] == 1.5


def test_other_types_become_plain():
    value = {
        1: np.float32(0.5),
        "array": np.arange(3),
        "tensor": torch.tensor([[1.0, math.inf]]),
        "int": np.int64(2**60),
        "bool": np.bool_(True),
        "path": Path("a/b"),
        "tuple": (1, None, "é"),
        "object": complex(1, 2),
    }
    assert loads(dumps(value)) == {
        "1": 0.5,
        "array": [0, 1, 2],
        "tensor": [[1.0, math.inf]],
        "int": 2**60,
        "bool": True,
        "path": "a/b",
        "tuple": [1, None, "é"],
        "object": "(1+2j)",
    }


def test_broken_text_is_a_value_error():
    with pytest.raises(ValueError, match="Expecting property name"):
        loads("{'a': 1}")
