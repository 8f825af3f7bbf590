"""Reads and checks a study file: environments × models × seeds become cells."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_rl.cli.arguments import BUDGETS
from lightning_rl.cli.checks import check_document, resolve_algorithm
from lightning_rl.cli.configs import DEFAULTS, configs_folder
from lightning_rl.cli.shared import TEST_EPISODES
from lightning_rl.cli.yaml_check import Document, KeyPath, read_document
from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.runs.directory import RunConfig
from lightning_rl.runs.results import ExecutionConfig
from lightning_rl.runs.study import Cell, check_folders, folder_name

KEYS = (
    *("name", "environments", "models", "seeds", *BUDGETS),
    *("execution", "output_dir", "log_level", "workers", "trainer", "reference"),
)
OVERRIDES = (*BUDGETS, "init_args", "models", "trainer", "execution")
MAX_SEED = 2**32 - 1
"""The highest seed that NumPy takes."""
EXECUTION = ("num_episodes", "max_steps_per_episode", "render", "deterministic", "checkpoint")


@dataclass
class Plan:
    """A checked study.

    Attributes:
        name: Its name.
        folder: Where everything of it is kept.
        cells: In the order of the results: by environment, model, seed.
        workers: Cells at a time.
        reference: Results of an earlier study to compare with, if any.
        again: What a message calls the command that continues it.
    """

    name: str
    folder: Path
    cells: list[Cell]
    workers: int = 1
    reference: Path | None = None
    again: str = "the same command"


@dataclass
class _CellDocument(Document):
    """What a study says about one cell, as a run's configuration; mistakes name the study's keys.

    Attributes:
        study: The study file.
        places: Where the parts of the configuration may stand in the study file.
    """

    study: Document = field(default_factory=lambda: Document("", {}))
    places: list[tuple[KeyPath, KeyPath]] = field(default_factory=list)

    def error(self, path: KeyPath, message: str) -> ConfigError:
        """Return the error for one key, at its place in the study file."""
        found = [
            (*study, *path[len(own) :]) for own, study in self.places if path[: len(own)] == own
        ]
        written = (place for place in found if place in self.study.lines)
        return self.study.error(next(written, found[0] if found else path), message)


def plan_study(document: Document, options: Mapping[str, Any]) -> Plan:
    """Return the cells of a study.

    Args:
        document: The study file, as read.
        options: Keys of the study given on the command line; they win.

    Raises:
        ConfigError: For the first mistake, with file, line and key.
    """
    data = document.data
    data.update(options)
    for key in options:  # a mistake in it stands on the command line
        document.lines = {path: n for path, n in document.lines.items() if path[0] != key}
    if any(key in options for key in BUDGETS):
        _forget_budgets({key: value for key, value in data.items() if key not in options})
        data.update({key: options.get(key) for key in BUDGETS})
    _known(document, (), data, KEYS, "a study")
    _one_budget(document, (), data)
    name = _component(document, "name")
    root = data.get("output_dir", "logs")
    if not isinstance(root, str) or not root:
        raise document.error(("output_dir",), f"expected a folder, got {root!r}")
    folder = Path(root).expanduser() / name
    cells = list(_cells(document, folder))
    check_folders(cells)
    reference = data.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise document.error(("reference",), f"expected a results.json, got {reference!r}")
    workers = whole_number(document, ("workers",), data.get("workers", 1))
    return Plan(name, folder, cells, workers, Path(reference) if reference else None)


def _cells(document: Document, folder: Path) -> Iterator[Cell]:
    data = document.data
    defaults = read_document(configs_folder() / f"{DEFAULTS}.yaml", "configs/defaults.yaml")
    check_document(defaults)
    environments = _named(document, "environments", "id")
    models = _named(document, "models", "class_path")
    _check_log_level(document)
    for row, (environment, env) in enumerate(environments):
        overrides = _overrides(document, row, env, [label for label, _ in models])
        _no_environment(document, ("environments", str(row), "overrides", "init_args"), overrides)
        for column, (algorithm, model) in enumerate(models):
            _no_environment(document, ("models", str(column), "init_args"), model)
            content = _content(data, env, overrides, model, algorithm)
            execution, checkpoint = _execution(document, row, overrides)
            checked = _checked(document, row, column, content)
            for seed in seeds_of(document):
                yield Cell(
                    environment,
                    algorithm,
                    seed,
                    folder / folder_name(algorithm, environment, seed),
                    [
                        defaults.data,
                        {**checked, **_run(data, folder, algorithm, environment, seed)},
                    ],
                    execution=execution,
                    checkpoint=checkpoint,
                )


def _no_environment(document: Document, path: KeyPath, owner: Mapping[str, Any]) -> None:
    """Refuse arguments of a model that name an environment, which would not be used."""
    arguments = owner.get(path[-1]) or {}
    if not isinstance(arguments, dict):
        raise document.error(path, f"expected a mapping, got {arguments!r}")
    env = arguments.get("env") or {}
    if not isinstance(env, dict) or "id" in env:
        raise document.error(
            (*path, "env"),
            "expected settings such as num_envs, and no environment, which stands in the study's "
            f"'environments'; got {env!r}",
        )


def _run(
    data: Mapping[str, Any], folder: Path, algorithm: str, environment: str, seed: int
) -> dict[str, Any]:
    run = {
        "root": str(folder.parent),
        "experiment": folder.name,
        "name": folder_name(algorithm, environment, seed),
        "log_level": str(data.get("log_level", "INFO")),
    }
    return {"run": run, "seed_everything": seed}


def _content(
    data: Mapping[str, Any],
    env: Mapping[str, Any],
    overrides: Mapping[str, Any],
    model: Mapping[str, Any],
    algorithm: str,
) -> dict[str, Any]:
    """Return model and trainer of one cell: what is more special wins."""
    init_args: dict[str, Any] = {}
    settings: dict[str, Any] = {}  # of the environment
    own = (overrides.get("models") or {}).get(algorithm) or {}
    given = model.get("init_args") or {}
    for layer in (_budget(data), given, _budget(overrides), overrides.get("init_args") or {}, own):
        if _budget(layer):
            init_args = {key: value for key, value in init_args.items() if key not in BUDGETS}
        init_args.update(layer)
        settings.update(layer.get("env") or {})
    init_args["env"] = {**settings, **env}
    trainer = {
        "enable_progress_bar": False,
        # The numbers must not depend on how many cells share the machine.
        "num_threads": 1,
        **(data.get("trainer") or {}),
        **(overrides.get("trainer") or {}),
    }
    model = {"class_path": model["class_path"], "init_args": init_args}
    return copy.deepcopy({"model": model, "trainer": trainer})


def _budget(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: layer[key] for key in BUDGETS if layer.get(key) is not None}


def _checked(document: Document, row: int, column: int, content: dict[str, Any]) -> dict[str, Any]:
    """Check a cell's configuration; return it with its short forms written out."""
    overrides = ("environments", str(row), "overrides")
    places: list[tuple[KeyPath, KeyPath]] = [
        (("model", "init_args", "env"), ("environments", str(row))),
        (("model", "init_args", "env"), ("models", str(column), "init_args", "env")),
        (("model", "init_args"), ("models", str(column), "init_args")),
        (("model", "init_args"), (*overrides, "init_args")),
        (("model", "init_args"), ()),
        (("model", "init_args"), overrides),
        (("model",), ("models", str(column))),
        (("trainer",), ("trainer",)),
        (("trainer",), (*overrides, "trainer")),
    ]
    checked = _CellDocument(document.origin, content, study=document, places=places)
    check_document(checked)
    arguments = checked.data["model"]["init_args"]
    for key in BUDGETS:
        value = arguments.get(key)
        if isinstance(value, (int, float)) and value < 1:
            raise checked.error(
                ("model", "init_args", key), f"expected a whole number of at least 1, got {value!r}"
            )
    if not any(arguments.get(key) is not None for key in BUDGETS):
        raise document.error((), "expected total_env_steps or total_episodes, got neither")
    return checked.data


def _forget_budgets(value: Any) -> None:
    """Remove the budgets of single models and environments: that of the command line wins."""
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict):
            for key in BUDGETS:
                item.pop(key, None)
        if isinstance(item, (dict, list)):
            _forget_budgets(item)


def _named(document: Document, key: str, label: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, entry) of the environments or models; a bare text is its `label`."""
    entries = document.data.get(key)
    if not isinstance(entries, list) or not entries:
        raise document.error((key,), f"expected a list with at least one entry, got {entries!r}")
    found: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        path = (key, str(index))
        entry = {label: entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get(label), str):
            raise document.error(path, f"expected a name, or a mapping with {label!r}")
        name = entry.get("name", entry[label])
        if key == "models":
            name = entry.get("name", _algorithm(document, path, entry))
        if not isinstance(name, str) or not name:
            raise document.error((*path, "name"), f"expected a text, got {name!r}")
        if name in found:
            raise document.error(
                path, f"{name!r} is there already; give this entry a 'name' of its own"
            )
        found[name] = {k: v for k, v in entry.items() if k != "name"}
        if key == "models":
            _known(document, path, found[name], ("class_path", "init_args"), "a model")
    return list(found.items())


def _algorithm(document: Document, path: KeyPath, entry: Mapping[str, Any]) -> str:
    """Return the name of a model's algorithm, as it is spelt."""
    try:
        return resolve_algorithm(entry["class_path"]).rsplit(".", 1)[-1]
    except ConfigError as error:
        raise document.error((*path, "class_path"), str(error)) from None


def _overrides(
    document: Document, row: int, env: dict[str, Any], models: list[str]
) -> dict[str, Any]:
    """Take the overrides out of an environment's entry and check their names."""
    overrides = env.pop("overrides", None) or {}
    path = ("environments", str(row), "overrides")
    if not isinstance(overrides, dict):
        raise document.error(path, f"expected a mapping, got {overrides!r}")
    _known(document, path, overrides, OVERRIDES, "overrides")
    _one_budget(document, path, overrides)
    for key in ("init_args", "models", "trainer", "execution"):
        if not isinstance(overrides.get(key) or {}, dict):
            raise document.error((*path, key), f"expected a mapping, got {overrides[key]!r}")
    own = overrides.get("models") or {}
    _known(document, (*path, "models"), own, models, "models")
    for label, arguments in own.items():
        if not isinstance(arguments, dict):
            raise document.error((*path, "models", label), f"expected init_args, got {arguments!r}")
        _no_environment(document, (*path, "models", label), own)
    return overrides


def _execution(
    document: Document, row: int, overrides: Mapping[str, Any]
) -> tuple[ExecutionConfig | None, str]:
    """Return how to execute, and which checkpoint; `execution: null` executes nothing."""
    data = document.data
    if "execution" in data and data["execution"] is None and not overrides.get("execution"):
        return None, "best"
    values: dict[str, Any] = {"num_episodes": TEST_EPISODES}
    for path, given in (
        (("execution",), data.get("execution") or {}),
        (("environments", str(row), "overrides", "execution"), overrides.get("execution") or {}),
    ):
        if not isinstance(given, dict):
            raise document.error(path, f"expected a mapping, got {given!r}")
        _known(document, path, given, EXECUTION, "execution")
        try:
            ExecutionConfig(**{k: v for k, v in given.items() if k != "checkpoint"})
        except ConfigError as error:
            key = str(error).partition(":")[0]
            raise document.error((*path, key), str(error).partition(": ")[2]) from None
        if given.get("checkpoint", "best") not in ("best", "last"):
            shown = given["checkpoint"]
            raise document.error((*path, "checkpoint"), f"expected best or last, got {shown!r}")
        values.update(given)
    checkpoint = values.pop("checkpoint", "best")
    return ExecutionConfig(**values), checkpoint


def seeds_of(document: Document) -> list[int]:
    """Return the seeds; a number means so many, from 1 on."""
    seeds = document.data.get("seeds", 1)
    if isinstance(seeds, list):
        whole = all(
            isinstance(s, int) and not isinstance(s, bool) and 0 <= s <= MAX_SEED for s in seeds
        )
        if not seeds or not whole or len(set(seeds)) != len(seeds):
            raise document.error(
                ("seeds",), f"expected different whole numbers from 0 to {MAX_SEED}, got {seeds!r}"
            )
        return list(seeds)
    return list(range(1, whole_number(document, ("seeds",), seeds) + 1))


def whole_number(document: Document, path: KeyPath, value: Any, least: int = 1) -> int:
    """Return a whole number of at least `least`, which may be written as 1e3; with line if not."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise document.error(path, f"expected a whole number of at least {least}, got {value!r}")
    return value


def _component(document: Document, key: str) -> str:
    """Return a name that is one folder."""
    value = document.data.get(key)
    if value is None:
        raise document.error((), f"expected a {key!r}, got none")
    check_name(document, value)
    return str(value)


def check_name(document: Document, value: Any) -> None:
    """Refuse what is no name of one folder, with the line of the key `name`."""
    try:
        RunConfig(experiment=value)
    except ConfigError as error:
        raise document.error(("name",), str(error).partition(": ")[2].partition(";")[0]) from None


def _check_log_level(document: Document) -> None:
    try:
        RunConfig(log_level=document.data.get("log_level", "INFO"))
    except ConfigError as error:
        raise document.error(("log_level",), str(error).partition(": ")[2]) from None


def _one_budget(document: Document, path: KeyPath, mapping: Mapping[str, Any]) -> None:
    if all(mapping.get(key) is not None for key in BUDGETS):
        raise document.error((*path, BUDGETS[1]), f"expected only one of {' and '.join(BUDGETS)}")


def _known(
    document: Document, path: KeyPath, mapping: Mapping[str, Any], keys: Any, owner: str
) -> None:
    for key in mapping:
        if key not in keys:
            hint = did_you_mean(key, keys) or f"; expected one of {', '.join(keys)}"
            raise document.error((*path, key), f"unknown key {key!r} of {owner}{hint}")
