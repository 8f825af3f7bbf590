"""`lightning-rl sweep`: plan, processes, results, and the same sweep for W&B."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lightning_rl.cli.arguments import Request
from lightning_rl.cli.shared import make_folder, outliving_the_reader, say
from lightning_rl.cli.sweep_file import plan_sweep
from lightning_rl.cli.yaml_check import parse_document, parse_scalar
from lightning_rl.errors import ConfigError, Interrupted
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.plain_json import dumps
from lightning_rl.runs.search_space import Distribution
from lightning_rl.runs.sweep import Sweep, Trial
from lightning_rl.runs.trial_queue import (
    TrialQueue,
    ended_trials,
    open_study,
    require_optuna,
    results,
)
from lightning_rl.runs.workers import Workers
from lightning_rl.storage.sealed import atomic_write_text

OPTIONS = (
    *("name", "sampler", "pruner", "trials", "seeds", "workers", "storage", "seed", "objective"),
    *("output_dir", "log_level"),
)
"""Keys of a sweep that are options too."""
SHOWN_TRIALS = 10
WANDB_METHODS = {"grid": "grid", "random": "random", "tpe": "bayes", "cmaes": "bayes"}


def sweep(request: Request) -> int:
    """Run the trials that a sweep still lacks, or write it as a W&B sweep."""
    if request.positionals:
        raise ConfigError("sweep: expected options only, as in `lightning-rl sweep --config FILE`")
    options = {key: _value(key, request.own[key]) for key in OPTIONS if key in request.own}
    planned, base = plan_sweep(request.own.get("config", []), request.own.get("space", []), options)
    if "export_wandb" in request.own:
        path = Path(request.own["export_wandb"])
        text = yaml.safe_dump(wandb_sweep(planned, base), sort_keys=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, text)
        except OSError as error:
            raise ConfigError(
                f"--export_wandb {path}: cannot be written: {error.strerror}"
            ) from error
        return say(f"W&B sweep: {path}; start it with `wandb sweep {path}`")
    if request.own.get("dry_run"):
        return show_plan(planned)
    with outliving_the_reader():
        return run_sweep(planned)


def run_sweep(planned: Sweep) -> int:
    """Run what is missing, write and show the results; return the exit code.

    Raises:
        Interrupted: A signal asked to stop; what was running has saved its state.
    """
    require_optuna()
    make_folder(planned.folder)
    with RunDirectory.claim(planned.folder, resume=True):
        study = open_study(planned)
        queue = TrialQueue(planned, study)
        taken_over = queue.take_over()
        if taken_over:
            say(f"{taken_over} trials were cut; they are continued")
        stopped_by = _run_trials(planned, queue)
        rows = results(study)
        atomic_write_text(planned.folder / "results.json", dumps(rows) + "\n")
    show_trials(rows)
    if stopped_by is not None:
        say(f"stopped by {stopped_by.name}; the same command continues where it stopped")
        raise Interrupted(stopped_by)
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        say(f"no trial has come to its end; see {planned.folder}")
        return 1
    path = write_best(planned, complete[0])
    from lightning_rl.runs.sweep_plots import draw

    for picture in draw(planned.folder, study):
        say(f"picture: {picture}")
    say(f"results: {planned.folder / 'results.json'}")
    say(f"best configuration: {path}; run it with `lightning-rl fit --config {path}`")
    return 0


def _run_trials(planned: Sweep, queue: TrialQueue) -> signal.Signals | None:
    """Run trials until none is left; return the signal that stopped it, if one did."""
    from lightning_rl.cli.trials import work  # with everything that the processes need

    def output(trial: Trial) -> Path:
        return trial.folder / "output.log"

    workers: Workers[Trial] = Workers(partial(work, planned), planned.workers, output)
    for trial, exit_code in workers.run(queue.next):
        if workers.stopped_by is not None and exit_code != 0:
            continue  # saved; the next call takes it over
        outcome = queue.finish(trial, exit_code)
        if outcome is None:
            say(f"trial {trial.number}: its process ended with {exit_code}; it is tried again")
            continue
        score = "" if outcome.score is None else f", score {outcome.score:.2f}"
        reason = f": {outcome.error_message}" if outcome.error_message else ""
        done = len(ended_trials(queue.study))
        say(f"[{done}/{planned.num_trials}] trial {trial.number}: {outcome.state}{score}{reason}")
    return workers.stopped_by


def write_best(planned: Sweep, row: Mapping[str, Any]) -> Path:
    """Write the best trial's configuration, which `fit --config` runs again.

    Args:
        planned: The sweep.
        row: The best row of `results`.
    """
    content = parse_document(_configuration(planned, row), "config.yaml").data
    content["run"] = {"experiment": f"{planned.name}-best"}
    header = f"# Trial {row['number']} of the sweep {planned.name}: score {row['score']:.4g}\n"
    path = planned.folder / "best.yaml"
    atomic_write_text(path, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def _configuration(planned: Sweep, row: Mapping[str, Any]) -> str:
    """Return a trial's configuration: as its run has it, or made again if it ran elsewhere."""
    from lightning_rl.cli.parser import RunCLI, resolved_config_yaml
    from lightning_rl.cli.trials import configuration, seed_folder

    trial = Trial(row["number"], 0, row["parameters"], planned.folder / row["folder"])
    file = seed_folder(trial, planned.seeds[0]) / "config.yaml"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    documents, options = configuration(planned, trial, planned.seeds[0])
    return resolved_config_yaml(RunCLI(documents, options, build=False))


def show_trials(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the best trials."""
    from rich.console import Console
    from rich.table import Table

    keys = list(dict.fromkeys(key for row in rows for key in row["parameters"]))
    table = Table(title=f"Best of {len(rows)} trials")
    for column in ("trial", "state", "score", "env steps"):
        table.add_column(column, justify="right")
    for key in keys:
        table.add_column(key.removeprefix("model."))
    for row in rows[:SHOWN_TRIALS]:
        score = "-" if row["score"] is None else f"{row['score']:.2f}"
        values = [_shown(row["parameters"].get(key)) for key in keys]
        table.add_row(str(row["number"]), row["state"], score, f"{row['env_steps']:,}", *values)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def show_plan(planned: Sweep) -> int:
    """Say what a sweep would do."""
    say(
        f"{planned.name}: {planned.num_trials} trials by {planned.sampler}, "
        f"{len(planned.seeds)} seed{'s' * (len(planned.seeds) > 1)} each"
    )
    for key, distribution in planned.space.items():
        say(f"  {key}: {distribution.kind} {list(distribution.bounds)}")
    return say(f"folder: {planned.folder}, workers: {planned.workers}, pruner: {planned.pruner}")


def wandb_sweep(planned: Sweep, base: Sequence[str]) -> dict[str, Any]:
    """Return the sweep as W&B's configuration; its agents call `lightning-rl fit --wandb`.

    Args:
        planned: The sweep.
        base: Names of the run configurations that its values are laid over.
    """
    configs = [word for name in base for word in ("--config", name)]
    fixed = [f"--{key}={value}" for key, value in _flat(planned.documents[-1])]
    content: dict[str, Any] = {
        "name": planned.name,
        "method": WANDB_METHODS[planned.sampler],
        "metric": {"name": "eval/mean_reward", "goal": "maximize"},
        "parameters": {key: _wandb_parameter(entry) for key, entry in planned.space.items()},
        "run_cap": planned.num_trials,
        "command": ["${env}", "lightning-rl", "fit", *configs, *fixed, "--wandb", "${args}"],
    }
    if planned.pruner in ("asha", "hyperband"):
        content["early_terminate"] = {"type": "hyperband", "min_iter": 3}
    return content


def _wandb_parameter(entry: Distribution) -> dict[str, Any]:
    if entry.kind == "choice":
        return {"values": list(entry.bounds)}
    low, high = entry.bounds
    names = {
        "uniform": "uniform",
        "log_uniform": "log_uniform_values",
        "int_uniform": "int_uniform",
        # W&B has no such distribution over whole numbers; this one is rounded.
        "int_log_uniform": "q_log_uniform_values",
    }
    return {"distribution": names[entry.kind], "min": low, "max": high}


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested settings as options."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}".replace("model.init_args.", "model.")
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((name.replace("model.class_path", "model"), dumps(value).strip('"')))
    return found


def _value(key: str, text: str) -> Any:
    """Read an option; seeds may be a list with commas."""
    if key == "seeds" and "," in text:
        return [parse_scalar(word.strip()) for word in text.strip("[]").split(",")]
    return text if key in ("name", "storage", "output_dir") else parse_scalar(text)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
