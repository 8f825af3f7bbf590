"""JSON that every reader accepts: numbers it has no word for (NaN, infinities) become text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

_SPELT = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, indent: int | None = 2) -> str:
    """Return `value` as standard JSON.

    Numbers of NumPy and torch become plain numbers, arrays and tuples lists, paths text; what JSON
    cannot hold at all becomes its `repr`. NaN and the infinities become `"NaN"`, `"Infinity"` and
    `"-Infinity"`, which `loads` turns back.

    Args:
        value: Anything.
        indent: Spaces per level; None for a single line.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def loads(text: str) -> Any:
    """Return the value of JSON text as `dumps` writes it.

    Raises:
        ValueError: The text is not JSON.
    """
    return _restore(json.loads(text))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, float):  # also NumPy's float64
        return float(value) if math.isfinite(value) else _spell(float(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return _plain(value.tolist())
    return repr(value)


def _spell(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _restore(value: Any) -> Any:
    if isinstance(value, str):
        return _SPELT.get(value, value)
    if isinstance(value, list):
        return [_restore(item) for item in value]
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    return value
