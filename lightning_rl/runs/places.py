"""What of a run is elsewhere or comes from there: checkpoints in another folder, a fork's rows."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from lightning_rl.errors import ConfigError
from lightning_rl.loggers.database import open_read_only
from lightning_rl.runs.directory import RunDirectory


def link_checkpoints(
    directory: RunDirectory, folders: Sequence[Path], start_from: Path | None
) -> None:
    """Let `checkpoints` of a run directory lead to a folder that a callback writes to.

    So that everything that reads a run, `resume` before all, finds them there. A folder that holds
    checkpoints already is another run's, which this one would overwrite.

    Args:
        directory: The claimed run directory.
        folders: Where the callbacks write, none of them to the run directory.
        start_from: Checkpoint that the run starts from, if any; its folder may be gone on with.

    Raises:
        ConfigError: The folder holds another run's checkpoints, or this run's lie in another one.
    """
    place, folder = directory.checkpoints, folders[0].resolve()
    if any(place.glob("*.ckpt")):
        if place.resolve() not in [path.resolve() for path in folders]:
            raise ConfigError(
                f"Checkpoint.dirpath: this run's checkpoints lie in {place.resolve()}, got {folder}"
            )
        return
    continues = start_from is not None and start_from.resolve().parent == folder
    if any(folder.glob("*.ckpt")) and not continues:
        raise ConfigError(
            f"Checkpoint.dirpath: {folder} holds checkpoints of another run, which this one would "
            "replace; give another folder, or none for that of the run directory"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)  # of a run that was cut before its first checkpoint
    place.unlink(missing_ok=True)
    place.symlink_to(folder)


def copy_rows(checkpoint: Path, directory: RunDirectory) -> None:
    """Give a run that starts from another one's checkpoint the rows of that one.

    They are cut back to the checkpoint when the loggers' state returns. The other run may be going
    on meanwhile.

    Args:
        checkpoint: The file; nothing is copied unless it lies in a run directory.
        directory: The claimed directory of the new run.
    """
    source = RunDirectory(checkpoint.absolute().parent.parent)
    if not source.record.is_file() or source.path == directory.path.absolute():
        return
    if source.metrics_csv.is_file():
        shutil.copyfile(source.metrics_csv, directory.metrics_csv)
    if source.metrics_db.is_file():
        # By SQLite itself, since the newest rows may still stand in its write-ahead log.
        with (
            open_read_only(source.metrics_db) as connection,
            contextlib.closing(sqlite3.connect(directory.metrics_db)) as copy,
        ):
            connection.backup(copy)
