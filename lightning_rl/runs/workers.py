"""Work in processes of their own, which never outlive the process that started them.

Each piece of work gets a process forked from this one: it starts in milliseconds because everything
is imported already, begins with a clean state whatever ran before it, and gives all memory back.
The parent must only have imported things: threads and a GPU in use do not survive a fork.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

Piece = TypeVar("Piece")

POLL_S = 0.2
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Workers(Generic[Piece]):
    """Runs pieces of work in up to so many processes at a time.

    SIGINT and SIGTERM are passed on to the processes, which may save their state; nothing new is
    started then. The second one kills them.

    Args:
        work: Called with a piece in a process of its own; it must be started from the main thread.
        number: Processes at a time, at least 1.
        output: Returns the file that what a piece prints is appended to.

    Attributes:
        stopped_by: The signal that asked to stop, if one did.
    """

    def __init__(
        self, work: Callable[[Piece], None], number: int, output: Callable[[Piece], Path]
    ) -> None:
        self.stopped_by: signal.Signals | None = None
        self._work, self._number, self._output = work, number, output
        self._running: dict[BaseProcess, Piece] = {}

    def run(
        self, pieces: Iterable[Piece] | Callable[[], Piece | None]
    ) -> Iterator[tuple[Piece, int]]:
        """Yield each piece and its exit code (minus the signal that killed it), as they end.

        Args:
            pieces: Started in this order. Or a function that returns the next one, asked whenever a
                process is free: None while there is none; when none runs either, that is the end.
        """
        take = pieces if callable(pieces) else partial(next, iter(pieces), None)
        with self._passing_signals_on():
            try:
                while True:
                    self._fill(take)
                    if not self._running:
                        return
                    yield from self._ended()
            finally:  # a caller that stops asking takes its processes with it
                for process in self._running:
                    process.kill()
                    process.join()
                self._running.clear()

    def _fill(self, take: Callable[[], Piece | None]) -> None:
        """Start pieces while there are some and a process is free."""
        while len(self._running) < self._number and self.stopped_by is None:
            piece = take()
            if piece is None:
                return
            self._start(piece)

    def _start(self, piece: Piece) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not daemonic: a piece may have processes of its own, such as environments.
        process = multiprocessing.get_context("fork").Process(
            target=self._main, args=(piece, os.getpid())
        )
        # A signal between the fork and the child's own handlers would run the parent's in it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        self._running[process] = piece

    def _main(self, piece: Piece, parent: int) -> None:
        """Run in the child: die with the parent, listen to its signals only, do the work."""
        die_with(parent)
        os.setpgid(0, 0)  # the terminal's Ctrl-C reaches the parent alone, which passes it on
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        path = self._output(piece)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        # A notebook or a test has put something else in the place of the standard streams.
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - open to the end
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        self._work(piece)

    def _ended(self) -> Iterator[tuple[Piece, int]]:
        """Wait a moment; yield what has ended."""
        connection.wait([process.sentinel for process in self._running], POLL_S)
        for process in [process for process in self._running if process.exitcode is not None]:
            process.join()
            yield self._running.pop(process), int(process.exitcode or 0)
            process.close()

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in STOPPING}
        for number in STOPPING:
            signal.signal(number, self._pass_on)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        again, self.stopped_by = self.stopped_by is not None, signal.Signals(number)
        for process in self._running:
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL if again else number)


def die_with(parent: int) -> None:
    """Make this process die as soon as its parent does, even by SIGKILL.

    Args:
        parent: Process id of the parent that forked it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _watch(parent: int) -> None:
    """Do by looking what other kernels do not do by themselves."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)
