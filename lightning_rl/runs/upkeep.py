"""What a run's record is kept with: replaced text files, the log file, a ticker."""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from lightning_rl.runs.provenance import redact
from lightning_rl.storage.sealed import atomic_write_text

log = logging.getLogger(__name__)

TICK_S = 0.5
"""How often a ticker calls, in seconds."""
PACKAGE = "lightning_rl"


class AtomicFile:
    """A text file that is replaced atomically, and whose loss is reported once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._warned = False

    def write(self, text: str) -> None:
        """Replace the content. Survives a kill; no fsync, which would take longer than a tick."""
        with self._lock:
            try:
                atomic_write_text(self.path, text, durable=False)
            except OSError as error:
                if not self._warned:
                    self._warned = True
                    reason = error.strerror or error
                    log.warning("Cannot write %s (%s); the run goes on.", self.path, reason)


class Ticker:
    """Call a function every half second from a thread of its own, until stopped."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="run-record", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(TICK_S):
            self._function()


class LogFile(logging.FileHandler):
    """`training.log`: the messages of `lightning_rl`, without secrets, whatever the disk does.

    Where nobody has configured logging, the messages go to standard error as well: without that,
    having this handler would silence the warnings that Python shows by default.

    Args:
        path: The file; appended to.
        level: Name of the least severe level that is written.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, level: str) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.setLevel(level)
        package = logging.getLogger(PACKAGE)
        self._level_before = package.level
        self._console = None if package.hasHandlers() else logging.StreamHandler()
        package.setLevel(min(package.getEffectiveLevel(), self.level))
        if self._console is not None:
            self._console.setLevel(level)
            package.addHandler(self._console)
        package.addHandler(self)

    @classmethod
    def attach(cls, path: Path, level: str) -> LogFile | None:
        """Begin to write the package's messages to `path`; None where that is not possible."""
        try:
            return cls(path, level)
        except OSError as error:
            log.warning("Cannot write %s (%s); the run goes on.", path, error.strerror or error)
            return None

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without secrets."""
        return redact(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop a message that cannot be written: a full disk must not end a run."""

    def write_traceback(self, exception: BaseException) -> None:
        """Add the traceback to the file; the console shows only one line."""
        text = "".join(traceback.format_exception(exception)).rstrip()
        self.handle(logging.LogRecord(PACKAGE, logging.ERROR, __file__, 0, "%s", (text,), None))

    def detach(self) -> None:
        """Stop writing and close the file."""
        package = logging.getLogger(PACKAGE)
        package.setLevel(self._level_before)
        package.removeHandler(self)
        if self._console is not None:
            package.removeHandler(self._console)
        with contextlib.suppress(OSError):
            self.close()


def one_line(error: BaseException) -> str:
    """Return the first line of the message, after the error's name unless it is one of ours."""
    lines = str(error).strip().splitlines()
    own = hasattr(error, "exit_code") and lines
    return lines[0] if own else ": ".join([type(error).__name__, *lines[:1]])
