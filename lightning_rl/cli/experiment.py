"""`run_experiment`: what `lightning-rl fit --config` does, from Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lightning_rl.cli.arguments import Request, fit_documents
from lightning_rl.cli.checks import check_document
from lightning_rl.cli.configs import find_config
from lightning_rl.cli.parser import RunCLI, resolved_config_yaml
from lightning_rl.cli.yaml_check import Document, read_document
from lightning_rl.errors import ConfigError
from lightning_rl.experience.random_streams import global_random_state, restore_global_random_state
from lightning_rl.runs.front_door import run
from lightning_rl.runs.results import RunResult

ORIGIN = "run_experiment"


def run_experiment(config: Mapping[str, Any] | str | os.PathLike[str]) -> RunResult:
    """Train what a configuration describes, as `lightning-rl fit --config` would.

    The configuration lies over `configs/defaults.yaml`. The run directory gets its `config.yaml`,
    so that `lightning-rl resume` continues the run. The caller's random streams stay where they
    are.

    Args:
        config: The sections `run`, `seed_everything`, `model` and `trainer` of a configuration
            file as a mapping (OmegaConf's too), the path of such a file, or the name of a shipped
            one (`ppo/cartpole`). Short forms are those of files: `model: ppo`,
            `env: CartPole-v1`.

    Returns:
        How the run went; a failure during training is data (`success`, `error_message`).

    Raises:
        ConfigError: The configuration is not valid; in one line, for a file with its line.
    """
    if isinstance(config, (str, os.PathLike)):
        document = read_document(*find_config(os.fspath(config)))
    else:
        document = Document(ORIGIN, _plain(config, ()))
    check_document(document)
    request = Request("fit")
    fit_documents(request, [document])
    with _caller_untouched():
        cli = RunCLI(request.documents, [])
        cli.trainer.config_text = resolved_config_yaml(cli)
        return run(cli.model, trainer=cli.trainer)


@contextmanager
def _caller_untouched() -> Iterator[None]:
    """Put back the global random streams, and the seed that Lightning leaves in the environment."""
    state = global_random_state()
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        restore_global_random_state(state)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _plain(value: Any, path: tuple[str, ...]) -> Any:
    """Return a configuration as a file would hold it: dictionaries, lists and scalars.

    Raises:
        ConfigError: There is something else in it, or it is no mapping at all.
    """
    if isinstance(value, Mapping):
        return {_key(key, path): _plain(item, (*path, str(key))) for key, item in _items(value)}
    if not path:
        raise ConfigError(
            f"{ORIGIN}: expected a mapping with run, seed_everything, model and trainer, or the "
            f"path of a file, got {type(value).__name__}"
        )
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item, (*path, str(index))) for index, item in enumerate(value)]
    raise ConfigError(
        f"{ORIGIN}: {'.'.join(path)}: expected what a YAML file can hold, got "
        f"{type(value).__name__}; objects are for lightning_rl.run(agent, trainer=...)"
    )


def _items(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    try:
        return list(mapping.items())
    except Exception as error:  # OmegaConf resolves interpolations here
        raise ConfigError(f"{ORIGIN}: {' '.join(str(error).split())}") from error


def _key(key: Any, path: tuple[str, ...]) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"{ORIGIN}: {'.'.join(path)}: a key must be a text, got {key!r}")
    return key
