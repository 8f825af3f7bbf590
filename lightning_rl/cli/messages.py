"""Cuts jsonargparse's pages down to the one line that tells the user what to change."""

from __future__ import annotations

import re

from lightning_rl.cli.checks import argument_names
from lightning_rl.cli.signatures import signature_of
from lightning_rl.errors import did_you_mean

_KEY = re.compile(r"(?:Parser key|Key|key) [\"']([\w.+-]+)[\"']")
_CLASS = re.compile(r"class_path ['\"]?([\w.]+)")
_UNKNOWN = re.compile(
    r"(?:Option|Group|Key) '([\w.]+)' is not accepted|Unrecognized arguments: (.+)|"
    r"Unexpected (?:key|parameter)s?:? ['\"]?([\w.]+)"
)
_TELLING = re.compile(r"required|not accepted|not allowed|no attribute|No module|must |expects a f")
_MAX = 300


def one_line(message: str) -> str:
    """Return the key, the cause and, for an unknown name, the nearest valid one."""
    text = message.strip()
    key = ""
    for part in _KEY.findall(text):
        # Inner parsers name keys from where they start.
        key = part if not key or part.startswith(key) else f"{key}.{part}"
    unknown = _UNKNOWN.search(text)
    if unknown:
        return _unknown_name(key, next(group for group in unknown.groups() if group), text)
    cause = _cause(text)
    line = cause if not key or key in cause else f"{key}: {cause}"
    return line if len(line) <= _MAX else f"{line[: _MAX - 3]}..."


def _unknown_name(key: str, name: str, text: str) -> str:
    if name.startswith("--"):
        return f"unknown option {name}"
    # The class whose problem it is stands above it; others may have been tried below.
    classes = _CLASS.findall(text[: text.index(name)]) or _CLASS.findall(text)
    signature = signature_of(classes[-1]) if classes else None
    last = name.rsplit(".", 1)[-1]
    owner = f" of {classes[-1].rsplit('.', 1)[-1]}" if classes else ""
    full = name if not key or name.startswith(key) else f"{key}.{name}"
    return f"{full}: unknown key{owner}{did_you_mean(last, argument_names(signature))}"


def _cause(text: str) -> str:
    """Return the most telling line: what is wrong with a named class, else what was expected."""
    lines = [line.strip(" -\t") for line in text.splitlines()]
    lines = [line for line in lines if line and "NoneType" not in line]
    telling = [line for line in lines if _TELLING.search(line)]
    expected = [line for line in lines if "xpected" in line]
    chosen = next(iter([*telling, *expected, *lines[-1:]]), "the configuration is not valid")
    return " ".join(re.sub(r"^Parser key [\"'][\w.]+[\"']:\s*", "", chosen).split())
