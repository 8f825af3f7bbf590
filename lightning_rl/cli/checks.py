"""Holds a document or an option against what the classes accept, before anything heavy is imported.

Every mistake becomes one line that says where it stands, what was expected, what was found and the
nearest valid name. On the way short forms are written out: `model: ppo`, `env: CartPole-v1`,
`class_path: EarlyStopping`, `1e6` for an integer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NoReturn

from lightning_rl.cli.signatures import (
    Signature,
    bases_of,
    class_exists,
    module_exists,
    public_classes,
    signature_of,
)
from lightning_rl.cli.yaml_check import Document, KeyPath
from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.trust import check_trusted

SECTIONS = ("run", "seed_everything", "model", "trainer")
TRAINER = "lightning_rl.runs.trainer.Trainer"
RUN = "lightning_rl.runs.directory.RunConfig"
ENV = "lightning_rl.envs.config.EnvConfig"
# Filled in by the command line itself.
_HIDDEN = {TRAINER: ("run",), ENV: ("factory",)}
_SHORT_NAMES = {
    "callbacks": ("lightning_rl.callbacks", "lightning.pytorch.callbacks"),
    "logger": ("lightning_rl.loggers", "lightning.pytorch.loggers"),
    "actor": ("lightning_rl.networks",),
    "critic": ("lightning_rl.networks",),
    "replay": ("lightning_rl.buffers",),
}
CLASS_ARGUMENTS = ("callbacks", "logger", "actor", "critic", "replay", "wrappers", "imports")
"""Arguments whose values name classes or modules."""
_FREE = ("kwargs", "eval_kwargs", "dict_kwargs")
_MODEL_ARGS = ("model", "init_args")


@lru_cache(maxsize=1)
def algorithms() -> dict[str, str]:
    """Return name → full class path of every algorithm."""
    classes = public_classes("lightning_rl.algorithms")
    return {name: path for name, path in classes.items() if "Algorithm" in bases_of(path)}


def resolve_algorithm(name: Any) -> str:
    """Return the full class path of an algorithm by name, in any case, `a_b` for `AB`, or by path.

    Raises:
        ConfigError: If there is no such algorithm (the nearest is named), or its package is not
            trusted.
    """
    if not isinstance(name, str):
        raise ConfigError(f"expected the name of an algorithm, got {_show(name)}")
    by_name = {key.lower(): path for key, path in algorithms().items()}
    short = name.rsplit(".", 1)[-1].lower().replace("_", "")
    if short in by_name and (name.startswith("lightning_rl.") or "." not in name):
        return by_name[short]
    if "." not in name or name.startswith("lightning_rl."):
        known = list(algorithms())
        hint = (
            did_you_mean(name.rsplit(".", 1)[-1], known) or f"; expected one of {', '.join(known)}"
        )
        raise ConfigError(f"unknown algorithm {name!r}{hint}")
    check_class_path(name)
    return name


def check_class_path(path: Any) -> None:
    """Hold a class path against the allow-list and, where it can be read, its module's source.

    Raises:
        ConfigError: If it is no path, not trusted, or certainly does not exist.
    """
    if not isinstance(path, str):
        raise ConfigError(f"expected the path of a class, got {_show(path)}")
    check_trusted(path)
    module, _, name = path.rpartition(".")
    # Reading a package as large as torch.nn would take longer than this check may.
    if not module.startswith("lightning") or class_exists(path) or not module_exists(module):
        return
    hint = did_you_mean(name, public_classes(module))
    if hint:
        raise ConfigError(f"{module} has no class {name!r}{hint}")


def check_document(document: Document, command_options: Iterable[str] = ()) -> None:
    """Check a whole configuration and write its short forms out, in place.

    Args:
        document: What a file or a checkpoint says.
        command_options: Further keys at the top, which belong to the command.

    Raises:
        ConfigError: For the first mistake, with file, line and key.
    """
    allowed = (*SECTIONS, *command_options)
    for key in document.data:
        if key not in allowed:
            _unknown(document, (key,), key, allowed, "the top level")
    data = document.data
    seed = data.get("seed_everything", True)
    if not isinstance(seed, bool | int):
        raise document.error(
            ("seed_everything",), f"expected an integer or true, got {_show(seed)}"
        )
    if "run" in data:
        _check_section(document, ("run",), RUN)
    if "trainer" in data:
        _check_section(document, ("trainer",), TRAINER)
    if "model" in data:
        _check_model(document)


def model_class(documents: Iterable[Document]) -> str | None:
    """Return the algorithm that the last of the checked documents names."""
    paths = [
        d.data["model"].get("class_path")
        for d in documents
        if isinstance(d.data.get("model"), dict)
    ]
    return next((path for path in reversed(paths) if path), None)


def argument_names(signature: Signature | None) -> list[str]:
    """Return the arguments that a user may give; the command line fills in the others itself."""
    hidden = _HIDDEN.get(signature.path, ()) if signature else ()
    return [name for name in signature.parameters if name not in hidden] if signature else []


def _check_section(document: Document, path: KeyPath, class_path: str) -> None:
    section = _mapping(document, path, _at(document, path))
    signature = signature_of(class_path)
    if signature:
        _check_arguments(document, path, section, signature)


def _check_model(document: Document) -> None:
    model = document.data["model"]
    if isinstance(model, str):
        model = document.data["model"] = {"class_path": model}
    _mapping(document, ("model",), model)
    class_path = None
    if "class_path" in model:
        try:
            class_path = model["class_path"] = resolve_algorithm(model["class_path"])
        except ConfigError as error:
            raise document.error(("model", "class_path"), str(error)) from None
    for key in model:
        if key not in ("class_path", "init_args"):
            hint = "; hyperparameters belong under model.init_args"
            raise document.error(
                ("model", key),
                f"unknown key {key!r}{did_you_mean(key, ['class_path', 'init_args']) or hint}",
            )
    if model.get("init_args") is None:
        model.pop("init_args", None)
        return
    init_args = _mapping(document, _MODEL_ARGS, model["init_args"])
    signature = signature_of(class_path) if class_path else None
    if signature:
        _check_arguments(document, _MODEL_ARGS, init_args, signature)
    if "env" in init_args:
        _check_env(document, init_args)


def _check_arguments(
    document: Document, path: KeyPath, mapping: dict[str, Any], signature: Signature
) -> None:
    """Check names and types of one object's arguments, and what is nested in them."""
    names = argument_names(signature)
    for key, value in mapping.items():
        if key == "factory" and signature.path == ENV and value is not None:
            raise document.error(
                (*path, key), "is for Python only; give 'id' (a registered environment)"
            )
        if key in signature.parameters and key not in names and value is None:
            continue
        if key not in names:
            if signature.complete:
                _unknown(document, (*path, key), key, names, signature.path.rsplit(".", 1)[-1])
            continue
        value = _check_nested(document, (*path, key), value)
        accepted, mapping[key] = signature.parameters[key].accept(value)
        if not accepted and key != "env":
            expected = signature.parameters[key].expected
            raise document.error((*path, key), f"expected {expected}, got {_show(value)}")


def _check_nested(document: Document, path: KeyPath, value: Any) -> Any:
    """Check classes named inside a value; free dictionaries are data and may hold anything."""
    if path[-1] in _FREE:
        return value
    if isinstance(value, list):
        return [_check_nested(document, (*path, str(i)), item) for i, item in enumerate(value)]
    if isinstance(value, dict) and "class_path" in value:
        return _check_object(document, path, value)
    kind = _kind(path)
    if kind in _SHORT_NAMES and isinstance(value, str):
        spec = _check_object(document, path, {"class_path": value})
        return spec if kind in ("callbacks", "logger") else spec["class_path"]
    return value


def _kind(path: KeyPath) -> str:
    """Return the argument that a value, perhaps in a list, belongs to."""
    return next((part for part in reversed(path) if not part.isdigit()), "")


def _check_object(document: Document, path: KeyPath, spec: dict[str, Any]) -> dict[str, Any]:
    """Check `{class_path, init_args}`."""
    for key in spec:
        if key not in ("class_path", "init_args", "dict_kwargs"):
            _unknown(document, (*path, key), key, ("class_path", "init_args"), "an object")
    kind = _kind(path)
    where = (*path, "class_path") if (*path, "class_path") in document.lines else path
    try:
        spec["class_path"] = full_class_path(spec["class_path"], kind)
        check_class_path(spec["class_path"])
    except ConfigError as error:
        raise document.error(where, str(error)) from None
    init_args = spec.get("init_args")
    signature = signature_of(spec["class_path"])
    if init_args is not None and signature:
        inner = (*path, "init_args")
        _check_arguments(document, inner, _mapping(document, inner, init_args), signature)
    return spec


def full_class_path(name: Any, kind: str) -> Any:
    """Write out a class given by its bare name, where its place says which package it is from."""
    packages = _SHORT_NAMES.get(kind, ())
    if not isinstance(name, str) or "." in name or not packages:
        return name
    known: dict[str, str] = {}
    for package in reversed(packages):
        known.update(public_classes(package))
    if name not in known:
        raise ConfigError(f"unknown class {name!r}{did_you_mean(name, known)}")
    return known[name]


def _check_env(document: Document, init_args: dict[str, Any]) -> None:
    """Check the environment's description and write a bare id out.

    As a text it would be lost under further keys of `env`, and the default environment trained.
    """
    path = (*_MODEL_ARGS, "env")
    if isinstance(init_args["env"], str):
        init_args["env"] = {"id": init_args["env"]}
        document.lines.setdefault((*path, "id"), document.lines.get(path, 1))
    env = _mapping(document, path, init_args["env"])
    signature = signature_of(ENV)
    if signature:
        _check_arguments(document, path, env, signature)
    for key in ("id", "imports", "wrappers"):
        try:
            for path_of_class in _named_in(key, env.get(key)):
                check_trusted(path_of_class)
        except ConfigError as error:
            raise document.error((*path, key), str(error)) from None


def _named_in(key: str, value: Any) -> Iterator[Any]:
    """Yield the import paths in an environment's `id`, `imports` or `wrappers`."""
    if key == "id":
        yield from value.split(":")[:-1] if isinstance(value, str) else ()
        return
    for item in value if isinstance(value, list) else ():
        yield item.get("class_path") if isinstance(item, dict) else item


def check_env_registered(identifier: str) -> None:
    """Refuse an environment id that is not registered.

    Raises:
        ConfigError: With the three nearest ids.
    """
    import gymnasium  # a quarter of a second, and only where an id is given

    if ":" in identifier or identifier in gymnasium.registry:
        return
    from lightning_rl.envs.config import EnvConfig

    EnvConfig(id=identifier).spec()


def _at(document: Document, path: KeyPath) -> Any:
    value: Any = document.data
    for key in path:
        value = value[key]
    return value


def _mapping(document: Document, path: KeyPath, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise document.error(
            path, f"expected a mapping (indented 'key: value' lines), got {_show(value)}"
        )
    return value


def _unknown(
    document: Document, path: KeyPath, key: str, known: Iterable[str], owner: str
) -> NoReturn:
    names = list(known)
    own = "; the environment's own arguments belong under kwargs" if "kwargs" in names else ""
    hint = did_you_mean(key, names) or choices(names) + own
    raise document.error(path, f"unknown key {key!r} of {owner}{hint}")


def choices(names: list[str], limit: int = 12) -> str:
    """Return `; expected one of ...` with the first names."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"; expected one of {', '.join(names[:limit])}{more}"


def _show(value: Any) -> str:
    """Show a value and its type, shortened to fit a line."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return f"{text[:57]}..." if len(text) > 60 else text
