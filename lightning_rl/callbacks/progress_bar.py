"""One line that shows how a run is doing, in env steps instead of batches."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, TextColumn

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.types import Episode, Statistics

log = logging.getLogger(__name__)

REFRESH_S = 0.1
MAX_COST = 0.01
"""Part of the time that drawing may take: a slow terminal is drawn less often."""
LOSSES = ("train/td_loss", "train/policy_loss")
BAR = 6
"""Columns of the shortest bar, with the blanks around it."""
MARGIN = 2
"""Columns left free at the right: the terminal's `^C` would wrap and leave the line there twice."""


class ProgressBar(LightningProgressBar, Callback):
    """Show how much of the budget is spent, speed, recent return, loss, epsilon and time left.

    In a terminal this is one line, drawn at most ten times a second. Elsewhere (a file, a pipe, a
    batch system) one line is logged for each 10 % of the budget. `enable_progress_bar=False` of the
    Trainer, or `disable()`, silences both.

    Args:
        console: Where to draw; default: standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True)
        self._enabled = True
        self._bar: Progress | None = None
        self._handlers: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
        self._next_refresh = 0.0
        self._next_tenth = 0
        self._returns: deque[float] = deque(maxlen=100)
        self._statistics: Statistics = {}
        # (seconds, env steps, budget units done) of the last refreshes: speed of the last seconds
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=50)

    def disable(self) -> None:
        """Draw and log nothing from now on."""
        self._stop()
        self._enabled = False

    def enable(self) -> None:
        """Undo `disable`."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the line."""
        (self._bar.console if self._bar else self._console).print(*args)

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Begin the line, at the step at which the run stands."""
        if not self._enabled:
            return
        done, total = _budget(agent)
        self._marks.clear()
        self._marks.append((time.monotonic(), agent.env_steps, done))
        self._next_tenth = 10 * done // total + 1
        if self._console.is_terminal:
            self._start(done, total)

    def on_episode_end(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Remember the return."""
        self._returns.append(episode.reward)

    def on_iteration_end(self, trainer: Trainer, agent: Agent, statistics: Statistics) -> None:
        """Bring the line up to date when it is time."""
        self._statistics = statistics
        if self._bar is None:
            if self._enabled and self._marks:
                self._log_tenth(agent)
        elif time.monotonic() >= self._next_refresh:
            self._refresh(agent)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the line alive during an evaluation."""
        if self._bar is not None and time.monotonic() >= self._next_refresh:
            self._refresh(pl_module, "evaluating")

    def on_train_end(self, trainer: Trainer, agent: Agent) -> None:
        """Draw the final state and leave it on the screen."""
        if self._bar is not None:
            self._refresh(agent)
        self._stop()

    def on_exception(self, trainer: Trainer, agent: Agent, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._stop()

    def _start(self, done: int, total: int) -> None:
        # auto_refresh would draw from a thread, which takes the interpreter lock from training.
        self._bar = _Line(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            auto_refresh=False,
            expand=True,
        )
        self._bar.add_task(_counts(done, total), total=total, completed=done, text="starting")
        self._bar.start()
        self._bar.refresh()
        self._redirect_logging()

    def _stop(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            for handler, stream in self._handlers:
                handler.setStream(stream)
            self._handlers.clear()
            bar.stop()

    def _redirect_logging(self) -> None:
        """Let log lines appear above the bar; rich only catches what goes through `sys`."""
        replaced = {sys.__stdout__: sys.stdout, sys.__stderr__: sys.stderr}
        loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
        for handler in {handler for logger in loggers for handler in logger.handlers}:
            if isinstance(handler, logging.StreamHandler) and handler.stream in replaced:
                self._handlers.append((handler, handler.stream))
                handler.setStream(replaced[handler.stream])

    def _refresh(self, agent: Agent, note: str = "") -> None:
        started = time.monotonic()
        done, total = _budget(agent)
        self._marks.append((started, agent.env_steps, done))
        if self._bar is not None:
            counts, parts = _counts(done, total), [*filter(None, [note]), *self._parts(total)]
            room = self._console.width - MARGIN - len(counts) - BAR
            while len("  ".join(parts)) > room and len(parts) > 2:
                del parts[-2]  # the time left is the last to go
            self._bar.update(
                self._bar.task_ids[0],
                description=counts,
                completed=done,
                text="  ".join(parts),
                refresh=True,
            )
        now = time.monotonic()
        self._next_refresh = now + max(REFRESH_S, (now - started) / MAX_COST)

    def _log_tenth(self, agent: Agent) -> None:
        done, total = _budget(agent)
        if 10 * done < self._next_tenth * total:
            return
        self._next_tenth = 10 * done // total + 1
        self._marks.append((time.monotonic(), agent.env_steps, done))
        parts = ", ".join(self._parts(total))
        percent = min(100, 100 * done // total)  # whole rollouts may pass the budget
        log.info("%d %%: %s, %s", percent, _counts(done, total), parts)

    def _parts(self, total: int) -> list[str]:
        """Return speed, return, loss, epsilon and time left, as far as they are known."""
        (t0, steps0, done0), (t1, steps1, done1) = self._marks[0], self._marks[-1]
        seconds = max(t1 - t0, 1e-9)
        parts = [f"{_short((steps1 - steps0) / seconds)} steps/s"]
        if self._returns:
            parts.append(f"return {sum(self._returns) / len(self._returns):.4g}")
        loss = next((tag for tag in LOSSES if tag in self._statistics), None)
        if loss is not None:
            parts.append(f"loss {self._statistics[loss]:.2g}")
        if "train/epsilon" in self._statistics:
            parts.append(f"ε {self._statistics['train/epsilon']:.2f}")
        if done1 > done0:
            parts.append(f"ETA {_clock(max(0, total - done1) * seconds / (done1 - done0))}")
        return parts


class _Line(Progress):
    def get_renderable(self) -> RenderableType:
        return _WithMargin(super().get_renderable())


class _WithMargin:
    def __init__(self, content: RenderableType) -> None:
        self.content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.content, options.update_width(options.max_width - MARGIN))


def _budget(agent: Agent) -> tuple[int, int]:
    """Return how much of the budget is spent and how much there is, in env steps or episodes."""
    if agent.total_env_steps is not None:
        return agent.env_steps, agent.total_env_steps
    return agent.episodes, agent.total_episodes


def _counts(done: int, total: int) -> str:
    return f"{done:,}/{total:,}"


def _short(rate: float) -> str:
    return f"{rate / 1000:.1f}k" if rate >= 10_000 else f"{rate:.0f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
