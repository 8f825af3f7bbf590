"""What `resume` continues from, and which settings may differ from the saved ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_rl.cli.arguments import BUDGETS, Request
from lightning_rl.cli.checks import check_document, model_class
from lightning_rl.cli.configs import DEFAULTS, configs_folder, find_config
from lightning_rl.cli.trackers import add_trackers
from lightning_rl.cli.yaml_check import Document, KeyPath, read_document
from lightning_rl.errors import ConfigError, nearest

# Budget, intervals, loggers and devices; everything else would make it another run.
_MAY_CHANGE = re.compile(
    r"model\.(total_env_steps|total_episodes)|"
    r"run\.(name|description|tags|log_level|require_exact)|"
    r"trainer\.(max_\w+|min_\w+|eval_every_env_steps|eval_episodes|val_check_interval|"
    r"check_val_every_n_epoch|log_every_n_steps|limit_\w+|num_sanity_val_steps|enable_\w+|logger|"
    r"accelerator|devices|num_nodes|strategy|profiler|fast_dev_run|detect_anomaly|barebones)(\..*)?|"
    r".*every_\w+"
)
# Their number is in the shape of what is restored.
_NEVER_CHANGES = {"model.env.num_envs", "model.capacity"}
_SHOWN = 8


@dataclass(frozen=True)
class SavedRun:
    """A run directory, and the checkpoint in it that the user named, if any."""

    directory: Path
    named: Path | None

    @classmethod
    def find(cls, target: str) -> SavedRun:
        """Return the run that a directory or a checkpoint belongs to.

        Raises:
            ConfigError: If there is none; with the nearest names.
        """
        path = Path(target).expanduser()
        if path.is_dir():
            run = cls(path, None)
        elif path.is_file():
            run = cls(path.absolute().parent.parent, path)
        else:
            parent = path.parent
            beside = [p.name for p in parent.iterdir()] if parent.is_dir() else []
            near = nearest(path.name, beside, 1)
            hint = f"; did you mean {str(parent / near[0])!r}?" if near else _found(parent, beside)
            raise ConfigError(f"resume {target}: no such run directory or checkpoint{hint}")
        if not (run.directory / "config.yaml").is_file():
            raise ConfigError(f"resume {target}: {run.directory} holds no run (no config.yaml)")
        return run

    def configuration(self) -> tuple[Document, dict[str, Any]]:
        """Return the saved configuration, pointed at where the directory is now, and its `run`."""
        document = read_document(self.directory / "config.yaml")
        check_document(document)
        saved = dict(document.data.get("run") or {})
        where = self.directory.absolute()
        document.data["run"] = {
            **saved,
            "root": str(self.directory.parent.parent if where.parts[2:] else where.parent),
            "experiment": where.parent.name,
            "name": where.name,
            "new_version": False,
        }
        return document, saved

    @property
    def checkpoint(self) -> str | None:
        """The named checkpoint, else `last` for the newest good one; None before the first."""
        if self.named is not None:
            return str(self.named)
        return "last" if any((self.directory / "checkpoints").glob("*.ckpt")) else None

    def checkpoint_file(self) -> str | None:
        """Return the same as a file, for a run in another directory.

        Raises:
            CheckpointError: If all checkpoints are bad.
        """
        if self.checkpoint != "last":
            return self.checkpoint
        from lightning_rl.storage.segments import newest_good_checkpoint

        return str(newest_good_checkpoint(self.directory / "checkpoints")[0])


def continue_documents(request: Request, saved: SavedRun) -> None:
    """Read the saved configuration and what is laid over it into the request.

    Raises:
        ConfigError: If something differs that may not.
    """
    defaults = read_document(configs_folder() / f"{DEFAULTS}.yaml", "configs/defaults.yaml")
    check_document(defaults)
    base, run = saved.configuration()
    overlays = [read_document(*find_config(name)) for name in request.own.get("config", [])]
    for overlay in overlays:
        check_document(overlay)
    request.documents = [defaults, base, *overlays]
    add_trackers(request.documents, request.own, request.raw)
    request.add_options(model_class([base]))
    if not any(option.key == "run.name" for option in request.options):
        request.kept_run = {k: v for k, v in run.items() if k in ("root", "experiment", "name")}
    refused = list(_refused(request, base, overlays))
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise ConfigError(
            f"a resumed run keeps its settings, but these differ: {'; '.join(refused[:_SHOWN])}"
            f"{more}; {_ways_out([change.split(':')[0] for change in refused[:_SHOWN]])}"
        )


def finished_line(request: Request, saved: SavedRun) -> str | None:
    """Return what to say when the run is finished and nothing more was asked for."""
    if saved.named is not None:
        return None
    try:
        record = json.loads((saved.directory / "run.json").read_text(encoding="utf-8"))
        status, env_steps = record["status"], int(record["env_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    budget: Any = None
    for path, value in [o for d in request.documents for o in _leaves(d.data)]:
        if path[-1] in BUDGETS and value is not None:
            budget = value
    asked = [o.value for o in request.options if o.path[-1] in BUDGETS]
    enlarged = any(isinstance(value, int) and value > (budget or 0) for value in asked)
    if status != "finished" or enlarged:
        return None
    return (
        f"{saved.directory}: finished at {env_steps:,} env steps, nothing to do; "
        "continue with a larger --model.total_env_steps"
    )


def _refused(request: Request, base: Document, overlays: list[Document]) -> Iterator[str]:
    """Yield `key: old -> new` of what differs and may not."""
    saved = dict(_leaves(base.data))
    wanted = [leaf for overlay in overlays for leaf in _leaves(overlay.data)]
    wanted += [(option.path, option.value) for option in request.options]
    allowed = {_short(tuple(key.split("."))) for key in request.own.get("allow_change", [])}
    for path, value in wanted:
        key = _short(path)
        old = saved.get(path)
        if old == value or _MAY_CHANGE.fullmatch(key):
            continue
        is_allowed = key in allowed or key.rsplit(".", 1)[-1] in allowed
        if key in _NEVER_CHANGES or not is_allowed:
            yield f"{key}: {old!r} -> {value!r}"


def _ways_out(keys: list[str]) -> str:
    """Return what can be done about changed keys."""
    fixed = [key for key in keys if key in _NEVER_CHANGES]
    others = [f"--allow-change {key}" for key in keys if key not in fixed]
    ways = [f"if you mean it, add {' '.join(others)}"] if others else []
    if fixed:
        ways.append(
            f"{' and '.join(fixed)} cannot change: begin another run with these weights by "
            "`fit --init_from CHECKPOINT`"
        )
    return "; ".join(ways)


def _found(folder: Path, names: list[str]) -> str:
    return f"; {folder} has {', '.join(sorted(names)[:5])}" if names else ""


def _leaves(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, data


def _short(path: KeyPath) -> str:
    """Return a key as the options spell it."""
    return ".".join(part for part in path if part not in ("init_args", "class_path"))
