"""What run directories say about themselves: found, read without trust, and removed.

Nothing here writes to a run, waits for one or loads a checkpoint. A file that is damaged makes its
run `unreadable` and hides no other.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import stat
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightning_rl.errors import ConfigError, nearest
from lightning_rl.runs.directory import RunDirectory
from lightning_rl.runs.plain_json import loads

MAX_JSON_BYTES = 64 * 2**20
MAX_DEPTH = 6
"""How deep below the root runs are looked for; a study's cells lie at three."""

STATUSES = ("running", "finished", "stopped", "interrupted", "failed", "killed", "unreadable")
"""`killed` is a run whose record says `running` although no process holds its lock."""


@dataclass
class RunSummary:
    """One run in one line.

    Attributes:
        directory: Its directory.
        status: One of `STATUSES`.
        algorithm: Name of the algorithm.
        environment: Id of the environment.
        seed: The run's seed.
        env_steps: How far it got.
        budget: Env steps or episodes it may spend, as text.
        best_reward: Best mean reward of an evaluation.
        best_env_steps: Env steps at which that was.
        last_reward: Mean reward of the last evaluation.
        training_reward: Mean reward of the training episodes.
        episodes: Finished training episodes.
        wall_time_s: Seconds of training, over all attempts.
        created: Start of the first attempt, ISO 8601 in UTC.
        attempts: How often it was started.
        error: Why it failed, or cannot be read.
        description: As given at its start.
        tags: As given at its start.
    """

    directory: str
    status: str
    algorithm: str | None = None
    environment: str | None = None
    seed: int | None = None
    env_steps: int | None = None
    budget: str | None = None
    best_reward: float | None = None
    best_env_steps: int | None = None
    last_reward: float | None = None
    training_reward: float | None = None
    episodes: int | None = None
    wall_time_s: float | None = None
    created: str | None = None
    attempts: int = 0
    error: str | None = None
    description: str = ""
    tags: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def find_runs(root: Path) -> list[Path]:
    """Return the directories under `root` (itself included) that hold a `run.json`, sorted.

    Links are not followed, and nothing is looked for inside a run.

    Raises:
        ConfigError: There is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"no such folder: {root}; runs are kept in --run.root, by default logs")
    found = []
    for folder, names, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        if "run.json" in files:
            found.append(Path(folder))
            names.clear()
        names[:] = [] if depth >= MAX_DEPTH else [n for n in names if not n.startswith(".")]
    return sorted(found)


def find_run(name: str, root: Path) -> Path:
    """Return a run's directory by its path, or by the end of its path under `root`.

    Raises:
        ConfigError: There is none, or there are several.
    """
    path = Path(name).expanduser()
    for candidate in (path, root / name):
        if (candidate / "run.json").is_file():
            return candidate
    known = find_runs(root) if root.is_dir() else []
    wanted = path.parts
    matches = [run for run in known if wanted and run.parts[-len(wanted) :] == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        places = ", ".join(str(run) for run in matches[:5])
        raise ConfigError(f"{name!r} is the name of {len(matches)} runs: {places}")
    near = nearest(path.name, [run.name for run in known], 1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `lightning-rl runs list` shows them"
    raise ConfigError(f"no run {name!r} in {root}{hint}")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} when there is no such file.

    Raises:
        ValueError: It is no regular file, larger than 64 MB, or no JSON object.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} is no plain file of at most {MAX_JSON_BYTES // 2**20} MB")
    try:
        content = loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path.name} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content


def summarize(directory: Path) -> RunSummary:
    """Return what a run says about itself; of what cannot be read, the reason."""
    summary = RunSummary(str(directory), "unreadable")
    try:
        record = read_json(directory / "run.json")
        metrics = read_json(directory / "metrics.json")
    except ValueError as error:
        summary.error = str(error)
        return summary
    status = record.get("status")
    if not isinstance(status, str) or status not in STATUSES:
        summary.error = "run.json has no known status"
        return summary
    summary.status = "killed" if status == "running" and not is_locked(directory) else status
    for name in ("algorithm", "environment", "created", "error", "description"):
        setattr(summary, name, _text(record.get(name)) or getattr(summary, name))
    for name in ("seed", "env_steps"):
        setattr(summary, name, _integer(record.get(name)))
    tags, attempts = record.get("tags"), record.get("attempts")
    summary.tags = [str(tag) for tag in tags] if isinstance(tags, list) else []
    summary.attempts = len(attempts) if isinstance(attempts, list) else 0
    summary.budget = _budget(record.get("budget"))
    best, training, final = (_part(metrics, name) for name in ("best", "training", "final"))
    summary.best_reward = _number(best.get("eval/mean_reward"))
    summary.best_env_steps = _integer(best.get("env_steps"))
    summary.last_reward = _number(final.get("eval/mean_reward"))
    summary.training_reward = _number(training.get("mean_reward"))
    summary.episodes = _integer(training.get("episodes_completed"))
    summary.wall_time_s = _number(training.get("wall_time_s"))
    return summary


def is_locked(directory: Path) -> bool:
    """Return whether a living process holds the run's lock."""
    lock = RunDirectory(directory).lock
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        # Shared, and given back at once: other readers do not disturb each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def age_s(summary: RunSummary, now: datetime | None = None) -> float:
    """Return the seconds since a run was created, or its folder last changed where that is unknown.

    Infinity where there is no folder either.
    """
    now = now or datetime.now(timezone.utc)
    try:
        created = datetime.fromisoformat((summary.created or "").replace("Z", "+00:00"))
        return (now - created).total_seconds()
    except (ValueError, TypeError):
        with contextlib.suppress(OSError):
            return now.timestamp() - Path(summary.directory).stat().st_mtime
        return math.inf


def size_bytes(directory: Path) -> int:
    """Return how much the files of a run take on the disk; links are not followed."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:  # it has just been replaced
                continue
    return total


def remove_run(directory: Path) -> None:
    """Remove a run's directory with everything in it, while holding its lock.

    Raises:
        ConfigError: It is in use, is no run, is a link, or cannot be removed.
    """
    if directory.is_symlink() or not (directory / "run.json").is_file():
        raise ConfigError(f"{directory}: not removed, since it is no run directory")
    # As for a resume: whoever works in it keeps it.
    with RunDirectory.claim(directory, resume=True):
        try:
            shutil.rmtree(directory)
        except OSError as error:
            raise ConfigError(f"cannot remove {directory}: {error.strerror}") from error


def _budget(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    for name, unit in (("total_env_steps", ""), ("total_episodes", " episodes")):
        number = _integer(value.get(name))
        if number is not None:
            return f"{number:,}{unit}"
    return None


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None
