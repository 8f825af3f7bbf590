"""Stopping on signals: between two steps, with everything saved, and with nothing left open."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_rl.callbacks.base import Agent, Callback

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class GracefulStop(Callback):
    """Turn SIGINT, SIGTERM and SIGUSR1 into a stop at the next step boundary.

    The handler only sets `agent.stop_requested`; the agent looks at it before every env step and
    every minibatch, saves, and leaves with `Interrupted`. A second signal ends the process at once;
    the last checkpoint is still good then. Lightning's own handlers would save in the middle of
    any line, or only at the end of a long update. They are put back when training ends, however it
    ends; environments are closed on an exception as well.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._is_training = False
        self._agent: Agent = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the handlers, in the main thread only."""
        if stage != "fit" or threading.current_thread() is not threading.main_thread():
            return
        self._agent = pl_module
        self._agent.stop_requested = 0
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}
        self._is_training = True
        self._install()

    def on_train_start(self, trainer: Trainer, agent: Agent) -> None:
        """Install the handlers again: Lightning has put its own over them."""
        if self._is_training:
            self._install()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the previous handlers back."""
        self._restore()

    def on_exception(self, trainer: Trainer, agent: Agent, exception: BaseException) -> None:
        """Put the previous handlers back and close the environments."""
        self._restore()
        with contextlib.suppress(Exception):
            agent.teardown("fit")

    def _install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if not self._is_training:  # Lightning has put it back after an exception
            signal.signal(number, self._previous[signal.Signals(number)])
            os.kill(os.getpid(), number)
            return
        if self._agent.stop_requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._agent.stop_requested = number

    def _restore(self) -> None:
        if self._is_training:
            self._is_training = False
            for number, handler in self._previous.items():
                signal.signal(number, handler)
