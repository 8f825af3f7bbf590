"""Carrying calls to an external tracker in a thread of its own, so that it can harm nobody else."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

log = logging.getLogger(__name__)

MAX_WAITING_CALLS = 10_000
"""Calls kept while a tracker does not take them, about 20 MB of usual rows."""
ROWS_WAIT_S = 2.0
"""Longest time that a row waits for others to be delivered with, when nothing is wrong. Waking a
thread for each row costs training the interpreter's lock, and trackers a transaction."""
SLOW_CALL_S, SLOW_OPENING_S = 5.0, 30.0
"""Durations of a call, and of the first one, from which a tracker counts as slow."""
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
TRIES_BEFORE_NEXT = 3
"""Failures of a call after which the one behind it is tried: it may be the call's own fault."""


_abandoned: list[threading.Thread] = []


def left_behind() -> bool:
    """Return whether a courier that was given up is still in a call.

    Client libraries then wait for their server again when Python exits.
    """
    return any(thread.is_alive() for thread in _abandoned)


@dataclass(eq=False)
class _Call:
    function: Callable[[], object]
    row: Any = None  # may be thinned out; all others are kept

    @property
    def is_row(self) -> bool:
        return self.row is not None


def _log_nothing(rows: Sequence[Any]) -> None:
    """Take rows and do nothing."""


class Courier:
    """One thread that makes calls to one tracker, in order, from a bounded queue.

    A call that fails is repeated, after 0.5 s at first and at last every 30 s, so that an outage
    delays what is sent and loses nothing; a call that keeps failing while the one behind it works
    is given up. When the queue is full every second waiting row is dropped: the curves become
    coarser and keep their whole length. Trouble is said once, and once more at the end if something
    was not delivered.

    Args:
        name: Of the tracker, for messages.
        first: Call that must have worked before any other is made, such as opening a connection.
        log_rows: Logs the rows of `send_row`, in order; all of them or none.
        rows_at_once: Most rows in one call of `log_rows`.
    """

    def __init__(
        self,
        name: str,
        first: Callable[[], object],
        log_rows: Callable[[Sequence[Any]], object] = _log_nothing,
        rows_at_once: int = 1,
    ) -> None:
        self.name = name
        self._log_rows, self._rows_at_once = log_rows, rows_at_once
        self.opened = threading.Event()
        """Set once `first` has worked."""
        self.opening: Any = None
        """What `first` returned."""
        self.dropped = 0
        """Calls given up so far."""
        self.rows = 0
        """Rows done with so far, those given up included."""
        self._waiting: list[_Call] = [_Call(lambda: self._open(first))]
        self._state = threading.Condition()
        self.troubled = False
        """Whether it ever failed or was slow."""
        self._closing = self._abandoned = False
        self._hurried = True  # whether what waits is to be delivered at once
        self._call_began: float | None = None
        self._thread = threading.Thread(target=self._deliver, name=f"to {name}", daemon=True)

    def start(self) -> None:
        """Begin to make calls."""
        self._thread.start()

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller is the courier itself."""
        return threading.current_thread() is self._thread

    def send(self, function: Callable[[], object], hurry: bool = True) -> None:
        """Have a call made when all before it are done; returns at once.

        Args:
            function: The call.
            hurry: Whether it is made now, or with the next rows.
        """
        self._put(_Call(function), hurry)

    def send_row(self, row: Any) -> None:
        """Have a row logged within `ROWS_WAIT_S` when all before it are done; returns at once.

        Args:
            row: What `log_rows` gets, with other rows that are waiting; not None.
        """
        self._put(_Call(partial(self._log_rows, [row]), row), hurry=False)

    def hurry(self) -> None:
        """Have everything that waits delivered now; returns at once."""
        with self._state:
            self._hurried = True
            self._state.notify_all()

    def _put(self, call: _Call, hurry: bool) -> None:
        with self._state:
            if self._closing:
                return
            self._waiting.append(call)
            if len(self._waiting) > MAX_WAITING_CALLS:
                self._thin_out()
            began, limit = self._call_began, SLOW_CALL_S if self.opened.is_set() else SLOW_OPENING_S
            if began is not None and time.monotonic() - began > limit:
                self._say_trouble(f"a call takes longer than {limit:g} s")
            if hurry:
                self._hurried = True
                self._state.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Deliver what is waiting, then end; return whether everything was delivered.

        Args:
            timeout_s: Longest time to wait, in seconds; what is left then is given up.
        """
        with self._state:
            self._closing = True
            self._state.notify_all()
            self._state.wait_for(lambda: not self._waiting, timeout_s)
            left, self._abandoned = len(self._waiting) + self.dropped, True
            if self._waiting:
                _abandoned.append(self._thread)
            self._state.notify_all()
        if left:
            log.warning(
                "%d calls to %s were not delivered; the metrics of the run directory are complete.",
                left,
                self.name,
            )
        return not left

    def _open(self, first: Callable[[], object]) -> None:
        self.opening = first()
        self.opened.set()

    def _deliver(self) -> None:
        failures = 0
        while self._wait_for_calls():
            with self._state:
                # One by one after a failure: a single row may be what the tracker does not take.
                calls = self._waiting[:1] if failures else self._next_calls()
                behind = self._waiting[1:2] if self.opened.is_set() else []
            if self._succeeds(self._joined(calls)):
                failures = 0
                self._remove(*calls)
                continue
            failures += 1
            if failures >= TRIES_BEFORE_NEXT and behind and self._succeeds(behind[0]):
                failures = 0
                self.dropped += 1
                self._remove(*calls, *behind)
                continue
            self._wait(failures)

    def _wait_for_calls(self) -> bool:
        """Wait until something is to be delivered; return False when there is nothing more."""
        with self._state:
            while not self._abandoned:
                if self._hurried and self._waiting:
                    return True
                if self._closing and not self._waiting:
                    return False
                self._hurried = False
                self._state.wait_for(lambda: self._hurried or self._closing, ROWS_WAIT_S)
                self._hurried = True  # until nothing is left
        return False

    def _next_calls(self) -> list[_Call]:
        """Return the first call, or as many rows at the front as may be logged at once."""
        most = self._waiting[: self._rows_at_once]
        return list(takewhile(lambda call: call.is_row, most)) or most[:1]

    def _joined(self, calls: Sequence[_Call]) -> _Call:
        if len(calls) == 1:
            return calls[0]
        return _Call(partial(self._log_rows, [call.row for call in calls]))

    def _wait(self, failures: int) -> None:
        """Give the tracker time to recover; little of it when the run is over."""
        pause = min(FIRST_RETRY_S * 2 ** min(failures - 1, 10), LAST_RETRY_S)
        with self._state:
            if not self._closing:
                self._state.wait_for(lambda: self._closing, pause)
            else:
                self._state.wait_for(lambda: self._abandoned, FIRST_RETRY_S)

    def _succeeds(self, call: _Call) -> bool:
        self._call_began = time.monotonic()
        try:
            call.function()
        except BaseException as error:  # whatever a client library raises, also SystemExit
            with self._state:
                if not self._abandoned:
                    self._say_trouble(_describe(error))
            return False
        finally:
            self._call_began = None
        return True

    def _remove(self, *calls: _Call) -> None:
        with self._state:
            self.rows += sum(call.is_row for call in calls if call in self._waiting)
            self._waiting = [call for call in self._waiting if call not in calls]
            self._state.notify_all()

    def _thin_out(self) -> None:
        """Drop every second waiting row; the first call may be on its way."""
        first, *others = self._waiting
        kept = [call for number, call in enumerate(others) if not call.is_row or number % 2]
        self.dropped += len(others) - len(kept)
        self.rows += len(others) - len(kept)
        self._waiting = [first, *kept]

    def _say_trouble(self, reason: str) -> None:
        if not self.troubled:
            self.troubled = True
            log.warning(
                "%s does not take what is logged (%s). Training goes on, and the metrics of the "
                "run directory are complete; what waits is sent when this is over.",
                self.name,
                reason,
            )


def _describe(error: BaseException) -> str:
    """Return the first line of an error's cause, without the password of an address."""
    while error.__cause__ is not None:  # Lightning calls a full disk a value it cannot log
        error = error.__cause__
    lines = str(error).strip().splitlines()
    text = ": ".join([type(error).__name__, *lines[:1]])[:300]
    return re.sub(r"//[^/@\s]+@", "//***@", text)


class NoExperiment:
    """Stands in for the experiment of a tracker that is not there: takes every call, does nothing.

    Lightning gives the same to processes of a rank above zero.
    """

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._nothing

    def __getitem__(self, index: int) -> NoExperiment:
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        """Forget it."""

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""
