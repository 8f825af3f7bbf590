"""A study: environments × algorithms × seeds. Its cells, what became of them, and its files.

What a cell trains is decided by whoever makes it; processes are the business of `workers.py`,
pictures of `plots.py`.

    <root>/<name>/<cell>/          run directory of a cell, and `cell.json`: its settings and result
    <root>/<name>/results.json     a list, one object per cell (`CellResult`)
    <root>/<name>/results.csv      the same, one line per cell
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from lightning_rl.errors import ConfigError
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.plain_json import dumps, loads
from lightning_rl.runs.results import ExecutionConfig, ExecutionResult, Json
from lightning_rl.storage.sealed import atomic_write_text

CELL_FILE = "cell.json"
OUTPUT_FILE = "output.log"
RESULTS_JSON, RESULTS_CSV = "results.json", "results.csv"


@dataclass
class CellResult(Json):
    """What became of a cell.

    Attributes:
        environment: Id of the environment, or the name that the study gives it.
        algorithm: Name of the algorithm, or the name that the study gives the model.
        seed: Seed of the run.
        hyperparameters: The algorithm's constructor arguments as primitives.
        success: Whether it was trained and executed without an error.
        error_message: One line when it was not.
        metrics: The `training` part of the run's `metrics.json`.
        execution: How the trained policy did; None when there is none, or none was asked for.
        directory: The run directory.
    """

    environment: str
    algorithm: str
    seed: int
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    success: bool = False
    error_message: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    execution: ExecutionResult | None = None
    directory: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.execution, dict):  # as `to_dict` gives it
            self.execution = ExecutionResult.from_dict(self.execution)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, with the computed ones of the execution."""
        execution = self.execution.to_dict() if self.execution else None
        return {**super().to_dict(), "execution": execution}

    @property
    def score(self) -> float:
        """Mean return of the execution, or of the training where nothing was executed."""
        if self.execution is not None:
            return self.execution.mean_reward
        return float(self.metrics.get("mean_reward", math.nan))


class State(str, Enum):
    """Where a cell stands."""

    NEW = "to run"
    CUT = "to resume"
    FAILED = "failed, to run again"
    DONE = "done"


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        environment: What the results call the environment.
        algorithm: What they call the algorithm.
        seed: Seed of the run.
        directory: Its run directory.
        documents: Contents of configuration files, first the weakest.
        options: Command-line options laid over them, as `--key=value`.
        execution: How to execute the trained policy; None not at all.
        checkpoint: Which weights to execute: `best`, or `last` for those at the end of training.
    """

    environment: str
    algorithm: str
    seed: int
    directory: Path
    documents: list[dict[str, Any]]
    options: list[str] = field(default_factory=list)
    execution: ExecutionConfig | None = None
    checkpoint: str = "best"

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.algorithm} on {self.environment}, seed {self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the cell's numbers, as JSON gives it back; not where it lies."""
        documents = [{k: v for k, v in part.items() if k != "run"} for part in self.documents]
        content = {
            "documents": documents,
            "options": self.options,
            "execution": asdict(self.execution) if self.execution else None,
            "checkpoint": self.checkpoint,
        }
        plain: dict[str, Any] = loads(dumps(content))
        return plain

    @property
    def run(self) -> RunDirectory:
        """The files of its run."""
        return RunDirectory(self.directory)

    def result(self, **values: Any) -> CellResult:
        """Return a result of this cell."""
        place = str(self.directory)
        return CellResult(self.environment, self.algorithm, self.seed, directory=place, **values)

    def stored_result(self) -> CellResult | None:
        """Return the stored result; None when the cell has never come to an end."""
        content = self._content().get("result")
        return CellResult.from_dict(content) if content else None

    def changed(self) -> bool:
        """Return whether there is something of this cell that was made with other settings."""
        content = self._content()
        done = (content.get("result") or {}).get("success") or self.run.has_checkpoint()
        return bool(done and content and content["settings"] != self.settings)

    def state(self) -> State:
        """Return where the cell stands, from its files."""
        result = self.stored_result()
        if result is not None:
            return State.DONE if result.success else State.FAILED
        return State.CUT if self.run.has_checkpoint() else State.NEW

    def store(self, result: CellResult | None) -> None:
        """Write settings and result; None while there is none."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"settings": self.settings, "result": result.to_dict() if result else None}
        atomic_write_text(self.directory / CELL_FILE, dumps(content) + "\n")

    def _content(self) -> dict[str, Any]:
        try:
            content = loads((self.directory / CELL_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.directory / CELL_FILE} cannot be read ({error}); remove it, and the cell "
                "is run again from its newest checkpoint"
            ) from error
        return content if isinstance(content, dict) else {}


def folder_name(algorithm: str, environment: str, seed: int) -> str:
    """Return the folder of a cell: one path component, equal for equal names."""
    names = [re.sub(r"[^\w.=+-]+", "-", name).strip("-.") for name in (algorithm, environment)]
    return f"{'-'.join(names).lower()}-seed{seed}"


def check_folders(cells: Iterable[Cell]) -> None:
    """Refuse two cells in one folder.

    Raises:
        ConfigError: Two names differ only in what a folder's name cannot hold.
    """
    seen: dict[Path, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.directory, cell)
        if other is not cell:
            raise ConfigError(
                f"{cell.title} and {other.title} would share the folder {cell.directory.name}; "
                "give one of them another name"
            )


def check_unchanged(cells: Iterable[Cell]) -> None:
    """Refuse cells that were run with other settings: their results would be mixed up.

    Raises:
        ConfigError: There is one; what differs is named.
    """
    for cell in cells:
        if cell.changed():
            before = cell._content()["settings"]
            differences = list(_differences(before, cell.settings))
            more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise ConfigError(
                f"{cell.directory} was run with other settings ({'; '.join(differences[:3])}"
                f"{more}); give the study another name, or remove that folder"
            )


def _differences(old: Any, new: Any, path: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for before, after in zip(old, new, strict=True):
            yield from _differences(before, after, path)
    elif old != new:
        yield f"{path.removeprefix('documents.')}: {old!r} -> {new!r}"


def outcome(cell: Cell) -> CellResult:
    """Return a cell's result, or one that says why there is none."""
    result = cell.stored_result()
    if result is not None:
        return result
    state = cell.state()
    reason = "cut before its end" if state is State.CUT else "not run yet"
    return cell.result(error_message=f"{reason}; run the study again to continue")


def write_results(folder: Path, results: Sequence[CellResult]) -> None:
    """Write `results.json` and `results.csv`; a reader finds the whole file or none."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = dumps([result.to_dict() for result in results])
    atomic_write_text(folder / RESULTS_JSON, text + "\n")
    atomic_write_text(folder / RESULTS_CSV, _csv(results))


def read_results(path: Path) -> list[CellResult]:
    """Return the results that a `results.json` holds.

    Raises:
        ConfigError: It cannot be read or is no such file.
    """
    try:
        content = loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: expected the results.json of a study, got: {error}") from error
    try:
        return [CellResult.from_dict(entry) for entry in content]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: expected a list with one object per cell") from error


def _csv(results: Sequence[CellResult]) -> str:
    rows = [_row(result) for result in results]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(result: CellResult) -> dict[str, Any]:
    """Return a result as one flat line, without lists."""
    row: dict[str, Any] = {
        "environment": result.environment,
        "algorithm": result.algorithm,
        "seed": result.seed,
        "success": result.success,
        "error_message": result.error_message or "",
        "score": result.score,
    }
    parts = {"training": result.metrics, "execution": {}}
    if result.execution is not None:
        parts["execution"] = result.execution.to_dict()
    for part, values in parts.items():
        scalars = {k: v for k, v in values.items() if isinstance(v, (int, float, str, type(None)))}
        row.update({f"{part}_{key}": value for key, value in scalars.items()})
    return {**row, "directory": result.directory}
