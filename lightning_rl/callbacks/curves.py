"""`training_curves.png`: the course of a run in one picture, brought up to date while it runs."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from lightning_rl.callbacks.base import Agent, Callback
from lightning_rl.errors import check_ranges
from lightning_rl.storage.sealed import atomic_write_bytes
from lightning_rl.types import Array, Episode, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

FILENAME = "training_curves.png"
MAX_POINTS = 2_000
MAX_COST = 0.02
"""Part of the running time that drawing may take."""

# Okabe and Ito's palette, told apart with any colour vision; https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
COMPONENT_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#000000")
COMPONENT_STYLES = ("-", "--", ":")

EVAL_MEAN, EVAL_STD = "eval/mean_reward", "eval/std_reward"
LOSSES = {
    "train/value_loss": "value loss",
    "train/td_loss": "TD loss",
    "train/policy_loss": "policy loss",
}
SCHEDULES = {"train/epsilon": "epsilon", "train/learning_rate": "learning rate"}
COMPONENT, SHARE = "reward/", "reward_share/"
TRACKED = (EVAL_MEAN, EVAL_STD, *LOSSES, *SCHEDULES)


class TrainingCurves(Callback):
    """Draw `training_curves.png` into the run directory (`trainer.run_dir`; without one: nothing).

    Four panels over env steps: episode reward with moving average and evaluation mean ± standard
    deviation, episode length, losses, and epsilon or learning rate. Where the environment reports
    the components of its reward, two more show their sums per episode and their shares. It is drawn
    at the end of a run, also of a failed one, and before that after evaluations.

    Args:
        every_s: Least time between two drawings of a running run, in seconds; at least 0. Drawing
            never takes more than 2 % of the time, whatever this says.
        window: Length of the moving average in episodes; at least 1.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(self, every_s: float = 30.0, window: int = 50) -> None:
        check_ranges({"every_s": (every_s, 0, None), "window": (window, 1, None)})
        self.every_s = every_s
        self.window = window
        self._rewards = Series()
        self._lengths = Series()
        self._tags = {tag: Series() for tag in TRACKED}
        self._components: dict[str, Series] = {}  # in the order in which they were first seen
        self._next_drawing = 0.0

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Start the clock."""
        self._next_drawing = time.monotonic() + self.every_s

    def on_episode_end(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Add one episode to the curves."""
        self._rewards.add(episode.env_steps, episode.reward)
        self._lengths.add(episode.env_steps, episode.length)

    def on_metrics(
        self, trainer: Trainer, agent: Agent, metrics: Statistics, env_steps: int
    ) -> None:
        """Add losses, schedules, evaluation results and reward components of one row."""
        for tag, series in self._tags.items():
            if tag in metrics:
                series.add(env_steps, metrics[tag])
        for tag, value in metrics.items():
            if tag.startswith((COMPONENT, SHARE)):
                self._components.setdefault(tag, Series()).add(env_steps, value)

    def on_validation_end(self, trainer: Trainer, agent: Agent) -> None:
        """Bring the picture up to date, if that is due."""
        if trainer.sanity_checking or time.monotonic() < self._next_drawing:
            return
        started = time.monotonic()
        self._draw_for(trainer)
        now = time.monotonic()
        self._next_drawing = now + max(self.every_s, (now - started) / MAX_COST)

    def on_train_end(self, trainer: Trainer, agent: Agent) -> None:
        """Draw the whole run."""
        self._draw_for(trainer)

    def on_exception(self, trainer: Trainer, agent: Agent, exception: BaseException) -> None:
        """Draw what there is."""
        self._draw_for(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return all curves; at most 2,000 points each, however long the run is."""
        return {
            **{name: item.state_dict() for name, item in self._series().items() if item.is_used},
            "components": {tag: item.state_dict() for tag, item in self._components.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        unused = Series().state_dict()  # which `state_dict` leaves out
        for name, series in self._series().items():
            series.load_state_dict(state_dict.get(name, unused))
        components = state_dict.get("components", {})  # older checkpoints have none
        self._components = {tag: Series() for tag in components}
        for tag, series in self._components.items():
            series.load_state_dict(components[tag])

    def draw(self, path: Path) -> None:
        """Draw the picture into the file `path`, replacing it atomically."""
        # Imported late, for runs without pictures; the figure API alone, because pyplot has global
        # state that belongs to the user's own plots.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = 3 if self._components else 2
        figure = Figure(figsize=(11, 3.5 * rows), dpi=100)
        FigureCanvasAgg(figure)
        # Fixed margins: an automatic layout draws everything twice.
        edges = {"bottom": 0.16 / rows, "top": 1 - 0.12 / rows}
        margins = {"left": 0.08, "right": 0.98, **edges}
        axes = figure.subplots(rows, 2, gridspec_kw={**margins, "wspace": 0.4, "hspace": 0.35})
        self._draw_rewards(axes[0, 0])
        self._draw_lengths(axes[0, 1])
        self._draw_losses(axes[1, 0])
        self._draw_schedule(axes[1, 1])
        if self._components:
            self._draw_components(axes[2, 0], COMPONENT, "Reward components", "sum per episode")
            self._draw_components(axes[2, 1], SHARE, "Shares of the reward", "share, 0 to 1")
        # One x-axis for all panels, also where a curve begins late.
        drawn = [*self._series().values(), *self._components.values()]
        last = max(series.points()[0].max(initial=0.0) for series in drawn)
        for axis in axes.flat:
            axis.grid(alpha=0.25)
            if last > 0:
                axis.set_xlim(-0.01 * last, 1.01 * last)
            axis.spines["top"].set_visible(False)
            axis.set_xlabel("env steps")
            axis.xaxis.set_major_formatter(_short_number)
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        atomic_write_bytes(path, picture.getvalue(), durable=False)

    def _series(self) -> dict[str, Series]:
        return {"rewards": self._rewards, "lengths": self._lengths, **self._tags}

    def _draw_for(self, trainer: Trainer) -> None:
        """Draw into the run directory; a picture that fails is no reason to lose a run."""
        directory = getattr(trainer, "run_dir", None)
        if directory is None or not trainer.is_global_zero:
            return
        try:
            self.draw(Path(directory) / FILENAME)
        except Exception as error:
            log.warning("Could not draw %s: %s", FILENAME, error)

    def _draw_rewards(self, axis: Axes) -> None:
        self._draw_episodes(axis, self._rewards)
        steps, mean = self._tags[EVAL_MEAN].points()
        _, std = self._tags[EVAL_STD].points()
        if len(steps):
            axis.plot(steps, mean, color=ORANGE, marker="o", markersize=3, label="evaluation mean")
            if len(std) == len(mean):
                low, high = mean - std, mean + std
                axis.fill_between(steps, low, high, color=ORANGE, alpha=0.2, lw=0, label="± std")
        axis.set_title("Episode reward")
        axis.set_ylabel("undiscounted return")
        _legend(axis)

    def _draw_lengths(self, axis: Axes) -> None:
        self._draw_episodes(axis, self._lengths)
        axis.set_title("Episode length")
        axis.set_ylabel("env steps per episode")
        _legend(axis)

    def _draw_episodes(self, axis: Axes, series: Series) -> None:
        steps, values = series.points()
        if len(steps) == 0:
            return
        label = "episode" if series.stride == 1 else f"mean of {series.stride} episodes"
        axis.plot(steps, values, ".", color=GREY, markersize=2, alpha=0.6, label=label)
        average = moving_average(values, max(1, self.window // series.stride))
        axis.plot(steps, average, color=BLUE, label=f"moving average ({self.window} episodes)")

    def _draw_losses(self, axis: Axes) -> None:
        colours = {"train/value_loss": ORANGE, "train/td_loss": ORANGE, "train/policy_loss": BLUE}
        drawn = [tag for tag in LOSSES if len(self._tags[tag])]
        axes = [axis, axis.twinx()] if len(drawn) > 1 else [axis]
        lines = []
        for target, tag in zip(axes, drawn, strict=False):
            steps, values = self._tags[tag].points()
            (line,) = target.plot(steps, values, color=colours[tag], label=LOSSES[tag])
            lines.append(line)
            target.set_ylabel(LOSSES[tag], color=colours[tag])
            target.spines["top"].set_visible(False)
            if values.min() > 0 and values.max() > 100 * values.min():
                target.set_yscale("log")
                target.yaxis.minorticks_off()
            _leave_room_above(target)
        axis.set_title("Losses")
        if lines:  # both axes' lines: "best" would know those of one axis alone
            axes[-1].legend(handles=lines, loc="upper right", ncol=2, fontsize="small")

    def _draw_schedule(self, axis: Axes) -> None:
        tag = next((tag for tag in SCHEDULES if len(self._tags[tag])), "train/learning_rate")
        steps, values = self._tags[tag].points()
        axis.plot(steps, values, color=GREEN, label=SCHEDULES[tag])
        axis.set_title(SCHEDULES[tag].capitalize())
        axis.set_ylabel(SCHEDULES[tag])
        axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", scilimits=(-2, 4))
        _legend(axis)

    def _draw_components(self, axis: Axes, prefix: str, title: str, unit: str) -> None:
        found = [tag for tag in self._components if tag.startswith(prefix)]
        for number, tag in enumerate(found):
            colour = COMPONENT_COLOURS[number % len(COMPONENT_COLOURS)]
            style = COMPONENT_STYLES[number // len(COMPONENT_COLOURS) % len(COMPONENT_STYLES)]
            steps, values = self._components[tag].points()
            axis.plot(steps, values, style, color=colour, label=tag.removeprefix(prefix))
        axis.set_title(title)
        axis.set_ylabel(unit)
        if prefix == SHARE:
            axis.set_ylim(0, 1)
        _legend(axis)


class Series:
    """A curve of any length in at most 2,000 points, each the mean of equally many entries.

    When it is full, neighbours are joined and every later point stands for twice as many entries.
    Which entries share a point depends only on how many there were, so that a resumed run draws the
    same curve.

    Attributes:
        stride: Number of entries in each point.
    """

    def __init__(self) -> None:
        self.stride = 1
        self._points = np.empty((MAX_POINTS, 2))  # env steps, value
        self._size = 0
        self._open = [0.0, 0.0, 0]  # sums of env steps and value, number of entries

    def __len__(self) -> int:
        """Return the number of points, without an unfinished last one."""
        return self._size

    @property
    def is_used(self) -> bool:
        """Whether anything was added."""
        return self._size > 0 or self._open[2] > 0

    def add(self, env_steps: int, value: float) -> None:
        """Add an entry."""
        open_ = self._open
        open_[0] += env_steps
        open_[1] += float(value)  # a checkpoint holds no NumPy scalars
        open_[2] += 1
        if open_[2] < self.stride:
            return
        self._points[self._size, 0] = open_[0] / self.stride
        self._points[self._size, 1] = open_[1] / self.stride
        self._size += 1
        self._open = [0.0, 0.0, 0]
        if self._size == MAX_POINTS:
            half = self._points.reshape(MAX_POINTS // 2, 2, 2).mean(axis=1)
            self._points[: MAX_POINTS // 2] = half
            self._size = MAX_POINTS // 2
            self.stride *= 2

    def points(self) -> tuple[Array, Array]:
        """Return env steps and values, each `(points,)`, without an unfinished last point."""
        return self._points[: self._size, 0], self._points[: self._size, 1]

    def state_dict(self) -> dict[str, Any]:
        """Return points `(points, 2)`, stride and the unfinished point."""
        points = torch.from_numpy(self._points[: self._size].copy())
        return {"points": points, "stride": self.stride, "open": list(self._open)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        points = state_dict["points"].numpy()
        self._size = len(points)
        self._points[: self._size] = points
        self.stride = state_dict["stride"]
        self._open = list(state_dict["open"])


def moving_average(values: Array, window: int) -> Array:
    """Return the mean of each value and the up to `window - 1` values before it, `(n,)`."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - window)
    return (sums[end] - sums[start]) / (end - start)


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", fontsize="small")


def _short_number(value: float, _position: int | None = None) -> str:
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _leave_room_above(axis: Axes) -> None:
    """Extend the axis by a sixth, on its own scale, so that a legend at the top covers no line."""
    scale = axis.yaxis.get_transform()
    low, high = scale.transform(axis.get_ylim())
    axis.set_ylim(top=scale.inverted().transform([high + (high - low) / 6])[0])
