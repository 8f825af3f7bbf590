"""What a search may try: distributions over the values of a configuration, by dotted path.

    space = {"model.learning_rate": loguniform(1e-5, 1e-2), "model.gamma": choice(0.9, 0.99)}

The same in YAML: `model.learning_rate: {log_uniform: [1e-5, 1e-2]}`, `model.gamma: [0.9, 0.99]`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lightning_rl.errors import ConfigError, did_you_mean

Value: TypeAlias = Any
"""What a YAML file can hold: None, bool, int, float, str, or a list of them."""

KINDS = ("uniform", "log_uniform", "int_uniform", "int_log_uniform", "choice")


@dataclass(frozen=True)
class Distribution:
    """Where one value is drawn from; made by `uniform`, `choice` and so on.

    Attributes:
        kind: One of `KINDS`.
        bounds: Lowest and highest value, both possible; all values of a `choice`.
    """

    kind: str
    bounds: tuple[Value, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = did_you_mean(self.kind, KINDS)
            raise ConfigError(
                f"unknown distribution {self.kind!r}{hint}; known: {', '.join(KINDS)}"
            )
        if self.kind == "choice":
            if not self.bounds:
                raise ConfigError("choice: expected at least one value, got none")
            return
        if len(self.bounds) != 2 or not all(_is_number(bound) for bound in self.bounds):
            raise ConfigError(f"{self.kind}: expected [lowest, highest], got {list(self.bounds)}")
        low, high = self.bounds
        if not low < high:
            raise ConfigError(f"{self.kind}: expected lowest < highest, got {low} and {high}")
        if "log" in self.kind and low <= 0:
            raise ConfigError(f"{self.kind}: expected bounds above 0, got {low}")
        if self.kind.startswith("int") and not all(float(b).is_integer() for b in self.bounds):
            raise ConfigError(f"{self.kind}: expected whole numbers, got {low} and {high}")

    @property
    def is_finite(self) -> bool:
        """Whether its values can be listed, as a grid needs."""
        return self.kind == "choice"

    def sample(self, generator: np.random.Generator) -> Value:
        """Draw one value."""
        if self.kind == "choice":
            return self.bounds[int(generator.integers(len(self.bounds)))]
        low, high = self.bounds
        if self.kind == "uniform":
            return float(generator.uniform(low, high))
        if self.kind == "log_uniform":
            return float(
                np.clip(math.exp(generator.uniform(math.log(low), math.log(high))), low, high)
            )
        if self.kind == "int_uniform":
            return int(generator.integers(int(low), int(high) + 1))
        # Half a unit of margin on both sides gives the bounds their share.
        drawn = math.exp(generator.uniform(math.log(low - 0.5), math.log(high + 0.5)))
        return int(np.clip(round(drawn), low, high))


def uniform(low: float, high: float) -> Distribution:
    """Return the uniform distribution over [low, high]."""
    return Distribution("uniform", (low, high))


def loguniform(low: float, high: float) -> Distribution:
    """Return the distribution whose logarithm is uniform over [low, high], both above 0."""
    return Distribution("log_uniform", (low, high))


def randint(low: int, high: int) -> Distribution:
    """Return the uniform distribution over the whole numbers from `low` to `high` inclusive."""
    return Distribution("int_uniform", (low, high))


def choice(*values: Value) -> Distribution:
    """Return the distribution over `values`, all equally likely; one list means its items."""
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = tuple(values[0])
    return Distribution("choice", values)


def parse_distribution(value: Any) -> Distribution:
    """Return what a sweep file says about one key.

    Args:
        value: A list of values, one value, or a mapping of one of `KINDS` to its bounds.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise ConfigError(
                f"expected one distribution, as in {{log_uniform: [1e-5, 1e-2]}}, got {dict(value)}"
            )
        ((kind, bounds),) = value.items()
        if not isinstance(bounds, (list, tuple)):
            raise ConfigError(f"{kind}: expected a list, got {bounds!r}")
        return Distribution(str(kind), tuple(bounds))
    return Distribution("choice", tuple(value) if isinstance(value, (list, tuple)) else (value,))


Sampler: TypeAlias = Distribution | Callable[..., Value] | list[Value] | tuple[Value, ...]
"""A distribution, a list of values, or a function of nothing that draws a value."""


def draw(space: Mapping[str, Sampler], generator: np.random.Generator) -> dict[str, Value]:
    """Return one value for every key."""
    values: dict[str, Value] = {}
    for key, sampler in space.items():
        if isinstance(sampler, Distribution):
            values[key] = sampler.sample(generator)
        elif callable(sampler):
            values[key] = sampler()
        else:
            values[key] = parse_distribution(sampler).sample(generator)
    return values


def grid(space: Mapping[str, Any]) -> Iterator[dict[str, Value]]:
    """Yield every combination, the last key fastest.

    Raises:
        ConfigError: A key has a distribution whose values cannot be listed.
    """
    columns = []
    for key, values in space.items():
        distribution = values if isinstance(values, Distribution) else parse_distribution(values)
        if not distribution.is_finite:
            raise ConfigError(
                f"{key}: a grid needs a list of values, got {distribution.kind}; "
                "list them, or take another sampler"
            )
        columns.append(distribution.bounds)
    for combination in itertools.product(*columns):
        yield dict(zip(space, combination, strict=True))


def place(base: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """Return a configuration with values put at their dotted paths.

    `model.learning_rate` stands for `model.init_args.learning_rate`, as on the command line.

    Args:
        base: Nested mappings; not changed.
        values: Dotted path to value.
    """
    config = _copy(base)
    for key, value in values.items():
        *path, last = _full_path(key)
        node = config
        for name in path:
            below = node.get(name)
            if isinstance(below, str) and name in ("model", "env"):  # their short forms
                below = {"class_path" if name == "model" else "id": below}
            node[name] = below if isinstance(below, dict) else {}
            node = node[name]
        node[last] = value
    return config


def _full_path(key: str) -> list[str]:
    path = key.split(".")
    if path[0] == "model" and len(path) > 1 and path[1] not in ("init_args", "class_path"):
        path.insert(1, "init_args")
    return path


def _copy(value: Any) -> Any:
    return (
        {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
