"""The callback base class: Lightning's hooks plus the events of reinforcement learning.

Everything here is optional. An agent asks `listeners` once which callbacks override a hook, so
that a hook nobody overrides costs nothing, and plain Lightning callbacks, which have none of these
hooks, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from lightning.pytorch import Callback as LightningCallback
from lightning.pytorch import Trainer

from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.types import Episode, Statistics

Agent: TypeAlias = Any
"""An `Algorithm`. Callbacks read its public attributes: `env_steps`, `episodes`, `iteration`,
`gradient_steps`, `total_env_steps`, `total_episodes`, `elapsed_s`, `collect_s`."""


class Callback(LightningCallback):
    """A Lightning callback with the hooks of a training run; each does nothing unless overridden.

    `statistics` maps metric tags to the numbers of the current iteration. All callbacks share it:
    read it, do not change it. `state_dict()` may hold only tensors and primitives, and neither wall
    clock nor absolute paths: it is compared bit for bit between a stopped and an unstopped run.
    """

    def on_training_begins(self, trainer: Trainer, agent: Agent) -> None:
        """Run when a run is ready to collect: begun anew, or restored from a checkpoint."""

    def on_unit_boundary(self, trainer: Trainer, agent: Agent) -> None:
        """Run between two training units, the place where a run can be saved exactly."""

    def on_save_due(self, trainer: Trainer, agent: Agent) -> None:
        """Run in a long unit or evaluation, at a step boundary, when `agent.save_at` is past."""

    def on_stop(self, trainer: Trainer, agent: Agent) -> None:
        """Run when a signal ends the run, at a step boundary, before `Interrupted` is raised."""

    def on_iteration_start(self, trainer: Trainer, agent: Agent) -> None:
        """Run before the experience of one training unit is collected."""

    def on_rollout_start(self, trainer: Trainer, agent: Agent) -> None:
        """Run before the collector takes its first env step of this unit."""

    def on_rollout_end(self, trainer: Trainer, agent: Agent, statistics: Statistics) -> None:
        """Run when the unit's experience is complete, before any gradient step on it."""

    def on_env_log(self, trainer: Trainer, agent: Agent, values: Statistics) -> None:
        """Run at the end of a rollout with the means of the scalars in the env's `info["log"]`."""

    def on_update_start(self, trainer: Trainer, agent: Agent) -> None:
        """Run before the first gradient step of this unit."""

    def on_update_end(self, trainer: Trainer, agent: Agent, statistics: Statistics) -> None:
        """Run after the last gradient step of this unit."""

    def on_iteration_end(self, trainer: Trainer, agent: Agent, statistics: Statistics) -> None:
        """Run when collecting and updating of this unit are both done."""

    def on_episode_end(self, trainer: Trainer, agent: Agent, episode: Episode) -> None:
        """Run once for each finished training episode, in the order in which they ended."""

    def on_metrics(
        self, trainer: Trainer, agent: Agent, metrics: Statistics, env_steps: int
    ) -> None:
        """Run whenever a row is logged, of training or of evaluation, with all that is in it."""

    def metrics(self, trainer: Trainer, agent: Agent) -> Statistics:
        """Return what to add to the training row about to be logged, and accumulate anew."""
        return {}


_NOT_HOOKS = {"state_dict", "load_state_dict", "state_key"}
HOOKS = sorted(
    name for name in dir(Callback) if not name.startswith("_") and name not in _NOT_HOOKS
)
"""Names of all hooks, ours and Lightning's."""


class EventCallback(Callback):
    """Attach plain functions to events, without writing a class.

    A function receives what the hook receives: `trainer`, `agent` and the hook's own arguments.

    Example:
        >>> seen = []
        >>> log = EventCallback(on_episode_end=lambda trainer, agent, episode: seen.append(episode))

    Args:
        **functions: Hook name (one of `HOOKS`) to function.

    Raises:
        ConfigError: If there is no such hook, or if the value cannot be called.
    """

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            if name not in HOOKS:
                hint = did_you_mean(name, HOOKS)
                raise ConfigError(f"EventCallback: there is no hook called {name!r}{hint}")
            if not callable(function):
                kind = type(function).__name__
                raise ConfigError(f"EventCallback: {name} expects a function, received {kind}")
            setattr(self, name, function)


def overrides(callback: LightningCallback, hook: str) -> bool:
    """Return whether `callback` does something of its own at `hook`."""
    if hook in vars(callback):
        return True
    function = getattr(type(callback), hook, None)
    return function is not None and function is not getattr(Callback, hook, None)


def listeners(callbacks: Iterable[LightningCallback], hook: str) -> list[Any]:
    """Return the `callbacks` (usually `trainer.callbacks`) that override `hook`, in their order."""
    return [callback for callback in callbacks if overrides(callback, hook)]
