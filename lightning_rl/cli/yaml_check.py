"""Reads a YAML file into plain data, remembering the line of every key.

PyYAML keeps the last of two equal keys in silence, follows alias bombs, overflows the stack on deep
nesting and reads `1e-3` as text and `12:00:00` as 43200. Here the *nodes* are looked at first, so
that each of these is either refused with its line or read as the user meant it. Nothing in a file
can name a Python object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_rl.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 100
MAX_NODES = 10_000  # counted after aliases are followed

KeyPath = tuple[str, ...]
_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_HEX = re.compile(r"[-+]?0x[0-9a-fA-F][0-9a-fA-F_]*")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_INFINITE = {
    ".inf": float("inf"),
    "+.inf": float("inf"),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}
_KINDS: dict[type, str] = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
_SCALAR_TAGS = ("!!null", "!!bool", "!!int", "!!float", "!!str", "!!timestamp")
_NONE_OF_PYTHON = ("none", "None")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "none"), None),
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


@dataclass
class Document:
    """One source of settings: plain data, and where each key of it was written.

    Attributes:
        origin: File name as the user gave it, for messages.
        data: Nested dictionaries, lists and scalars.
        lines: Key path to line number, from 1. List items are named by their index.
    """

    origin: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def error(self, path: KeyPath, message: str) -> ConfigError:
        """Return the error for one key: `file:line: key.path: message`."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = f":{self.lines[known]}" if known in self.lines else ""
        key = f" {'.'.join(path)}:" if path else ""
        return ConfigError(f"{self.origin}{line}:{key} {message}")


def read_document(file: Path, origin: str | None = None) -> Document:
    """Read one YAML file.

    Args:
        file: The file.
        origin: What to call it in messages; its path by default.

    Raises:
        ConfigError: If it is missing, too large, not UTF-8, malformed, nested too deeply, has a
            duplicate key, or is not a mapping; with file and line.
    """
    origin = origin or str(file)
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(
                f"{origin}: {size:,} bytes is no configuration; at most {MAX_BYTES:,} are read"
            )
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin}: not a text file in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{origin}: cannot be read: {error.strerror}") from None
    return parse_document(text, origin)


def parse_document(text: str, origin: str) -> Document:
    """Read YAML text; see `read_document`."""
    document = Document(origin, {})
    try:
        _check_size(text, origin)
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_message(error, text, origin)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None
    if len(nodes) > 1:
        raise ConfigError(
            f"{origin}:{nodes[1].start_mark.line + 1}: expected one YAML document, got {len(nodes)}"
        )
    if not nodes or not isinstance(nodes[0], yaml.MappingNode):
        found = _KINDS.get(type(nodes[0]), "nothing") if nodes else "nothing"
        raise ConfigError(f"{origin}:1: expected keys such as 'model:' and 'trainer:', got {found}")
    document.data = _Converter(document).convert(nodes[0], (), 0)
    return document


def parse_scalar(text: str) -> Any:
    """Read one plain scalar: None, bool, int, float or the text itself."""
    lowered = text.lower()
    if lowered in _WORDS:
        return _WORDS[lowered]
    if lowered in _INFINITE:
        return _INFINITE[lowered]
    if len(text) <= 300 and (_INT.fullmatch(text) or _HEX.fullmatch(text)):
        return int(text.replace("_", ""), 16 if "x" in lowered else 10)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def _check_size(text: str, origin: str) -> None:
    """Refuse depth and mass in the stream of events, before the recursive composer meets them."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if number > 2 * MAX_NODES:
            raise ConfigError(f"{origin}: more than {MAX_NODES:,} values are no configuration")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigError(f"{origin}:{line}: nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax_message(error: yaml.MarkedYAMLError, text: str, origin: str) -> str:
    mark = error.problem_mark or error.context_mark
    number = mark.line if mark else 0
    problem = error.problem or error.context or "malformed"
    lines = text.splitlines()
    # The parser often notices a tab only on a later line.
    for candidate in range(min(number, len(lines) - 1), -1, -1)[:3]:
        indentation = lines[candidate][: len(lines[candidate]) - len(lines[candidate].lstrip())]
        if "\t" in indentation:
            return f"{origin}:{candidate + 1}: YAML is indented by spaces, found a tab"
    hint = ""
    if "mapping values are not allowed" in problem:
        hint = " (is the line indented right, and is a text that contains ': ' quoted?)"
    return f"{origin}:{number + 1}: not valid YAML: {problem}{hint}"


class _Converter:
    """Turns nodes into data and notes the lines of keys."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def convert(self, node: yaml.Node, path: KeyPath, depth: int) -> Any:
        """Convert one node; an alias is the same node again, so depth and count are checked."""
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            raise self.document.error(
                path[:2], "aliases (*name) expand to more than a configuration can hold"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, path, "!!seq")
            return [self._item(item, (*path, str(i)), depth) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode):
            raise self.document.error(path, "not understood")
        return self._scalar(node, path)

    def _item(self, node: yaml.Node, path: KeyPath, depth: int) -> Any:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        return self.convert(node, path, depth + 1)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        self._check_tag(node, path, "!!map")
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged.update(self._merge(value_node, path, depth))
                continue
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not self._is_text(key_node):
                shown = key if isinstance(key, str) else "a list or mapping"
                raise ConfigError(
                    f"{self.document.origin}:{line}: a key must be a text, got {shown}; quote it"
                )
            key_path = (*path, key)
            if key in own:
                raise ConfigError(
                    f"{self.document.origin}:{line}: {'.'.join(key_path)}: duplicate key, "
                    f"already given in line {first[key]}"
                )
            first[key] = line
            self.document.lines[key_path] = line
            own[key] = self.convert(value_node, key_path, depth + 1)
        return {**merged, **own}

    def _merge(self, node: yaml.Node, path: KeyPath, depth: int) -> dict[str, Any]:
        """Return what `<<: *name` lays under the mapping."""
        value = self.convert(node, path, depth + 1)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self.document.error(path, "'<<' expects a mapping or a list of mappings")
        return {key: item for part in reversed(parts) for key, item in part.items()}

    def _is_text(self, node: yaml.ScalarNode) -> bool:
        # `on:` and `no:` are texts as keys; a number or a null is not.
        return not _is_plain(node) or isinstance(parse_scalar(node.value), str | bool)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        self._check_tag(node, path, *_SCALAR_TAGS)
        if not _is_plain(node):
            return node.value
        value = parse_scalar(node.value)
        # PyYAML takes 1e-3 and None for texts, the user does not; tRue and `!!str 5` are some.
        is_text = node.tag == "tag:yaml.org,2002:str" and not (
            (isinstance(value, float) and "e" in node.value.lower())
            or node.value in _NONE_OF_PYTHON
        )
        return node.value if is_text else value

    def _check_tag(self, node: yaml.Node, path: KeyPath, *expected: str) -> None:
        short = node.tag.replace("tag:yaml.org,2002:", "!!")
        if short not in expected:
            raise self.document.error(path, f"the tag {short} is not allowed")


def _is_plain(node: yaml.ScalarNode) -> bool:
    return not node.style  # libyaml says "", PyYAML None
