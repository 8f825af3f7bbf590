"""`lightning-rl study`, and the runs of `fit --run.seeds N`: plan, processes, results."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_rl.cli.arguments import BUDGETS, STUDY_KEYS, Request
from lightning_rl.cli.configs import find_config
from lightning_rl.cli.report import compare_with, draw, shared_pairs, show_table, summarise
from lightning_rl.cli.shared import make_folder, outliving_the_reader, say
from lightning_rl.cli.study_file import Plan, plan_study
from lightning_rl.cli.yaml_check import parse_document, read_document
from lightning_rl.errors import ConfigError, Interrupted
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.plain_json import dumps
from lightning_rl.runs.statistics import check_installed
from lightning_rl.runs.study import (
    OUTPUT_FILE,
    Cell,
    CellResult,
    State,
    check_unchanged,
    outcome,
    read_results,
    write_results,
)
from lightning_rl.runs.workers import Workers
from lightning_rl.storage.sealed import atomic_write_text

SUMMARY_JSON = "summary.json"


def study(request: Request) -> int:
    """Run the cells of a study that have no result yet."""
    configs = request.own.get("config", [])
    if request.positionals or len(configs) != 1:
        raise ConfigError("study: expected one file, as in `lightning-rl study --config FILE`")
    document = read_document(*find_config(configs[0]))
    given = {key: _value(key, request.own[key]) for key in STUDY_KEYS if key in request.own}
    options = {key.replace("run.root", "output_dir"): value for key, value in given.items()}
    plan = plan_study(document, options)
    check_unchanged(plan.cells)
    if request.own.get("dry_run"):
        return show_plan(plan)
    with outliving_the_reader():
        return run_plan(plan)


def run_plan(plan: Plan) -> int:
    """Run what is missing, write and show the results; return the exit code.

    Raises:
        Interrupted: A signal asked to stop; what was running has saved its state.
    """
    reference = None
    if plan.reference is not None:  # refused now, and not after hours of training
        reference = read_results(plan.reference)
        check_installed()
        shared_pairs({(cell.environment, cell.algorithm): None for cell in plan.cells}, reference)
    make_folder(plan.folder)
    if (plan.folder / "run.json").exists():
        raise ConfigError(f"{plan.folder} holds a run; give the study another name")
    with RunDirectory.claim(plan.folder, resume=True):
        stopped_by = _run_cells(plan)
        results = [outcome(cell) for cell in plan.cells]
        write_results(plan.folder, results)
        summaries = summarise(results)
        atomic_write_text(plan.folder / SUMMARY_JSON, dumps(summaries) + "\n")
    show_table(summaries)
    if stopped_by is not None:
        say(f"stopped by {stopped_by.name}; {plan.again} continues where it stopped")
        raise Interrupted(stopped_by)
    draw(plan.folder, results)
    say(f"results: {plan.folder / 'results.json'}")
    failed = [result for result in results if not result.success]
    for result in failed:
        where = f"{result.algorithm} on {result.environment}, seed {result.seed}"
        say(f"failed: {where}: {result.error_message} ({result.directory}/training.log)")
    regressions = compare_with(results, reference) if reference is not None else []
    return 1 if failed or regressions else 0


def _run_cells(plan: Plan) -> signal.Signals | None:
    """Run the cells without a result, and write the results after each; return what stopped it."""
    waiting = [cell for cell in plan.cells if cell.state() is not State.DONE]
    done = len(plan.cells) - len(waiting)
    if done:
        say(f"{done} of {len(plan.cells)} cells are done already")
    if not waiting:
        return None
    from lightning_rl.cli.cells import lost, work  # with everything that the processes need

    workers = Workers(work, plan.workers, lambda cell: cell.directory / OUTPUT_FILE)
    # First one seed of everything: a study that is cut early has something to say on each pair.
    order = sorted(waiting, key=lambda cell: [c.seed for c in plan.cells].index(cell.seed))
    for cell in order:
        cell.store(None)  # an earlier failure is not this attempt's result
    for cell, code in workers.run(order):
        result = cell.stored_result()
        if result is None and workers.stopped_by is None:
            result = lost(cell, _reason(code))
        if result is not None:
            done += 1
            say(f"[{done}/{len(plan.cells)}] {cell.title}: {_brief(result)}")
            write_results(plan.folder, [outcome(other) for other in plan.cells])
    return workers.stopped_by


def show_plan(plan: Plan) -> int:
    """Show the cells, where each stands, and how long the rest will take."""
    states = {cell.directory: cell.state() for cell in plan.cells}
    left = [cell for cell in plan.cells if states[cell.directory] is not State.DONE]
    seconds, failures = _estimates(plan.cells, left)
    for cell in plan.cells:
        state = states[cell.directory]
        known = seconds.get(cell.directory)
        estimate = f", about {duration(known)}" if known is not None else ""
        failure = failures.get((cell.algorithm, cell.environment))
        if failure and state is not State.DONE:
            estimate = f", but fails: {failure}"
        say(f"{cell.directory}  {cell.title}: {state.value}{estimate}")
    say(f"{len(plan.cells)} cells, {len(left)} to run, {plan.workers} at a time")
    unknown = [cell for cell in left if cell.directory not in seconds]
    if left and len(unknown) < len(left):
        share = min(plan.workers, len(left))
        total = max(sum(seconds.values()) / share, *seconds.values())
        more = f", and {len(unknown)} cells of unknown length" if unknown else ""
        say(f"estimated time: {duration(total)}{more}")
    elif left:
        say("estimated time: unknown, as no cell could be tried")
    return 0


def _estimates(
    cells: Sequence[Cell], left: Sequence[Cell]
) -> tuple[dict[Path, float], dict[tuple[str, str], str]]:
    """Return seconds of training by directory, from finished cells or a moment of training.

    And why a pair of algorithm and environment cannot be trained, as far as a moment shows.
    """
    rates = {
        (cell.algorithm, cell.environment): rate
        for cell in cells
        if (result := cell.stored_result()) and (rate := _rate(cell, result.metrics))
    }
    unknown = {(cell.algorithm, cell.environment): cell for cell in reversed(left)}
    probed = [cell for pair, cell in unknown.items() if pair not in rates]
    if probed:
        say(f"measuring the speed of {len(probed)} cells for a moment ...")
    measured, failures = _probe(probed)
    rates.update(measured)
    found = {}
    for cell in left:
        rate = rates.get((cell.algorithm, cell.environment))
        if rate:
            found[cell.directory] = _budget(cell)[1] / rate
    return found, failures


def _probe(
    cells: Sequence[Cell],
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], str]]:
    """Train each cell for a moment; return units of budget per second, or the reason for none."""
    rates: dict[tuple[str, str], float] = {}
    failures: dict[tuple[str, str], str] = {}
    if not cells:
        return rates, failures
    from lightning_rl.cli.cells import probe

    with tempfile.TemporaryDirectory() as folder:
        moved = {}
        for number, cell in enumerate(cells):
            place = Path(folder) / "probe" / str(number)
            run = {"root": folder, "experiment": "probe", "name": str(number)}
            documents = [*cell.documents, {"run": run}]
            moved[place] = replace(cell, directory=place, documents=documents)
        workers = Workers(probe, 1, lambda cell: Path(folder) / "output.log")
        for cell, _code in workers.run(list(moved.values())):
            metrics = _json(cell.run.metrics_json).get("training", {})
            rate = _rate(cell, metrics)
            if rate:
                rates[cell.algorithm, cell.environment] = rate
            elif failed := cell.stored_result():
                failures[cell.algorithm, cell.environment] = str(failed.error_message)
        if workers.stopped_by is not None:
            raise Interrupted(workers.stopped_by)
    return rates, failures


def _rate(cell: Cell, metrics: dict[str, Any]) -> float | None:
    """Return env steps or episodes per second, whichever the cell's budget counts."""
    key = {"total_env_steps": "env_steps", "total_episodes": "episodes_completed"}[_budget(cell)[0]]
    seconds, amount = metrics.get("wall_time_s"), metrics.get(key)
    return amount / seconds if seconds and amount else None


def _budget(cell: Cell) -> tuple[str, int]:
    arguments = cell.documents[1]["model"]["init_args"]
    return next((key, arguments[key]) for key in BUDGETS if arguments.get(key) is not None)


def _brief(result: CellResult) -> str:
    if not result.success:
        return f"failed: {result.error_message}"
    seconds = duration(result.metrics.get("wall_time_s", 0.0))
    spread = f" ± {result.execution.std_reward:.2f}" if result.execution else ""
    return f"{result.score:.2f}{spread} (training {seconds})"


def _reason(code: int) -> str:
    if code >= 0:
        stops = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}
        if code in stops:
            return f"stopped by {signal.Signals(stops[code]).name} after saving its state"
        return f"its process ended with exit code {code} and no result"
    name = signal.Signals(-code).name
    hint = " (the kernel does that when memory runs out)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


def duration(seconds: float) -> str:
    """Return a time for people: `0.4 s`, `12 s`, `3 min`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def workers_asked(request: Request) -> int:
    """Return what `--workers` says, 1 without it.

    Raises:
        ConfigError: It is no whole number of at least 1.
    """
    value = _value("workers", request.own.get("workers", "1"))
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"--workers: expected a whole number of at least 1, got {value!r}")
    return value


def _value(key: str, text: str) -> Any:
    """Return an option's value as the study file would hold it."""
    if key in ("name", "run.root", "output_dir", "reference", "log_level"):
        return text
    listed = key == "seeds" and "," in text and not text.startswith("[")
    try:
        return parse_document(f"value: {f'[{text}]' if listed else text}", key).data["value"]
    except ConfigError as error:
        raise ConfigError(f"--{key}: expected a number, got {text!r}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
