"""The run directory: where a run keeps its files, what it is called, and who may write to it.

The content of the files belongs to those who write them: checkpoints to `callbacks/checkpoint.py`,
`metrics.csv` and
`metrics.db` to `loggers/`, `run.json` and `metrics.json` to `runs/record.py`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn

from lightning_rl.errors import ConfigError


@dataclass
class RunConfig:
    """Where a run is kept and how it is described.

    Args:
        root: Folder of all experiments.
        experiment: Folder of this experiment, one path component. Default: algorithm and
            environment id in lower case.
        name: Folder of this run, one path component. Default: a time stamp and the seed.
        description: One free sentence for `run.json` and the trackers.
        tags: Labels for `run.json` and the trackers.
        log_level: Least severe message that reaches the console and `training.log`: DEBUG (every
            episode), INFO, WARNING or ERROR.
        new_version: When the directory exists already, take the next free one of `<name>-v2`,
            `<name>-v3`, and so on.
        require_exact: Refuse, before the first env step, an environment whose state cannot be
            restored (`boundary`), with which a resumed run would not equal one never stopped.
        seeds: Runs of `lightning-rl fit`, one per seed, from `seed_everything` on (1 where that
            is drawn), each in a folder `seed<n>` of this run's; at least 1.

    Raises:
        ConfigError: A name is not one plain path component, or there is no such log level.
    """

    root: str = "logs"
    experiment: str | None = None
    name: str | None = None
    description: str = ""
    tags: list[str] = field(default_factory=list)
    log_level: str = "INFO"
    new_version: bool = False
    require_exact: bool = False
    seeds: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked before anything is created."""
        levels = ("DEBUG", "INFO", "WARNING", "ERROR")
        self.log_level = str(self.log_level).upper()
        if self.log_level not in levels:
            raise ConfigError(
                f"run.log_level: expected one of {', '.join(levels)}, got {self.log_level!r}"
            )
        if not isinstance(self.seeds, int) or isinstance(self.seeds, bool) or self.seeds < 1:
            raise ConfigError(
                f"run.seeds: expected a whole number of at least 1, got {self.seeds!r}"
            )
        for key in ("experiment", "name"):
            value = getattr(self, key)
            if value is not None:
                _check_component(f"run.{key}", value)


def _check_component(key: str, value: str) -> None:
    """Refuse what is not a plain name of one folder."""
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set("/\\")
    if not plain or value.strip() in ("", ".", "..") or len(value.encode()) > 255:
        raise ConfigError(
            f"{key}: expected the name of one folder (no path separators, no '..', no control "
            f"characters, at most 255 bytes), got {value!r}; the parent folder is --run.root"
        )


class _Lock:
    """A kernel lock on one file, free again as soon as its process is gone, however it ended."""

    held: ClassVar[set[_Lock]] = set()

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise
        os.ftruncate(self.descriptor, 0)
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        os.pwrite(self.descriptor, json.dumps(owner).encode(), 0)
        _Lock.held.add(self)

    def release(self) -> None:
        """Unlock for good, copies in forked children included.

        The file stays: removing it would let two processes each lock a file of this name.
        """
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self.close()

    def close(self) -> None:
        """Close this process's descriptor; the lock lasts as long as any process has one."""
        descriptor, self.descriptor = self.descriptor, -1
        _Lock.held.discard(self)
        if descriptor >= 0:
            os.close(descriptor)

    @staticmethod
    def owner(path: Path) -> str:
        """Describe the process that holds the lock."""
        time.sleep(0.05)  # it may have taken the lock just now and not have written its name yet
        try:
            owner = json.loads(path.read_text())
            return f"process {int(owner['pid'])} on host {owner['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            return "another process"


def _close_inherited_locks() -> None:
    """Close a forked child's copies, or an env worker that outlives a killed run keeps its lock."""
    for lock in list(_Lock.held):
        lock.close()


os.register_at_fork(after_in_child=_close_inherited_locks)


class RunDirectory:
    """The directory of one run: its files' names and, once claimed, the right to write to it.

    `RunDirectory(path)` only names files, for readers. `RunDirectory.claim(path)` makes the
    directory and locks it against every other process until `release`, the end of the `with` block
    or the end of the process.

    Args:
        path: The directory; it need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: _Lock | None = None

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """Status, versions, machine and attempts."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics_csv(self) -> Path:
        """One row per logged step."""
        return self.path / "metrics.csv"

    @property
    def metrics_db(self) -> Path:
        """One row per logged value and per finished episode, for SQL."""
        return self.path / "metrics.db"

    @property
    def metrics_json(self) -> Path:
        """The summary of the run."""
        return self.path / "metrics.json"

    @property
    def log(self) -> Path:
        """The messages of the run."""
        return self.path / "training.log"

    @property
    def curves(self) -> Path:
        """The picture of the training curves."""
        return self.path / "training_curves.png"

    @property
    def results(self) -> Path:
        """What `test` measured."""
        return self.path / "results.json"

    @property
    def videos(self) -> Path:
        """The folder of the videos."""
        return self.path / "videos"

    @property
    def replays(self) -> Path:
        """The folder of the replays."""
        return self.path / "replays"

    @property
    def lock(self) -> Path:
        """The file that the owner holds locked; names its pid and host."""
        return self.path / ".lock"

    @property
    def claimed(self) -> bool:
        """Whether this object holds the directory's lock."""
        return self._lock is not None

    def has_checkpoint(self) -> bool:
        """Return whether the run ever reached a checkpoint."""
        return any(self.checkpoints.glob("*.ckpt"))

    @staticmethod
    def resolve(
        config: RunConfig, algorithm: str, env_id: str, seed: int, now: datetime | None = None
    ) -> Path:
        """Return the path of a run; nothing is created.

        Args:
            config: Root and names; what is None is filled in.
            algorithm: Name of the algorithm, for the default experiment.
            env_id: Id of the environment, for the default experiment.
            seed: The run's seed, for the default name.
            now: Time of the start, for the default name.

        Raises:
            ConfigError: A name is not one plain path component.
        """
        experiment = config.experiment
        if experiment is None:
            experiment = re.sub(r"[^\w.+-]+", "-", f"{algorithm}-{env_id}".lower()).strip("-.")
        name = config.name
        if name is None:
            name = f"{now or datetime.now():%Y-%m-%d_%H-%M-%S}_seed{seed}"
        _check_component("run.experiment", experiment)
        _check_component("run.name", name)
        return Path(config.root).expanduser() / experiment / name

    @classmethod
    def claim(
        cls, path: str | os.PathLike[str], resume: bool = False, new_version: bool = False
    ) -> RunDirectory:
        """Make the directory, lock it, and return it ready for a run.

        A directory whose run never reached a checkpoint is started over: that run's files are
        removed. Files that no run wrote are never touched.

        Args:
            path: The directory.
            resume: The run in it is to be continued.
            new_version: Take the first of `path`, `path-v2`, `path-v3`, ... that is still free.

        Raises:
            ConfigError: The directory is in use, holds a run already, holds none to resume, or
                cannot be written.
        """
        for candidate in _versions(Path(path)) if new_version else [Path(path)]:
            directory = cls(candidate)
            try:
                directory._create(must_exist=resume, must_be_new=new_version)
                directory._lock = _Lock(directory.lock)
            except OSError as error:
                if new_version and error.errno in (errno.EEXIST, errno.EWOULDBLOCK):
                    continue
                directory._refuse(error)
            if not resume:
                directory._start_over()
            return directory
        raise ConfigError(f"no free version of {path} found; give another --run.name")

    def supersede(self, env_steps: int) -> Path | None:
        """Set aside what the run did behind `env_steps`, from where it is about to go on anew.

        Later numbered checkpoints are moved to `superseded/<n>/`. `metrics.csv` and `metrics.db`,
        whose later rows are cut when the loggers' state returns, are copied there.

        Returns:
            The folder, or None when nothing lay behind `env_steps`.
        """
        later = [
            path for path in self.checkpoints.glob("env_steps=*.ckpt") if _behind(path, env_steps)
        ]
        if not later:
            return None
        folder = self.path / "superseded"
        number = 1 + sum(1 for _ in folder.glob("*"))
        (folder / str(number)).mkdir(parents=True)
        for path in later:
            shutil.move(path, folder / str(number) / path.name)
        for link in self.checkpoints.glob("*.ckpt"):
            if link.is_symlink() and not link.exists():
                link.unlink()
        for name in ("metrics.csv", *_DATABASE):
            if (self.path / name).exists():
                shutil.copy2(self.path / name, folder / str(number) / name)
        return folder / str(number)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunDirectory:
        """Return the directory itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self.release()

    def _create(self, must_exist: bool, must_be_new: bool) -> None:
        if must_exist:
            if not self.path.is_dir():
                raise ConfigError(f"no run to resume in {self.path}: there is no such directory")
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Making it is what decides a race for a version.
        self.path.mkdir(mode=0o700, exist_ok=not must_be_new)

    def _refuse(self, error: OSError) -> NoReturn:
        """Turn a failed claim into one line."""
        if error.errno == errno.EWOULDBLOCK:
            raise ConfigError(
                f"{self.path} is in use by {_Lock.owner(self.lock)}; wait for it, or give another "
                "--run.name or --new-version"
            ) from None
        raise ConfigError(
            f"cannot write to {self.path}: {error.strerror}; choose another folder with --run.root"
        ) from None

    def _start_over(self) -> None:
        """Remove what a run without a checkpoint left; refuse a run that has one."""
        if self.has_checkpoint():
            self.release()
            raise ConfigError(
                f"{self.path} holds a run already; continue it with `lightning-rl resume "
                f"{self.path}`, or start another with --run.name NAME or --new-version"
            )
        if not self.record.exists():
            if any(self.path.glob("*/run.json")) or any(self.path.glob("*/*/run.json")):
                self.release()  # a study's folder: as a run's it would be pruned with all of them
                raise ConfigError(f"{self.path} holds other runs; give this one another --run.name")
            return
        for leftover in (*_OUTPUTS, *(p.name for p in self.path.glob("events.out.tfevents.*"))):
            target = self.path / leftover
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def _behind(checkpoint: Path, env_steps: int) -> bool:
    """Return whether a numbered checkpoint was taken later than at `env_steps`."""
    number = checkpoint.stem.partition("=")[2]
    return number.isdigit() and int(number) > env_steps


_DATABASE = ("metrics.db", "metrics.db-wal", "metrics.db-shm")
_OUTPUTS = (
    *_DATABASE,
    "superseded",
    "config.yaml",
    "run.json",
    "checkpoints",
    "metrics.csv",
    "metrics.json",
    "training.log",
    "training_curves.png",
    "results.json",
    "videos",
    "replays",
)


def _versions(path: Path) -> Iterator[Path]:
    """Yield `path`, `path-v2`, `path-v3`, ..."""
    yield path
    for version in range(2, 10_000):
        yield path.with_name(f"{path.name}-v{version}")
