"""The options `--wandb` and `--mlflow`: a logger beside those of the configuration."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_rl.cli.yaml_check import Document, parse_document
from lightning_rl.errors import ConfigError

_LOGGERS = "lightning.pytorch.loggers"
# A folder of "." stands for the run directory. It is what a run without loggers has.
_TENSORBOARD = {
    "class_path": f"{_LOGGERS}.TensorBoardLogger",
    "init_args": {"save_dir": ".", "name": "", "version": "", "default_hp_metric": False},
}


def add_trackers(
    documents: list[Document], own: Mapping[str, Any], raw: list[tuple[str, str | None]]
) -> None:
    """Append a document that adds the trackers asked for to the loggers of the others.

    Args:
        documents: Configurations, first the weakest.
        own: The command's own options.
        raw: The configuration's options, name and text, in order. `trainer.logger` is taken out:
            an option is stronger than a document, and would undo what is added here.

    Raises:
        ConfigError: If the package of a tracker is not installed.
    """
    asked = [name for name in TRACKERS if own.get(name)]
    if not asked:
        return
    present, root = _find(documents, "trainer", "logger"), _find(documents, "run", "root")
    for text in [text for key, text in raw if key == "trainer.logger"]:
        present = parse_document(f"logger: {text or 'true'}", "--trainer.logger").data["logger"]
    raw[:] = [item for item in raw if item[0] != "trainer.logger"]
    root = dict(raw).get("run.root") or root or "logs"
    loggers = list(present) if isinstance(present, list) else [present]
    loggers = [_TENSORBOARD] if present in (None, True) else [_spec(x) for x in loggers if x]
    for name in asked:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--{name} needs a package: pip install 'lightning-rl[{name}]'")
        spec = TRACKERS[name](Path(root))
        if not any(_class_of(other) == _class_of(spec) for other in loggers):
            loggers.append(spec)
    origin = " ".join(f"--{name}" for name in asked)
    documents.append(Document(origin, {"trainer": {"logger": loggers}}))


def _wandb(root: Path) -> dict[str, Any]:
    return {"class_path": f"{_LOGGERS}.WandbLogger", "init_args": {"project": "lightning_rl"}}


def _mlflow(root: Path) -> dict[str, Any]:
    """Use one local database beside all runs, unless the environment names a server.

    Its address may hold a password, so it stays in the environment.
    """
    spec: dict[str, Any] = {"class_path": f"{_LOGGERS}.MLFlowLogger"}
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        path = root.expanduser().absolute() / "mlflow.db"
        spec["init_args"] = {"tracking_uri": f"sqlite:///{path}"}
    return spec


TRACKERS: dict[str, Callable[[Path], dict[str, Any]]] = {"wandb": _wandb, "mlflow": _mlflow}
"""Name of an option and of its package, to the logger as it stands in YAML."""


def _find(documents: Sequence[Document], section: str, key: str) -> Any:
    """Return the strongest value of a key."""
    value: Any = None
    for document in documents:
        value = (document.data.get(section) or {}).get(key, value)
    return value


def _spec(logger: Any) -> Any:
    """Return a logger that is only named as a list holds it."""
    return {"class_path": logger} if isinstance(logger, str) else logger


def _class_of(spec: Any) -> str:
    return str(spec.get("class_path", "")).rpartition(".")[2] if isinstance(spec, dict) else ""
