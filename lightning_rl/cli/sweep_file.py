"""Reads and checks a sweep: a file, or a run's configuration with `--space` options."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_rl.cli.arguments import DEFAULT_CONFIG
from lightning_rl.cli.checks import check_document, model_class
from lightning_rl.cli.configs import DEFAULTS, configs_folder, find_config
from lightning_rl.cli.options import Option, check_option
from lightning_rl.cli.study_file import check_name, seeds_of, whole_number
from lightning_rl.cli.yaml_check import (
    Document,
    KeyPath,
    parse_document,
    parse_scalar,
    read_document,
)
from lightning_rl.errors import ConfigError, check_choice, did_you_mean
from lightning_rl.runs.search_space import KINDS, Distribution, grid, parse_distribution
from lightning_rl.runs.sweep import OBJECTIVES, PRUNERS, SAMPLERS, Sweep

KEYS = (
    *("name", "config", "space", "sampler", "pruner", "trials", "seeds", "workers", "storage"),
    *("seed", "objective", "output_dir", "log_level"),
)
SECTIONS = ("model", "trainer")
"""Sections of a run's configuration that a sweep file may hold itself."""
DEFAULT_TRIALS = 20
CHOICES = {"sampler": SAMPLERS, "pruner": PRUNERS, "objective": OBJECTIVES}


def plan_sweep(
    configs: list[str], spaces: list[str], options: Mapping[str, Any]
) -> tuple[Sweep, list[str]]:
    """Return a checked sweep, and the names of the run configurations that it builds on.

    Args:
        configs: `--config`: one sweep file, or configurations of a run.
        spaces: `--space`: `path=values`.
        options: Keys of a sweep file given on the command line; they win.

    Raises:
        ConfigError: For the first mistake; in a file with its line.
    """
    document, base = _document(configs)
    data = document.data
    data.update(options)
    # A mistake in an option stands on the command line, not in the file.
    document.lines = {path: n for path, n in document.lines.items() if path[0] not in options}
    for key in data:
        if key not in (*KEYS, *SECTIONS):
            hint = did_you_mean(key, KEYS) or f"; expected one of {', '.join(KEYS)}"
            raise document.error((key,), f"unknown key {key!r} of a sweep{hint}")
    documents = [_defaults(), *(read_document(*find_config(name)) for name in base)]
    for item in documents:
        check_document(item)
    own = Document(document.origin, _sections(data, model_class(documents)), document.lines)
    check_document(own)
    documents.append(own)
    algorithm = model_class(documents)
    space = _space(document, data.get("space") or {}, spaces, algorithm)
    if not space:
        raise ConfigError(
            "sweep: expected a space, as in `--space model.learning_rate=1e-4,3e-4,1e-3`, "
            "or a file with the key 'space'"
        )
    _check_choices(document)
    finite = all(distribution.is_finite for distribution in space.values())
    sampler = data.get("sampler", "grid" if finite and spaces else "tpe")
    points = len(list(grid(space))) if sampler == "grid" else 0
    name = str(data.get("name") or _default_name(algorithm, documents))
    check_name(document, name)
    sweep = Sweep(
        name=name,
        folder=Path(str(data.get("output_dir", "logs"))).expanduser() / name,
        space=space,
        documents=[item.data for item in documents],
        num_trials=points or _whole(document, "trials", DEFAULT_TRIALS),
        seeds=tuple(seeds_of(document)),
        sampler=sampler,
        pruner=data.get("pruner") or "none",  # which YAML reads as nothing
        objective=data.get("objective", "best"),
        storage=data.get("storage"),
        seed=_whole(document, "seed", 1, least=0),
        workers=_whole(document, "workers", 1),
    )
    return sweep, base


def option_of(key: str, value: Any, algorithm: str | None) -> Option:
    """Return one value of a trial as an option of the command line, checked."""
    text = json.dumps(value) if isinstance(value, (list, tuple, dict)) else str(value)
    return check_option(key, "null" if value is None else text, algorithm)


def _document(configs: list[str]) -> tuple[Document, list[str]]:
    """Return the sweep file, or an empty one, and the run configurations below it."""
    if len(configs) == 1:
        document = read_document(*find_config(configs[0]))
        if "space" in document.data:
            base = document.data.get("config", [])
            base = [base] if isinstance(base, str) else base
            if not isinstance(base, list) or not all(isinstance(name, str) for name in base):
                raise document.error(
                    ("config",), f"expected a name or a list of names, got {base!r}"
                )
            return document, base
    return Document("sweep", {}), configs or [DEFAULT_CONFIG]


def _defaults() -> Document:
    return read_document(configs_folder() / f"{DEFAULTS}.yaml", "configs/defaults.yaml")


def _sections(data: Mapping[str, Any], algorithm: str | None) -> dict[str, Any]:
    """Return what a sweep adds to its runs; the numbers must not depend on their neighbours."""
    trainer = {"enable_progress_bar": False, "num_threads": 1, **(data.get("trainer") or {})}
    content: dict[str, Any] = {
        "trainer": trainer,
        "run": {"log_level": data.get("log_level", "INFO")},
    }
    model = data.get("model")
    if isinstance(model, dict) and algorithm:  # or nothing could be said of its arguments
        model = {"class_path": algorithm, **model}
    if model is not None:
        content["model"] = model
    return content


def _space(
    document: Document, written: Any, spaces: list[str], algorithm: str | None
) -> dict[str, Distribution]:
    if not isinstance(written, dict):
        raise document.error(("space",), f"expected paths with their values, got {written!r}")
    space: dict[str, Distribution] = {}
    for key, value in written.items():
        if isinstance(value, dict) and not set(value) <= set(KINDS) and "." not in key:
            below = next(iter(value))
            raise document.error(
                ("space", key),
                f"expected the path of one setting, as in '{key}.{below}', and not a section",
            )
        space[key] = _checked(
            document, ("space", key), lambda key=key, value=value: _entry(key, value, algorithm)
        )
    for text in spaces:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"--space: expected PATH=VALUE,VALUE,..., got {text!r}")
        try:
            space[key] = _entry(key, _parse_values(values), algorithm)
        except ConfigError as error:
            raise ConfigError(f"--space {key}: {error}") from None
    return space


def _parse_values(text: str) -> Any:
    """Return what stands behind `--space path=`: a YAML list or mapping, or values with commas."""
    if text[:1] in ("[", "{"):
        return parse_document(f"value: {text}", "--space").data["value"]
    return [parse_scalar(word.strip()) for word in text.split(",")]


def _entry(key: str, value: Any, algorithm: str | None) -> Distribution:
    if key.partition(".")[0] == "run":  # where it lies is how a trial is found again
        raise ConfigError(f"expected a path of {' or '.join(SECTIONS)}, got {key!r}")
    distribution = parse_distribution(value)
    for bound in distribution.bounds:  # of the right type, and the path exists
        if distribution.kind.startswith("int"):
            bound = int(bound)
        option_of(key, bound, algorithm)
    if distribution.kind in ("uniform", "log_uniform"):
        low, high = map(float, distribution.bounds)
        try:  # what will be drawn is hardly ever whole
            option_of(key, low + (high - low) / math.pi, algorithm)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; whole numbers are drawn by int_{distribution.kind}"
            ) from None
    return distribution


def _check_choices(document: Document) -> None:
    for key, known in CHOICES.items():
        if key in document.data:
            chosen = "none" if document.data[key] is None else document.data[key]
            _checked(
                document, (key,), lambda k=key, v=chosen, known=known: check_choice(k, v, known)
            )


def _checked(document: Document, path: KeyPath, check: Any) -> Any:
    """Return what `check()` does; a mistake is given the file's line."""
    try:
        return check()
    except ConfigError as error:
        raise document.error(path, str(error)) from None


def _whole(document: Document, key: str, default: int, least: int = 1) -> int:
    return whole_number(document, (key,), document.data.get(key, default), least)


def _default_name(algorithm: str | None, documents: list[Document]) -> str:
    env: Any = "cartpole"
    for document in documents:
        env = ((document.data.get("model") or {}).get("init_args") or {}).get("env", env)
    identifier = env.get("id", "env") if isinstance(env, dict) else env
    kind = (algorithm or "ppo").rsplit(".", 1)[-1]
    return f"sweep-{kind}-{identifier}".lower().replace("/", "-").replace(":", "-")
