"""What `lightning-rl list` shows."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from lightning_rl.cli.checks import algorithms
from lightning_rl.cli.configs import shipped_configs
from lightning_rl.cli.signatures import docstring_of
from lightning_rl.errors import ConfigError, did_you_mean

_TAG = re.compile(r"\b(?:train|rollout|episode|eval|reward|reward_share|env|time|system)/[\w<>*]+")


def listing(topic: str) -> str:
    """Return the text for one topic.

    Raises:
        ConfigError: If there is no such topic.
    """
    if topic not in TOPICS:
        known = did_you_mean(topic, TOPICS) or f"; expected one of {', '.join(TOPICS)}"
        raise ConfigError(f"list: unknown topic {topic!r}{known}")
    return "\n".join(TOPICS[topic]())


def _algorithms() -> list[str]:
    return [f"{name:<12}{docstring_of(path)}" for name, path in sorted(algorithms().items())]


def _environments() -> list[str]:
    import gymnasium

    return sorted(gymnasium.registry)


def _tags() -> list[str]:
    """Return every metric tag with the classes whose docstrings define it."""
    owners: dict[str, list[str]] = {}
    package = Path(__file__).resolve().parents[1]
    for folder in ("algorithms", "callbacks", "experience"):
        for file in sorted((package / folder).glob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if not isinstance(node, ast.ClassDef):
                    continue
                for tag in _TAG.findall(ast.get_docstring(node) or ""):
                    found = owners.setdefault(tag, [])
                    if node.name not in found:
                        found.append(node.name)
    return [f"{tag:<32}{', '.join(names)}" for tag, names in sorted(owners.items())]


TOPICS: dict[str, Callable[[], list[str]]] = {
    "algorithms": _algorithms,
    "configs": shipped_configs,
    "tags": _tags,
    "environments": _environments,
}
