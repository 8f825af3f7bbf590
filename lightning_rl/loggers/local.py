"""What the loggers of the local copy share: one file each, which the run directory names."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_rl.loggers.axis import Clock

log = logging.getLogger(__name__)

WARN_EVERY_S = 60.0


class LocalLogger(Logger):
    """A logger of one file, which is written directly and not by a courier.

    Attributes:
        path: The file.
        clock: Of the run that is under way.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.clock: Clock | None = None
        self._next_warning = 0.0

    @property
    def name(self) -> str:
        """Empty: the run directory already names the run."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the run directory already names the run."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: hyperparameters stand in `config.yaml`."""

    def _warn_of_waiting(self, reason: object, rows: int) -> None:
        """Say, at most once a minute, that the file cannot be written."""
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + WARN_EVERY_S
            log.warning(
                "Cannot write %s (%s). Training goes on; %d rows wait in memory and are written "
                "when this is over.",
                self.path,
                reason,
                rows,
            )

    def _warn_of_lost(self, found: int, logged: int, what: str) -> None:
        """Say that rows are missing which a checkpoint counts on."""
        if found < logged:
            log.warning(
                "%s holds %d of the %d %s logged before this checkpoint; the others are lost.",
                self.path,
                found,
                logged,
                what,
            )
