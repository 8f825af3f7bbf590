"""Which import paths a value may name, and how constructor arguments become plain values.

Everything that a YAML file, an option, an environment id (`package:Id`) or a checkpoint can name is
held against one allow-list *before* anything is imported. A package outside it needs the user's
consent, by `--trust PACKAGE` or `lightning_rl.trust.trust("package")`; a configuration file cannot
give that consent itself.

`encode` turns constructor arguments into primitives, so that checkpoints hold no code and load with
`weights_only=True`; `decode` and `build` turn them back into objects, through the allow-list.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from lightning_rl.errors import ConfigError, did_you_mean

# The most specific entry decides, so a denied part of an allowed package stands beside it.
_ALLOWED = (
    "lightning_rl",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
    "gymnasium",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.plugins",
    "lightning.pytorch.accelerators",
    # Where lightning.pytorch's plugins and cluster environments are really defined.
    "lightning.fabric.plugins",
)
_DENIED = (
    # A value that names these could widen the allow-list or start another command.
    "lightning_rl.trust",
    "lightning_rl.cli",
    "lightning_rl.__main__",
    # They import the module in front of the colon of an id.
    "gymnasium.make",
    "gymnasium.make_vec",
    "gymnasium.spec",
    "gymnasium.register",
    "gymnasium.register_envs",
    "gymnasium.envs.registration",
    # They write to whatever folder their arguments name.
    "gymnasium.wrappers.RecordVideo",
    "gymnasium.wrappers.rendering.RecordVideo",
    "gymnasium.wrappers.vector.RecordVideo",
    "gymnasium.wrappers.vector.rendering.RecordVideo",
    "gymnasium.utils.save_video",
)
_INSTEAD = {
    "RecordVideo": "; film with the callback VideoRecorder or `lightning-rl record`",
}
_MAX_DEPTH = 100
_trusted: list[str] = []


def trust(package: str) -> None:
    """Allow values to name anything in `package`, and make the current directory importable.

    Args:
        package: Dotted name of a package, module or object.

    Raises:
        ConfigError: If `package` is not a dotted name, or is one that may never be named by a
            value.
    """
    if not _is_dotted_name(package):
        raise ConfigError(f"--trust expects the dotted name of a package, got {package!r}")
    if package.split(".")[0] == "jsonargparse" or package in _DENIED:
        raise ConfigError(
            f"--trust {package}: it decides what may be imported and cannot be trusted itself"
        )
    if package not in _trusted:
        _trusted.append(package)
    # At the end, so that a file in the current directory cannot stand in for an installed or
    # standard module.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


def trusted_packages() -> list[str]:
    """Return the packages that the user has trusted in this process, for the record."""
    return list(_trusted)


def is_trusted(path: str) -> bool:
    """Tell whether a value may name `path`: a dotted module, class or function. Imports nothing."""
    if not _is_dotted_name(path):
        return False
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        entry = ".".join(parts[:length])
        if entry in _DENIED:
            return False
        if entry in _ALLOWED or entry in _trusted:
            return True
    return False


def check_trusted(path: str) -> None:
    """Refuse a path outside the allow-list, before anything is imported.

    Raises:
        ConfigError: If `path` is malformed or not trusted; the message names the way out.
    """
    if not _is_dotted_name(path):
        raise ConfigError(f"expected an import path such as 'package.module.Name', got {path!r}")
    if not is_trusted(path):
        package = path.split(".")[0]
        # Consent to the package would not help where one of its parts is denied.
        remedy = "" if package in _ALLOWED else f"; if you trust that code, add --trust {package}"
        remedy = _INSTEAD.get(path.rpartition(".")[2], remedy)
        raise ConfigError(f"{path!r} is not on the allow-list and was not imported{remedy}")


def import_object(path: str) -> Any:
    """Import the module, class or function that `path` names, if the allow-list has it.

    Raises:
        ConfigError: If the path is not trusted (nothing is imported then), if it does not exist, or
            if it only re-exports something that is defined outside the allow-list
            (`lightning_rl.errors.signal`).
    """
    check_trusted(path)
    parts = path.split(".")
    module, rest = _import_longest_module(parts)
    result: Any = module
    for name in rest:
        try:
            result = getattr(result, name)
        except AttributeError:
            hint = did_you_mean(name, [key for key in vars(result) if not key.startswith("_")])
            raise ConfigError(
                f"{path!r} does not exist: {_path_of(result)} has no {name!r}{hint}"
            ) from None
    # An object without a path of its own, such as an instance, is judged by its class.
    origin = (
        result
        if inspect.isclass(result) or inspect.isroutine(result) or inspect.ismodule(result)
        else type(result)
    )
    if not is_trusted(_path_of(origin)):
        raise ConfigError(f"{path!r} is {_path_of(origin)!r}, which is not on the allow-list")
    return result


def apply_parsing_settings() -> None:
    """Give the allow-list to jsonargparse, which then checks every path before it imports.

    Call it after the user's consent (`trust`) and before a parser is used; calling it again only
    adds.
    """
    from jsonargparse import set_parsing_settings

    set_parsing_settings(
        import_path_denylist=["*", *_DENIED],
        import_path_allowlist=[*_ALLOWED, *_trusted],
        # Otherwise a class named inside a free dictionary (`env.kwargs`) would be imported and
        # built.
        instantiate_subclass_spec_in_any=False,
    )


def encode(value: Any, name: str) -> Any:
    """Turn a constructor argument into primitives: scalars, lists and dictionaries of them.

    A class becomes `{class_path}`, an object that carries its constructor arguments in `init_args`
    becomes `{class_path, init_args}`, an object with `to_dict()` (`EnvConfig`) its dictionary, and
    an environment given as a class or function `{factory: name}`, which is information only: it
    cannot be built from it.

    Args:
        value: The argument.
        name: Its name, for the error; nested entries are named `name.key`.

    Raises:
        ConfigError: If the value has no such form.
    """
    return _encode(value, name, 0)


def encode_factory(factory: Any) -> dict[str, str]:
    """Return `{factory: qualified name}` for an environment class or function."""
    return {"factory": _path_of(factory if hasattr(factory, "__qualname__") else type(factory))}


def decode(value: Any) -> Any:
    """Turn `encode`'s result back into objects; every class is looked up through the allow-list.

    `{class_path}` gives the class, `{class_path, init_args}` an object of it, `{factory}` stays as
    it is.

    Raises:
        ConfigError: If a class is not trusted or does not exist, or the value is nested too deeply.
    """
    return _decode(value, 0)


def build(spec: Mapping[str, Any], *args: Any, base: type = object) -> Any:
    """Build an object from `{class_path, init_args}`.

    Args:
        spec: Mapping with the entries `class_path` and, optionally, `init_args`.
        *args: Positional arguments in front of `init_args`, such as spaces.
        base: Class that the object's class must derive from.

    Raises:
        ConfigError: If the class is not trusted, does not exist, is not a `base`, or does not
            accept the arguments.
    """
    path = spec["class_path"]
    if not isinstance(path, str):
        raise ConfigError(f"class_path must be a string, got {path!r}")
    cls = import_object(path)
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise ConfigError(f"class_path {path!r} must name a subclass of {base.__name__}")
    init_args = decode(spec.get("init_args") or {})
    try:
        inspect.signature(cls).bind(*args, **init_args)
    except TypeError as error:
        raise ConfigError(f"class_path {path!r}: {error}") from None
    return cls(*args, **init_args)


def _encode(value: Any, name: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ConfigError(
            f"argument {name.split('.')[0]!r} is nested more than {_MAX_DEPTH} levels deep"
        )
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ConfigError(f"argument {name!r}: keys must be strings, got {list(value)!r}")
        return {str(key): _encode(item, f"{name}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, f"{name}.{index}", depth + 1) for index, item in enumerate(value)]
    return _encode_object(value, name, depth)


def _encode_object(value: Any, name: str, depth: int) -> Any:
    """Encode what is neither a plain scalar nor a container."""
    import numpy as np  # here, because the command line's quick answers need no numpy

    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, float, str):
        # Subclasses (np.float64 is a float, enum members may be strings) are no primitives to a
        # weights-only loader.
        if isinstance(value, kind):
            return str.__str__(value) if kind is str else kind(value)
    if dataclasses.is_dataclass(value) and not inspect.isclass(value) and hasattr(value, "to_dict"):
        return _encode(value.to_dict(), name, depth + 1)
    if name.split(".")[0] == "env" and callable(value):
        return encode_factory(value)
    if inspect.isclass(value) and "<locals>" not in value.__qualname__:
        return {"class_path": _path_of(value)}
    init_args = getattr(value, "init_args", None)
    if isinstance(init_args, Mapping) and not inspect.isclass(value):
        return {
            "class_path": _path_of(type(value)),
            "init_args": _encode(init_args, f"{name}.init_args", depth + 1),
        }
    raise ConfigError(
        f"argument {name!r}: {_describe(value)} cannot be stored in a checkpoint; "
        "pass a class that can be imported, or {class_path: ..., init_args: ...}"
    )


def _decode(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ConfigError(f"a stored value is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        if "class_path" in value and set(value) <= {"class_path", "init_args"}:
            return build(value) if "init_args" in value else import_object(value["class_path"])
        return {key: _decode(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_decode(item, depth + 1) for item in value]
    return value


def _import_longest_module(parts: list[str]) -> tuple[ModuleType, list[str]]:
    """Import the longest prefix of `parts` that is a module; return it and the names left."""
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        try:
            return importlib.import_module(path), parts[length:]
        except ModuleNotFoundError as error:
            # Only the absence of this very module is a reason to look one level up.
            if error.name is None or not (path == error.name or path.startswith(error.name + ".")):
                raise ConfigError(f"{path!r} cannot be imported: {error}") from error
        except ImportError as error:
            raise ConfigError(f"{path!r} cannot be imported: {error}") from error
    raise ConfigError(
        f"no module named {parts[0]!r}; is it installed, or is the file in this directory?"
    )


def _is_dotted_name(path: Any) -> bool:
    return isinstance(path, str) and all(part.isidentifier() for part in path.split("."))


def _path_of(value: Any) -> str:
    if inspect.ismodule(value):
        return value.__name__
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', repr(value))}"


def _describe(value: Any) -> str:
    """Name a value's type without its content, which may be large or secret."""
    kind = type(value)
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"the {'class' if inspect.isclass(value) else 'function'} {_path_of(value)!r}"
    return f"an object of type {_path_of(kind)!r}"
