"""From the words of the command line to a checked request: command, files and options.

Only names and types are looked at here, so that a mistake is answered before torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_rl.cli.checks import (
    check_document,
    check_env_registered,
    model_class,
    resolve_algorithm,
)
from lightning_rl.cli.configs import DEFAULTS, configs_folder, find_config
from lightning_rl.cli.options import Option, check_option
from lightning_rl.cli.trackers import TRACKERS, add_trackers
from lightning_rl.cli.yaml_check import Document, read_document
from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.trust import trust

DEFAULT_CONFIG = "ppo/cartpole"
BUDGETS = ("total_env_steps", "total_episodes")
_COMMON = ("config", "trust", "help", "print_config")
# Keys of a study's file, most of which a run's configuration has too, under other names.
STUDY_KEYS = (
    *("run.root", "name", "seeds", *BUDGETS, "output_dir", "log_level"),
    *("workers", "reference"),
)
OWN_OPTIONS = {
    "fit": (
        *_COMMON,
        "ckpt_path",
        "init_from",
        "new_version",
        "require_exact",
        "workers",
        *TRACKERS,
    ),
    "validate": (*_COMMON, "ckpt_path", "episodes", "output"),
    "test": (*_COMMON, "ckpt_path", "episodes", "output"),
    "predict": (*_COMMON, "ckpt_path", "episodes", "output"),
    "resume": ("trust", "help", "allow_change", "config", "require_exact", *TRACKERS),
    "record": (*_COMMON, "ckpt_path", "replay", "episodes", "output"),
    "export": ("help", "trust", "ckpt_path", "format", "output"),
    "study": ("config", "trust", "help", "dry_run", *STUDY_KEYS),
    "runs": (
        *("help", "trust", "root", "json", "status", "algorithm", "env", "older_than", "sort"),
        *("limit", "metric", "agent_id", "min_episode", "max_episode", "source", "sql", "yes"),
        "lines",
    ),
    "doctor": ("help", "trust"),
    "sweep": (
        *("config", "trust", "help", "dry_run", "space", "name", "sampler", "pruner", "trials"),
        *("seeds", "workers", "storage", "seed", "objective", "output_dir", "log_level"),
        "export_wandb",
    ),
    "list": ("help", "trust"),
}
"""The options of each command that are not part of the configuration."""

PLAIN = ("export", "study", "sweep", "runs", "doctor", "list")
"""Commands that take no run's configuration."""

_FLAGS = (
    *("help", "json", "yes", "dry_run", "print_config", "new_version", "require_exact"),
    *("version", *TRACKERS),
)
_REPEATABLE = ("config", "metric", "trust", "allow_change", "space")
_SHORT = {"-c": "--config", "-h": "--help"}


@dataclass
class Request:
    """What the user asked for.

    Attributes:
        command: `fit`, `test`, ...
        positionals: Words that belong to no option.
        own: The command's own options by name; repeatable ones as lists, flags as True.
        raw: The configuration's options, name and text, in order.
        documents: Checked configurations, first the weakest.
        options: Checked options.
        kept_run: Entries of `run` that stay in `config.yaml` as they were.
    """

    command: str
    positionals: list[str] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)
    raw: list[tuple[str, str | None]] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    kept_run: dict[str, Any] = field(default_factory=dict)

    def add_options(self, algorithm: str | None) -> None:
        """Check the configuration's options against the algorithm, or the one that they name."""
        for key, text in self.raw:
            if key in ("model", "model.class_path") and text:
                algorithm = resolve_algorithm(text)
        for key, text in self.raw:
            self.options.append(self._checked(key, text, algorithm))
        self._replace_budgets()
        self._check_environment()

    def _replace_budgets(self) -> None:
        """Let a budget of one kind take the place of one of the other kind in weaker layers."""
        layers = [(d.data.get("model") or {}).get("init_args") or {} for d in self.documents]
        options = {option.path[-1]: option.value for option in self.options}
        below: dict[str, Any] = {}
        for layer in (*layers, options):
            given = {key: layer[key] for key in BUDGETS if layer.get(key) is not None}
            replaced = next((key for key in BUDGETS if key not in given and below.get(key)), None)
            if given and replaced:
                layer[replaced] = None
                if layer is options:
                    self.options.append(Option(f"model.{replaced}", "null", None))
            below.update({key: layer[key] for key in BUDGETS if key in layer})

    def _check_environment(self) -> None:
        """Check that the environment exists, once it is known which one it will be."""
        where: list[tuple[str, Any]] = []
        for document in self.documents:
            env = (document.data.get("model") or {}).get("init_args", {}).get("env") or {}
            if env.get("imports"):
                return  # what they register cannot be known without importing them
            line = document.lines.get(("model", "init_args", "env", "id"))
            where.append(
                (f"{document.origin}{f':{line}' if line else ''}: model.env", env.get("id"))
            )
        for option in self.options:
            if option.key == "model.env.imports":
                return
            where.append(("--model.env", option.value if option.key == "model.env.id" else None))
        for origin, identifier in reversed(where):
            if isinstance(identifier, str):
                try:
                    check_env_registered(identifier)
                except ConfigError as error:
                    raise ConfigError(f"{origin}: {error}") from None
                return

    def _checked(self, key: str, text: str | None, algorithm: str | None) -> Option:
        own = OWN_OPTIONS[self.command]
        if text is not None:
            return check_option(key, text, algorithm, own)
        try:
            return check_option(key, "true", algorithm, own)  # `--trainer.fast_dev_run`
        except ConfigError as error:
            missing = "expected" in str(error) and "'true'" in str(error)
            raise ConfigError(f"--{key}: expected a value") if missing else error from None


def read_request(command: str, tokens: Sequence[str]) -> Request:
    """Sort the words behind the command; trusts the packages that they name.

    Raises:
        ConfigError: For an own option without its value, or given twice.
    """
    request = Request(command)
    words = list(tokens)
    while words:
        word = words.pop(0)
        word = _SHORT.get(word, word)
        if not word.startswith("--") or word == "--":
            if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
                raise ConfigError(f"unknown option {word}; long options start with '--'")
            request.positionals.append(word)
            continue
        key, equals, text = word[2:].partition("=")
        key = _canonical(key)
        value: str | None = text if equals else None
        if not equals and key not in _FLAGS and words and not words[0].startswith("--"):
            value = words.pop(0)
        _store(request, key, value)
    for package in request.own.get("trust", []):
        trust(package)
    return request


def fit_documents(request: Request, configs: Sequence[Document] | None = None) -> None:
    """Read and check everything that `fit` is configured by, into the request.

    Args:
        request: The request.
        configs: Checked configurations; default: read from what `--config` names.

    Raises:
        ConfigError: For the first mistake.
    """
    if configs is None:
        configs = [_read(*find_config(name)) for name in request.own.get("config", [])]
    named = [text for key, text in request.raw if key in ("model", "model.class_path")]
    algorithm = model_class(configs)
    if algorithm is None and not named:
        base = _read(*find_config(DEFAULT_CONFIG))
        algorithm = model_class([base])
    else:
        algorithm = algorithm or resolve_algorithm(named[-1])
        # An id must stand below the options: `--model.env.num_envs 4` alone is no environment.
        init_args = {"env": {"id": "CartPole-v1"}}
        base = Document("defaults", {"model": {"class_path": algorithm, "init_args": init_args}})
    defaults = _read(configs_folder() / f"{DEFAULTS}.yaml", "configs/defaults.yaml")
    request.documents = [defaults, base, *configs]
    add_trackers(request.documents, request.own, request.raw)
    request.add_options(algorithm)


def last_value(request: Request, path: tuple[str, ...]) -> Any:
    """Return the value that the options, else the strongest file, give a key; None without one."""
    for option in reversed(request.options):
        if option.key == ".".join(path):
            return option.value
    for document in reversed(request.documents):
        value: Any = document.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def several_seeds(request: Request) -> bool:
    """Return whether a `fit` asks for more than one run; refuses what only those understand.

    Raises:
        ConfigError: `--workers` for a single run.
    """
    if (last_value(request, ("run", "seeds")) or 1) > 1:
        return not request.own.get("print_config")
    if "workers" in request.own:
        raise ConfigError("--workers: expected --run.seeds N beside it, got a single run")
    return False


def _read(file: Any, origin: str) -> Document:
    document = read_document(file, origin)
    check_document(document)
    return document


def _canonical(key: str) -> str:
    """Write the dashes of an option's first part as underscores."""
    head, dot, rest = key.partition(".")
    return head.replace("-", "_") + dot + rest


def _store(request: Request, key: str, value: str | None) -> None:
    if key not in OWN_OPTIONS[request.command]:
        _check_foreign(request.command, key)
        request.raw.append((key, value))
        return
    if key in _FLAGS:
        request.own[key] = True
        return
    if value is None:
        raise ConfigError(f"--{key}: expected a value")
    if key in _REPEATABLE:
        request.own.setdefault(key, []).append(value)
    elif key in request.own:
        raise ConfigError(f"--{key} is given twice")
    else:
        request.own[key] = value


def _check_foreign(command: str, key: str) -> None:
    """Say which command has an option that this one has not."""
    owners = [name for name, options in OWN_OPTIONS.items() if key in options]
    if owners and (key not in STUDY_KEYS or command in PLAIN):
        raise ConfigError(f"--{key} is an option of {', '.join(owners)}, not of {command}")
    if command in PLAIN:
        raise ConfigError(f"unknown option --{key}{did_you_mean(key, OWN_OPTIONS[command])}")
