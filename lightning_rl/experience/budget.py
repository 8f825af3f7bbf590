"""The run's budget and clock: env steps (or finished episodes), never optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_rl.errors import ConfigError

DEFAULT_ENV_STEPS = 100_000
UNBOUNDED_UNITS = 1_000_000_000
"""Length of an epoch whose end only the episodes decide."""


@dataclass(frozen=True)
class Budget:
    """What a run may spend; exactly one of `env_steps` and `episodes` is set.

    Attributes:
        env_steps: Transitions over all environments and ranks.
        episodes: Finished training episodes over all environments and ranks.
        schedule_env_steps: Env steps after which schedules stay at their end value; stays when a
            run is extended.
        schedule_episodes: The same with a budget in episodes.
    """

    env_steps: int | None
    episodes: int | None
    schedule_env_steps: int | None
    schedule_episodes: int | None = None

    @classmethod
    def create(
        cls, env_steps: int | None, episodes: int | None, schedule_env_steps: int | None
    ) -> Budget:
        """Check the three arguments of an algorithm; neither budget given means 100,000 env steps.

        Raises:
            ConfigError: When both budgets are given, or a number is below 1.
        """
        if env_steps is not None and episodes is not None:
            raise ConfigError(
                "expected one of total_env_steps and total_episodes, "
                f"received {env_steps} and {episodes}"
            )
        given = {
            "total_env_steps": env_steps,
            "total_episodes": episodes,
            "schedule_env_steps": schedule_env_steps,
        }
        for name, value in given.items():
            if value is not None and value < 1:
                raise ConfigError(f"expected {name} to be at least 1, received {value}")
        if env_steps is None and episodes is None:
            env_steps = DEFAULT_ENV_STEPS
        return cls(env_steps, episodes, schedule_env_steps or env_steps, episodes)

    def is_spent(self, env_steps: int, episodes: int) -> bool:
        """Return whether the run is over."""
        if self.env_steps is not None:
            return env_steps >= self.env_steps
        return episodes >= (self.episodes or 0)

    def progress(self, env_steps: int, episodes: int) -> float:
        """Return how far schedules are, in [0, 1]."""
        if self.schedule_env_steps is not None:
            return min(1.0, env_steps / self.schedule_env_steps)
        return min(1.0, episodes / (self.schedule_episodes or self.episodes or 1))

    def units(self, unit_env_steps: int, env_steps_at_start: int) -> int:
        """Return the units of `unit_env_steps` in an epoch that began at `env_steps_at_start`."""
        if self.env_steps is None:
            return UNBOUNDED_UNITS
        return max(0, math.ceil((self.env_steps - env_steps_at_start) / unit_env_steps))
