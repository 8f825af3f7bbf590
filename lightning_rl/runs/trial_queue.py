"""Optuna's side of a sweep: the storage, what is proposed, and trials that are lost and found.

Several machines work on one sweep when they share its storage. A trial whose process was killed is
given back and continued from its newest checkpoint: at once by the machine that it ran on, after
`STALE_S` by another.
"""

from __future__ import annotations

import math
import re
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_rl.errors import ConfigError
from lightning_rl.runs.search_space import grid
from lightning_rl.runs.sweep import Outcome, Sweep, Trial, decode, encode, total_env_steps

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STALE_S = 600.0
"""A trial of another machine that has not been heard of for so long is taken over."""
MAX_RETRIES = 3
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def require_optuna() -> Any:
    """Return the module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("a sweep needs Optuna: pip install 'lightning-rl[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(sweep: Sweep) -> optuna.Study:
    """Return the sweep's study, made when it is new; a grid's points are put into it at once.

    Raises:
        ConfigError: The storage cannot be opened, or the sweep was begun with other settings.
    """
    optuna = require_optuna()
    known = _names_in(sweep)
    study = optuna.create_study(
        storage=_storage(sweep),
        study_name=sweep.name,
        direction="maximize",
        load_if_exists=True,
        pruner=_pruner(sweep),
    )
    settings = study.user_attrs.get("settings")
    if settings is not None and settings != sweep.settings:
        changed = sorted(k for k in sweep.settings if settings.get(k) != sweep.settings[k])
        raise ConfigError(
            f"the sweep {sweep.name!r} was begun with other settings (changed: "
            f"{', '.join(changed)}); give this one another name"
        )
    if settings is None:
        study.set_user_attr("settings", sweep.settings)
        if sweep.sampler == "grid" and sweep.name not in known:
            for point in grid(sweep.space):
                study.enqueue_trial({key: encode(value) for key, value in point.items()})
    return study  # type: ignore[no-any-return]


def _names_in(sweep: Sweep) -> list[str]:
    optuna = require_optuna()
    try:
        return [str(name) for name in optuna.get_all_study_names(_storage(sweep))]
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        if isinstance(error, ImportError):
            text = "its driver is missing: pip install psycopg2-binary for PostgreSQL"
        url = re.sub(r"(//[^:/@]*):[^@]*@", r"\1:***@", _url(sweep))  # hides a password
        raise ConfigError(f"storage {url}: cannot be opened: {text}") from error


def _url(sweep: Sweep) -> str:
    return sweep.storage or f"sqlite:///{sweep.folder.resolve() / 'sweep.db'}"


def _storage(sweep: Sweep) -> Any:
    optuna = require_optuna()
    url = _url(sweep)
    if "://" in url:
        options: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("sqlite"):
            from sqlalchemy.pool import NullPool

            # A pool would keep files open for as long as the process lives.
            options = {"connect_args": {"timeout": 60.0}, "poolclass": NullPool}
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    Path(url).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(url))


def _sampler(sweep: Sweep, number: int) -> Any:
    """Return the sampler of proposal `number`, seeded by it: a continued sweep repeats none."""
    samplers = require_optuna().samplers
    seed = int(np.random.SeedSequence([sweep.seed, number]).generate_state(1)[0])
    if sweep.sampler == "tpe":
        # Running trials count as bad ones, or parallel workers would all try the same place.
        return samplers.TPESampler(seed=seed, constant_liar=True)
    if sweep.sampler == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)


def _pruner(sweep: Sweep) -> Any:
    """Return the pruner; its resource is env steps (of all seeds, one behind the other)."""
    pruners = require_optuna().pruners
    budget = total_env_steps(sweep)
    first_rung = max(1, (budget or 0) // 9)
    if sweep.pruner == "none":
        return pruners.NopPruner()
    if budget is None:
        raise ConfigError(f"pruner {sweep.pruner}: expected a budget in model.total_env_steps")
    if sweep.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=budget // 5)
    if sweep.pruner == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=3)
    return pruners.HyperbandPruner(
        min_resource=first_rung, max_resource=budget * len(sweep.seeds), reduction_factor=3
    )


def distributions(sweep: Sweep) -> dict[str, Any]:
    """Return the space in Optuna's words."""
    kinds = require_optuna().distributions
    result: dict[str, Any] = {}
    for key, entry in sweep.space.items():
        if entry.kind == "choice":
            result[key] = kinds.CategoricalDistribution([encode(value) for value in entry.bounds])
        elif entry.kind.startswith("int"):
            lowest, highest = map(int, entry.bounds)
            result[key] = kinds.IntDistribution(lowest, highest, log="log" in entry.kind)
        else:
            low, high = map(float, entry.bounds)
            result[key] = kinds.FloatDistribution(low, high, log="log" in entry.kind)
    return result


@dataclass
class TrialQueue:
    """Hands out trials, and takes back what became of them.

    Args:
        sweep: The sweep.
        study: Its study.
    """

    sweep: Sweep
    study: optuna.Study
    _distributions: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._distributions = distributions(self.sweep)

    def next(self) -> Trial | None:
        """Return the next trial to run, or None while none is left."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        counted = [trial for trial in trials if not trial.user_attrs.get("lost")]
        waiting = any(trial.state is TrialState.WAITING for trial in counted)
        if not waiting and (self.sweep.sampler == "grid" or len(counted) >= self.sweep.num_trials):
            return None
        # What is tried again is no new proposal: a kill changes none of those that follow.
        proposals = sum("retry_of" not in trial.user_attrs for trial in trials)
        self.study.sampler = _sampler(self.sweep, proposals)
        trial = self.study.ask(self._distributions)
        folder = trial.user_attrs.get("folder", f"trial-{trial.number:04}")
        for key, value in (("folder", folder), ("host", socket.gethostname())):
            trial.set_user_attr(key, value)
        trial.set_user_attr("seen_at", time.time())
        parameters = {key: decode(value) for key, value in trial.params.items()}
        return Trial(trial.number, trial._trial_id, parameters, self.sweep.folder / folder)

    def finish(self, trial: Trial, exit_code: int) -> Outcome | None:
        """Take note of a trial whose process has ended; None when it is to be tried again."""
        outcome = Outcome.read(trial.folder)
        if outcome is None and not self._give_back(self._frozen(trial.number)):
            outcome = Outcome("failed", error_message=f"its process ended with {exit_code}")
        if outcome is not None:
            self._tell(trial.number, outcome)
        return outcome

    def take_over(self) -> int:
        """Give back trials whose process is gone; return how many. Call it before any is started.

        Those of this machine are: the caller holds the sweep's folder. Of another machine, those
        that it has not reported for `STALE_S`.
        """
        from optuna.trial import TrialState

        given_back = 0
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            here = trial.user_attrs.get("host") == socket.gethostname()
            if not here and time.time() - trial.user_attrs.get("seen_at", 0.0) < STALE_S:
                continue
            folder = self.sweep.folder / trial.user_attrs.get("folder", "")
            outcome = Outcome.read(folder) if "folder" in trial.user_attrs else None
            if outcome is not None:
                self._tell(trial.number, outcome)
            elif self._give_back(trial):
                given_back += 1
            else:
                self._tell(trial.number, Outcome("failed", error_message="killed too often"))
        return given_back

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _give_back(self, trial: FrozenTrial) -> bool:
        """Put a lost trial's configuration into the queue again; False after too many tries."""
        from optuna.trial import TrialState

        tries = int(trial.user_attrs.get("tries", 0)) + 1
        if tries > MAX_RETRIES:
            return False
        self.study._storage.set_trial_user_attr(trial._trial_id, "lost", True)
        self.study.tell(trial.number, state=TrialState.FAIL)
        kept = {"folder": trial.user_attrs["folder"], "retry_of": trial.number, "tries": tries}
        self.study.enqueue_trial(trial.params, user_attrs=kept)
        return True

    def _tell(self, number: int, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        identifier = self._frozen(number)._trial_id
        storage = self.study._storage
        storage.set_trial_user_attr(identifier, "env_steps", outcome.env_steps)
        if outcome.error_message:
            storage.set_trial_user_attr(identifier, "error_message", outcome.error_message)
        score = outcome.score
        if outcome.state == "complete" and score is not None and not math.isnan(score):
            self.study.tell(number, score)
        else:
            pruned = outcome.state == "pruned"
            self.study.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that came to an end, lost ones left out, in order."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not trial.user_attrs.get("lost")
    ]


def results(study: optuna.Study) -> list[dict[str, Any]]:
    """Return every ended trial as plain data, the best first."""
    rows = [
        {
            "number": trial.number,
            "state": STATES[trial.state.name],
            "score": trial.value if trial.state.name == "COMPLETE" else None,
            "parameters": {key: decode(value) for key, value in trial.params.items()},
            "env_steps": trial.user_attrs.get("env_steps", 0),
            "error_message": trial.user_attrs.get("error_message"),
            "folder": trial.user_attrs.get("folder"),
        }
        for trial in ended_trials(study)
    ]
    return sorted(
        rows, key=lambda row: -math.inf if row["score"] is None else row["score"], reverse=True
    )
