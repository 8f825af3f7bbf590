"""Checks one command-line option against what the classes accept; `checks` does documents."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from lightning_rl.cli.checks import (
    CLASS_ARGUMENTS,
    ENV,
    RUN,
    SECTIONS,
    TRAINER,
    argument_names,
    check_document,
    choices,
    resolve_algorithm,
)
from lightning_rl.cli.signatures import Signature, signature_of
from lightning_rl.cli.yaml_check import Document, KeyPath, parse_document, parse_scalar
from lightning_rl.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Option:
    """One `--key value` for the configuration.

    Attributes:
        key: As jsonargparse expects it, without dashes (`model.env.num_envs`).
        text: The value as text.
        value: The value as data, for comparisons.
        append: Written `--key+ value`.
    """

    key: str
    text: str
    value: Any
    append: bool = False

    @property
    def token(self) -> str:
        """The option as one argument."""
        return f"--{self.key}{'+' if self.append else ''}={self.text}"

    @property
    def path(self) -> KeyPath:
        """Where the value stands in a configuration file."""
        parts = tuple(self.key.split("."))
        if parts == ("model",):
            return ("model", "class_path")
        if parts[0] == "model" and parts[1] not in ("init_args", "class_path"):
            return ("model", "init_args", *parts[1:])
        return parts


def check_option(
    key: str, text: str, algorithm: str | None, own_options: Iterable[str] = ()
) -> Option:
    """Check one option and write its short form out.

    Args:
        key: Without the leading dashes; a trailing `+` appends.
        text: Its value.
        algorithm: Full class path of the algorithm, if known.
        own_options: Names of the command's other options, for suggestions.

    Raises:
        ConfigError: For an unknown name or a value of the wrong type.
    """
    append = key.endswith("+")
    key = key.removesuffix("+")
    parts = key.split(".")
    if parts[0] not in SECTIONS or (len(parts) == 1 and parts[0] in ("run", "trainer")):
        _unknown_option(key, algorithm, own_options)
    if parts == ["model"] or parts == ["model", "class_path"]:
        path = resolve_algorithm(text)
        return Option("model", path, path)
    if parts == ["seed_everything"]:
        seed = parse_scalar(text)
        if not isinstance(seed, bool | int):
            raise ConfigError(f"--seed_everything: expected an integer or true, got {text!r}")
        return Option(key, text, seed)
    return _check_argument_option(parts, text, algorithm, append)


def _check_argument_option(
    parts: list[str], text: str, algorithm: str | None, append: bool
) -> Option:
    section, *rest = parts
    if section == "model" and rest[0] == "init_args" and len(rest) > 1:
        rest = rest[1:]
    class_path = {"run": RUN, "trainer": TRAINER}.get(section, algorithm)
    if section == "model" and rest[0] == "env":
        class_path, section, rest = ENV, "model.env", rest[1:]
        if not rest and text.startswith("{"):
            return _structured_option(section, text, algorithm, append)
        rest = rest or ["id"]
    key = ".".join([section, *rest])
    signature = signature_of(class_path) if class_path else None
    if signature is None:
        return Option(key, text, _value(text), append)
    names = argument_names(signature)
    if rest[0] not in names and signature.complete:
        near = did_you_mean(rest[0], names).replace("'", f"'--{section}.", 1)
        raise ConfigError(f"unknown option --{section}.{rest[0]}{near or choices(names)}")
    if len(rest) > 1 or rest[0] not in names:
        return Option(key, text, _value(text), append)
    names_module = key == "model.env.id" and ":" in text
    if names_module or rest[0] in CLASS_ARGUMENTS or text[:1] in ("[", "{"):
        return _structured_option(key, text, algorithm, append)
    return Option(key, text, _value(text), append) if append else _typed(key, text, signature)


def _structured_option(key: str, text: str, algorithm: str | None, append: bool) -> Option:
    """Check a value that may name classes, as the same value in a file would be."""
    option = Option(key, text, _value(text), append)
    content: Any = option.value
    for part in reversed(option.path):
        content = {part: content}
    if algorithm and key.startswith("model."):
        content["model"]["class_path"] = algorithm
    document = Document(f"--{key}", content)
    try:
        check_document(document)
    except ConfigError as error:
        # The option says already where it stands.
        message = str(error).removeprefix(f"--{key}: ").removeprefix(f"{'.'.join(option.path)}: ")
        raise ConfigError(f"--{key}: {message}") from None
    checked: Any = document.data
    for part in option.path:
        checked = checked[part]
    return option if checked == option.value else Option(key, json.dumps(checked), checked, append)


def _typed(key: str, text: str, signature: Signature) -> Option:
    parameter = signature.parameters[key.rsplit(".", 1)[-1]]
    for candidate in (_value(text), text):
        accepted, value = parameter.accept(candidate)
        if accepted:
            # 1e6 for an integer: jsonargparse would see a float.
            return Option(key, str(value) if type(value) is not type(candidate) else text, value)
    raise ConfigError(f"--{key}: expected {parameter.expected}, got {text!r}")


def _unknown_option(key: str, algorithm: str | None, own_options: Iterable[str]) -> NoReturn:
    """Suggest an own option, a section, or the full name of an argument without its section."""
    full = {
        f"{s}.{n}": n
        for s, c in (("model", algorithm), ("run", RUN), ("trainer", TRAINER))
        for n in _names(c)
    }
    full.update({f"model.env.{n}": n for n in _names(ENV)})
    exact = [name for name, last in full.items() if last == key.rsplit(".", 1)[-1]]
    if exact:
        raise ConfigError(f"unknown option --{key}; did you mean '--{exact[0]}'?")
    head, _, rest = key.partition(".")
    if rest:
        hint = did_you_mean(head, SECTIONS).replace("'?", f".{rest}'?").replace(" '", " '--")
    else:
        hint = did_you_mean(key, [*own_options, "seed_everything", "model"]).replace(" '", " '--")
        by_last = {n: f for f, n in reversed(full.items())}
        near = did_you_mean(key, by_last)
        if not hint and near:
            hint = f"; did you mean '--{by_last[near.split(chr(39))[1]]}'?"
    raise ConfigError(f"unknown option --{key}{hint}")


def _names(class_path: str | None) -> list[str]:
    return argument_names(signature_of(class_path) if class_path else None)


def _value(text: str) -> Any:
    """Read an option's text as data; lists and mappings may be given in YAML's flow form."""
    if text[:1] not in ("[", "{"):
        return parse_scalar(text)
    try:
        return parse_document(f"value: {text}", "option").data["value"]
    except ConfigError as error:
        raise ConfigError(f"{text!r} is not a list or mapping in YAML's form ({error})") from None
