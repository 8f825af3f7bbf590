"""A sweep and its trials as data: what is searched, and what became of it.

    <root>/<name>/sweep.db                      the storage, unless another one is named
    <root>/<name>/trial-0007/seed-1/            run directory of a trial's seed
    <root>/<name>/results.json, best.yaml       all trials, and the best one's configuration

Who tries what, and when, is the business of `trial_queue.py`; what a trial trains that of
`cli/trials.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_rl.errors import check_choice
from lightning_rl.runs.plain_json import dumps, loads
from lightning_rl.runs.search_space import Distribution, Value
from lightning_rl.storage.sealed import atomic_write_text

SAMPLERS = ("tpe", "random", "grid", "cmaes")
PRUNERS = ("none", "median", "asha", "hyperband")
OBJECTIVES = ("best", "last")
OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class Sweep:
    """What is searched, and how.

    Attributes:
        name: Its name, also in the storage.
        folder: Where its runs and results are kept.
        space: Dotted path in the configuration to distribution.
        documents: Contents of configuration files that the values are laid over, first the weakest.
        num_trials: Trials in all, over all machines; a grid has as many as it has points.
        seeds: Seeds that every trial trains; their mean score counts.
        sampler: One of `SAMPLERS`.
        pruner: One of `PRUNERS`.
        objective: `best` evaluation of a run, or its `last` one.
        storage: URL of Optuna's storage, or the path of a journal file; None for `sweep.db`.
        seed: Seed of the sampler.
        workers: Trials at a time on this machine.
    """

    name: str
    folder: Path
    space: dict[str, Distribution]
    documents: list[dict[str, Any]]
    num_trials: int
    seeds: tuple[int, ...] = (1,)
    sampler: str = "tpe"
    pruner: str = "none"
    objective: str = "best"
    storage: str | None = None
    seed: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("pruner", self.pruner, PRUNERS)
        check_choice("objective", self.objective, OBJECTIVES)

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change between two calls, as plain data."""
        space = {key: [entry.kind, list(entry.bounds)] for key, entry in self.space.items()}
        content = {
            "space": space,
            "documents": self.documents,
            "seeds": list(self.seeds),
            "sampler": self.sampler,
            "objective": self.objective,
        }
        plain: dict[str, Any] = loads(dumps(content))
        return plain


@dataclass(frozen=True)
class Trial:
    """One configuration to train.

    Attributes:
        number: Its number in the storage.
        trial_id: Its key in the storage.
        parameters: Dotted path to value.
        folder: Where its runs are kept; a retried trial keeps the folder of the first try.
    """

    number: int
    trial_id: int
    parameters: dict[str, Value]
    folder: Path


@dataclass
class Outcome:
    """What became of a trial.

    Attributes:
        state: `complete`, `pruned` or `failed`.
        score: Mean score of its seeds; None unless complete.
        env_steps: Env steps that it has used.
        error_message: One line when it failed.
    """

    state: str
    score: float | None = None
    env_steps: int = 0
    error_message: str | None = None

    def store(self, folder: Path) -> None:
        """Write it into the trial's folder."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write_text(folder / OUTCOME_FILE, dumps(vars(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Return what the folder holds; None while the trial has not come to its end."""
        try:
            return cls(**loads((folder / OUTCOME_FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def total_env_steps(sweep: Sweep) -> int | None:
    """Return the budget of one run, as the documents give it."""
    budget = None
    for document in sweep.documents:
        arguments = (document.get("model") or {}).get("init_args") or {}
        budget = arguments.get("total_env_steps", budget)
    return None if budget is None else int(budget)


def encode(value: Value) -> Any:
    """Return a value as Optuna can store it: lists as JSON text behind a mark."""
    return f"json:{json.dumps(value)}" if isinstance(value, (list, tuple, dict)) else value


def decode(value: Any) -> Value:
    """Return the value of `encode`."""
    marked = isinstance(value, str) and value.startswith("json:")
    return json.loads(value.removeprefix("json:")) if marked else value
