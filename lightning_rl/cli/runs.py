"""`lightning-rl runs`: what there is, how it went, side by side, and away with it."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from lightning_rl.cli.arguments import Request
from lightning_rl.cli.shared import say
from lightning_rl.cli.tables import printable, say_json, seconds, show_table
from lightning_rl.cli.yaml_check import parse_scalar, read_document
from lightning_rl.errors import ConfigError, check_choice, did_you_mean
from lightning_rl.runs.catalog import (
    STATUSES,
    RunSummary,
    age_s,
    find_run,
    find_runs,
    is_locked,
    read_json,
    remove_run,
    size_bytes,
    summarize,
)

SORT_KEYS = ("created", "best_reward", "last_reward", "env_steps", "wall_time_s", "directory")
QUERY_LIMIT = 1_000
SOURCES = ("log", "episode")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_HIDDEN = ("run.root", "run.experiment", "run.name", "run.new_version", "run.description")


def runs(request: Request) -> int:
    """Do what the first word says."""
    action, *names = request.positionals or ["list"]
    if action not in ACTIONS:
        hint = did_you_mean(action, ACTIONS) or f"; expected one of {', '.join(ACTIONS)}"
        raise ConfigError(f"runs: unknown action {action!r}{hint}")
    function, allowed = ACTIONS[action]
    for option in request.own:
        if option not in (*allowed, "root", "json", "help", "trust"):
            owners = ", ".join(name for name, (_, own) in ACTIONS.items() if option in own)
            raise ConfigError(f"--{option} is an option of runs {owners}, not of runs {action}")
    return function(request, names)


def _list(request: Request, names: list[str]) -> int:
    """One line per run, newest last."""
    if len(names) > 1:
        raise ConfigError(f"runs list: expected one folder, got {len(names)}")
    root = Path(names[0]) if names else _root(request)
    key = request.own.get("sort", "created")
    check_choice("--sort", key, SORT_KEYS)
    found = [run for run in map(summarize, find_runs(root)) if _is_wanted(request, run)]
    found.sort(key=lambda run: ((value := getattr(run, key)) is not None, value))
    found = found[-_number(request, "limit", len(found) or 1) :]
    if request.own.get("json"):
        return say_json([run.to_dict() for run in found])
    if not found:
        return say(f"no runs in {printable(root)}")
    columns = ["run", "status", "algorithm", "environment", "seed", "env steps", "of"]
    columns += ["best eval", "at", "last eval", "training", "time", "created"]
    show_table(columns, [_row(run, root) for run in found])
    for run in found:
        if run.error:
            say(f"  {printable(_short(run, root))}: {printable(run.error)}")
    return 0


def _row(run: RunSummary, root: Path) -> list[Any]:
    created = (run.created or "-")[:16].replace("T", " ")
    return [
        *(_short(run, root), run.status, run.algorithm, run.environment, str(run.seed)),
        *(run.env_steps, run.budget, run.best_reward, run.best_env_steps, run.last_reward),
        *(run.training_reward, seconds(run.wall_time_s), created),
    ]


def _show(request: Request, names: list[str]) -> int:
    """Everything about one run."""
    directory = _one(request, names, "show")
    summary = summarize(directory)
    record = _read(directory / "run.json")
    metrics = _read(directory / "metrics.json")
    files = {
        folder: sorted(path.name for path in (directory / folder).glob("*") if path.is_file())
        for folder in ("checkpoints", "videos", "replays")
    }
    results = _read(directory / "results.json")
    if request.own.get("json"):
        content = {"summary": summary.to_dict(), "run": record, "metrics": metrics}
        return say_json({**content, "results": results or None, "files": files})
    facts = {**summary.to_dict(), "size": f"{size_bytes(directory) / 1e6:,.1f} MB"}
    for name in ("versions", "hardware"):
        part = record.get(name)
        facts[name] = ", ".join(f"{k} {v}" for k, v in part.items()) if part else None
    facts["env_snapshot_level"] = record.get("env_snapshot_level")
    facts["command"] = " ".join(map(str, record.get("command") or []))
    facts["checkpoints"] = files["checkpoints"]
    facts |= {f"{name}": f"{len(files[name])} files" for name in ("videos", "replays")}
    show_table(["", ""], [[key, value] for key, value in facts.items()])
    final = metrics.get("final")
    if isinstance(final, dict) and final:
        show_table(["metric", "last value"], sorted(final.items()))
    if results:
        shown = {k: v for k, v in results.items() if isinstance(v, (int, float))}
        show_table(["test", ""], shown.items())
    return 0


def _compare(request: Request, names: list[str]) -> int:
    """Where configurations differ, and how the runs did."""
    if len(names) < 2:
        raise ConfigError("runs compare: expected at least two runs, as in `runs compare a b`")
    directories = [find_run(name, _root(request)) for name in names]
    settings = [_settings(directory) for directory in directories]
    keys = list(dict.fromkeys(key for part in settings for key in part))
    differing = [k for k in keys if len({repr(part.get(k)) for part in settings}) > 1]
    summaries = [summarize(directory) for directory in directories]
    outcomes = ["status", "env_steps", "best_reward", "best_env_steps", "last_reward"]
    outcomes += ["training_reward", "episodes", "wall_time_s"]
    rows = {name: [getattr(run, name) for run in summaries] for name in outcomes}
    finals = [_final(directory) for directory in directories]
    for tag in request.own.get("metric", []):
        if known := {name for part in finals for name in part}:
            check_choice("--metric", tag, sorted(known))
        rows[tag] = [part.get(tag) for part in finals]
    different = {key: [part.get(key) for part in settings] for key in differing}
    if request.own.get("json"):
        listed = [str(directory) for directory in directories]
        return say_json({"runs": listed, "settings": different, "outcomes": rows})
    short = [directory.name for directory in directories]
    labels = short if len(set(short)) == len(short) else directories
    columns = ["", *map(printable, labels)]
    show_table(columns, [[key, *values] for key, values in different.items()], "settings")
    show_table(columns, [[key, *values] for key, values in rows.items()], "outcomes")
    return 0


def _query(request: Request, names: list[str]) -> int:
    """Rows of metrics.db, by filters or by SQL."""
    directory = _one(request, names, "query")
    file = directory / "metrics.db"
    as_json = bool(request.own.get("json"))
    # A program gets everything unless it asks for less; a reader is told what is left out.
    limit = _number(request, "limit", sys.maxsize if as_json else QUERY_LIMIT)
    try:
        rows, left_out = (_by_sql if "sql" in request.own else _by_filters)(request, file, limit)
    except FileNotFoundError:
        raise ConfigError(f"{directory} has no metrics.db") from None
    except (sqlite3.Error, sqlite3.Warning, OSError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    if as_json:
        return say_json(rows)
    if not rows:
        return say("no rows")
    show_table([printable(name) for name in rows[0]], [list(row.values()) for row in rows])
    if left_out:
        say(f"{left_out} are shown; --limit N shows more, --json all")
    return 0


def _by_sql(request: Request, file: Path, limit: int) -> tuple[list[dict[str, Any]], str]:
    """Return the first rows of the user's query, and what to say where there are more."""
    from lightning_rl.loggers.database import open_read_only

    with open_read_only(file) as connection:
        connection.execute("PRAGMA trusted_schema = 0")  # of a file from elsewhere
        connection.set_authorizer(_may_read)
        cursor = connection.execute(request.own["sql"])
        columns = _distinct([column[0] for column in cursor.description or []])
        rows = [dict(zip(columns, row, strict=True)) for row in islice(cursor, limit)]
        return rows, f"only the first {limit:,} rows" if cursor.fetchone() else ""


def _by_filters(request: Request, file: Path, limit: int) -> tuple[list[dict[str, Any]], str]:
    """Return the last rows that the options choose, and what to say where there are more."""
    from lightning_rl.loggers.database import metric_names, query_metrics

    own, tags = request.own, request.own.get("metric", [])
    if len(tags) > 1:
        raise ConfigError(f"runs query: expected --metric once, got {' and '.join(tags)}")
    check_choice("--source", own.get("source", "log"), SOURCES)
    metric, agent = tags[0] if tags else None, own.get("agent_id")
    low, high = (_optional(request, name) for name in ("min_episode", "max_episode"))
    found = query_metrics(file, agent, metric, low, high, own.get("source"))
    pairs = metric_names(file) if not found else []
    if pairs and metric is not None:
        check_choice("--metric", metric, sorted({name for name, _ in pairs}))
    if pairs and agent is not None:
        check_choice("--agent_id", agent, sorted({name for _, name in pairs}))
    rows = found[-limit:] if own.get("json") else [_readable(row) for row in found[-limit:]]
    more = len(found) > len(rows)
    return rows, f"only the last {len(rows):,} of {len(found):,} rows" if more else ""


def _distinct(names: list[str]) -> list[str]:
    """Return names with a number behind those that have been there before, as in a join."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        found.append(next(new for new in chain([name], numbered) if new not in found))
    return found


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of metrics with the UTC time at which it was written, instead of seconds."""
    moment = datetime.fromtimestamp(row["wall_time"], timezone.utc)
    return {**row, "wall_time": f"{moment:%Y-%m-%d %H:%M:%S}"}


def _prune(request: Request, names: list[str]) -> int:
    """Remove runs; those that are running stay."""
    root = _root(request)
    if not names and not {"status", "older_than"} & request.own.keys():
        raise ConfigError("runs prune: expected runs, --status failed,killed or --older_than 30d")
    chosen = _to_remove(request, names, root)
    if not chosen:
        return say("nothing to remove")
    sizes = [size_bytes(Path(run.directory)) for run in chosen]
    for run, size in zip(chosen, sizes, strict=True):
        say(f"{printable(run.directory)}  {run.status}  {size / 1e6:,.1f} MB")
    question = f"remove {len(chosen)} runs with all their files, {sum(sizes) / 1e6:,.1f} MB?"
    if not request.own.get("yes"):
        if not sys.stdin.isatty():
            raise ConfigError(f"{question} Nobody can be asked here; add --yes")
        sys.stdout.write(f"{question} [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return say("nothing was removed")
    for run in chosen:
        remove_run(Path(run.directory))
    return say(f"removed {len(chosen)} runs")


def _to_remove(request: Request, names: list[str], root: Path) -> list[RunSummary]:
    """Return the runs that names and options choose together; say which of them stay, and why."""
    named = {path.resolve(): path for path in (find_run(name, root) for name in names)}
    found = [summarize(path) for path in (named.values() if names else find_runs(root))]
    chosen = []
    for run in found:
        if not _is_wanted(request, run):
            if names:
                say(f"kept, since it is not what the options ask for: {printable(run.directory)}")
        elif is_locked(Path(run.directory)):
            say(f"kept, since it is running: {printable(run.directory)}")
        else:
            chosen.append(run)
    return chosen


def _tail(request: Request, names: list[str]) -> int:
    """The newest rows of a run, and each new one while it goes on."""
    from lightning_rl.cli.tail import follow

    lines = _number(request, "lines", 10)
    return follow(_one(request, names, "tail"), lines, bool(request.own.get("json")))


ACTIONS: dict[str, tuple[Callable[[Request, list[str]], int], tuple[str, ...]]] = {
    "list": (_list, ("status", "algorithm", "env", "older_than", "sort", "limit")),
    "show": (_show, ()),
    "compare": (_compare, ("metric",)),
    "query": (
        _query,
        ("agent_id", "metric", "min_episode", "max_episode", "source", "sql", "limit"),
    ),
    "prune": (_prune, ("status", "algorithm", "env", "older_than", "yes")),
    "tail": (_tail, ("lines",)),
}


def _may_read(action: int, *_: Any) -> int:
    """Let SQLite read and compute; not write, attach files or change settings."""
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    recursive = action == sqlite3.SQLITE_RECURSIVE
    return sqlite3.SQLITE_OK if action in allowed or recursive else sqlite3.SQLITE_DENY


def _root(request: Request) -> Path:
    return Path(request.own.get("root", "logs")).expanduser()


def _one(request: Request, names: list[str], action: str) -> Path:
    if len(names) != 1:
        raise ConfigError(f"runs {action}: expected one run, as in `runs {action} logs/a/b`")
    return find_run(names[0], _root(request))


def _is_wanted(request: Request, run: RunSummary) -> bool:
    own = request.own
    statuses = own.get("status", "").split(",") if "status" in own else []
    for status in statuses:
        check_choice("--status", status, STATUSES)
    return (
        (not statuses or run.status in statuses)
        and own.get("algorithm", run.algorithm or "").lower() == (run.algorithm or "").lower()
        and own.get("env", run.environment) == run.environment
        and age_s(run) >= _duration(request)
    )


def _duration(request: Request) -> float:
    text = request.own.get("older_than")
    if text is None:
        return -float("inf")
    number = parse_scalar(text[:-1])
    if text[-1:] not in _UNITS or not isinstance(number, (int, float)) or number < 0:
        raise ConfigError(f"--older_than: expected a time such as 12h or 30d, got {text!r}")
    return float(number) * _UNITS[text[-1]]


def _number(request: Request, name: str, default: int, least: int = 1) -> int:
    value = parse_scalar(request.own.get(name, str(default)))
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        expected = "a whole number" if least == 0 else "a whole number above 0"
        raise ConfigError(f"--{name}: expected {expected}, got {request.own[name]!r}")
    return value


def _optional(request: Request, name: str) -> int | None:
    return _number(request, name, 0, least=0) if name in request.own else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        say(f"{printable(error)}")
        return {}


def _final(directory: Path) -> dict[str, Any]:
    """Return the last value of every metric; empty where none is known."""
    final = _read(directory / "metrics.json").get("final")
    return final if isinstance(final, dict) else {}


def _settings(directory: Path) -> dict[str, Any]:
    """Return the resolved configuration as dotted names, without what every run has of its own."""
    leaves: dict[str, Any] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                walk(item, (*path, str(key)))
        else:
            leaves[".".join(part for part in path if part != "init_args")] = value

    try:
        walk(read_document(directory / "config.yaml").data, ())
    except ConfigError as error:
        say(f"{printable(error)}")
    return {key: value for key, value in leaves.items() if key not in _HIDDEN}


def _short(run: RunSummary, root: Path) -> str:
    path = Path(run.directory)
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else str(path)
