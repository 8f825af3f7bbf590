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
_NOISE = re.compile(r"^(Does not validate|Problem with|Got value|Subtypes|Original error)", re.I)
_MAX = 300


def one_line(message: str) -> str:
    """Return the key, the cause and, for an unknown name, the nearest valid one."""
    text = message.strip()
    keys = _KEY.findall(text)
    key = max(keys, key=len) if keys else ""
    unknown = _UNKNOWN.search(text)
    if unknown:
        return _unknown_name(key, next(group for group in unknown.groups() if group), text)
    cause = _cause(text)
    line = cause if not key or key in cause else f"{key}: {cause}"
    return line if len(line) <= _MAX else f"{line[: _MAX - 3]}..."


def _unknown_name(key: str, name: str, text: str) -> str:
    if name.startswith("--"):
        return f"unknown option {name}"
    classes = _CLASS.findall(text)
    signature = signature_of(classes[-1]) if classes else None
    last = name.rsplit(".", 1)[-1]
    owner = f" of {classes[-1].rsplit('.', 1)[-1]}" if classes else ""
    full = name if not key or name.startswith(key) else f"{key}.{name}"
    return f"{full}: unknown key{owner}{did_you_mean(last, argument_names(signature))}"


def _cause(text: str) -> str:
    """Return the most specific line: the deepest one that says what was expected."""
    lines = [line.strip(" -\t") for line in text.splitlines() if line.strip(" -\t")]
    telling = [line for line in lines if "xpected" in line or "not allowed" in line]
    chosen = telling[-1] if telling else lines[-1] if lines else "the configuration is not valid"
    chosen = re.sub(r"^Parser key [\"'][\w.]+[\"']:\s*", "", chosen)
    if chosen.endswith(":") and lines and lines[-1] is not chosen:
        chosen = f"{chosen} {lines[-1]}"
    return " ".join(chosen.split())
