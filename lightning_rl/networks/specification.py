"""Networks named in a configuration: import path and arguments instead of an object."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import nn

from lightning_rl.errors import ConfigError
from lightning_rl.trust import build

NetworkSpec: TypeAlias = dict[str, Any] | str | Callable | None
"""`{class_path, init_args}`, an import path, or from Python a class or factory called with (input
size, output size); None for the algorithm's default."""


def network_factory(spec: NetworkSpec) -> Callable[[int, int], nn.Module] | None:
    """Return the function from (input size, output size) to the network, or None for the default.

    Raises:
        ConfigError: When the specification is none of these, or its class is not on the allow-list.
    """
    if spec is None:
        return None
    if isinstance(spec, str):
        spec = {"class_path": spec}
    if isinstance(spec, dict):
        return partial(build, spec, base=nn.Module)
    if not callable(spec) or isinstance(spec, nn.Module):
        raise ConfigError(
            "expected a network class or {class_path, init_args}, received "
            f"{type(spec).__name__}; pass the class, which is what a checkpoint can store"
        )
    return spec
