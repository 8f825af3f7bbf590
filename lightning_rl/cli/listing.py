"""What `lightning-rl list` shows."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
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
    return [f"{name:<16}{docstring_of(path)}" for name, path in sorted(algorithms().items())]


def _environments() -> list[str]:
    import gymnasium

    return sorted(gymnasium.registry)


def _tags() -> list[str]:
    """Return every metric tag with the class that defines it, in its docstring or by its name."""
    owners: dict[str, list[str]] = {}
    package = Path(__file__).resolve().parents[1]
    for folder in ("algorithms", "callbacks", "experience"):
        for file in sorted((package / folder).glob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for name, tag in _tags_in(tree):
                found = owners.setdefault(tag, [])
                if name not in found:
                    found.append(name)
    return [f"{tag:<32}{', '.join(names)}" for tag, names in sorted(owners.items())]


def _tags_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (class, tag): from docstrings, and from the texts of a module with one algorithm."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in classes:
        for tag in _TAG.findall(ast.get_docstring(node) or ""):
            yield node.name, tag
    logging = [node.name for node in classes if node.name.isupper()]
    for part in ast.walk(tree) if logging else ():
        text = part.value if isinstance(part, ast.Constant) else None
        if isinstance(text, str) and _TAG.fullmatch(text):
            yield logging[0], text


TOPICS: dict[str, Callable[[], list[str]]] = {
    "algorithms": _algorithms,
    "configs": shipped_configs,
    "tags": _tags,
    "environments": _environments,
}
