"""What the commands read from a checkpoint themselves: the agent's description, or its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_rl.errors import CheckpointError, ConfigError
from lightning_rl.networks.normalization import Shape, differing_shapes
from lightning_rl.storage.sealed import load_sealed

_SHOWN = 5


def stored_configuration(path: Path) -> dict[str, Any]:
    """Return `{class_path, init_args}` of the agent that a checkpoint holds.

    Raises:
        CheckpointError: If it is damaged, or not one of ours.
    """
    checkpoint = load_sealed(path)
    class_path, arguments = _class_path(checkpoint), checkpoint.get("hyper_parameters")
    if class_path is None or not isinstance(arguments, dict):
        raise CheckpointError(f"{path}: holds no agent of lightning_rl (no class path)")
    return {"class_path": class_path, "init_args": dict(arguments)}


def load_weights(agent: nn.Module, path: Path) -> None:
    """Load the weights and buffers of a checkpoint into an agent; nothing else of it.

    Raises:
        CheckpointError: If the file is damaged or holds none.
        ConfigError: If they do not fit; the first differing entries are named, the agent is
            unchanged.
    """
    checkpoint = load_sealed(path)
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path}: holds no weights")
    differences = [
        _in_words(name, *shapes)
        for name, shapes in differing_shapes(agent.state_dict(), weights).items()
    ]
    if differences:
        class_path = _class_path(checkpoint)
        whose = f" (of {class_path.rsplit('.', 1)[-1]})" if class_path else ""
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ConfigError(
            f"{path}: its weights{whose} do not fit this {type(agent).__name__}: "
            f"{'; '.join(differences[:_SHOWN])}{more}"
        )
    agent.load_state_dict(weights)


def _class_path(checkpoint: Mapping[str, Any]) -> str | None:
    entry = checkpoint.get("lightning_rl")
    class_path = entry.get("class_path") if isinstance(entry, dict) else None
    return class_path if isinstance(class_path, str) else None


def _in_words(name: str, own: Shape | None, found: Shape | None) -> str:
    if found is None:
        return f"{name} is missing"
    return f"{name} is unknown" if own is None else f"{name} is {found}, expected {own}"
