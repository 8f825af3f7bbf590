"""Tiny environments whose best return and values are known, to test algorithms against.

Each is registered as `LightningRL/<Name>-v0` when this module is imported, costs microseconds, can
be saved exactly, and says what the best policy earns (`optimal_return`, per episode, undiscounted)
and what a state is worth (`optimal_value`). They build on each other: an algorithm that fails the
first has a broken value loss, the second a broken encoder, the third broken discounting, the fourth
a broken policy loss. `CountEnv` shows any loss of step, `FaultEnv` misbehaves on request.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.envs.probe_base import (
    ACTION_SPACES,
    OBSERVATION_SPACES,
    ProbeEnv,
    StepResult,
    choose_space,
    score_action,
    show_bit,
)

HANG_SECONDS = 3600.0


class ConstantRewardEnv(ProbeEnv):
    """One step, always reward 1: the value must become 1. Return 1."""


class ObservationRewardEnv(ProbeEnv):
    """One step, reward -1 or 1 as the observation says: the value must follow it. Mean return 0."""

    optimal_return = 0.0

    def optimal_value(self, observation: Any, gamma: float) -> float:
        """Return the sign that is shown."""
        return float(observation[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw the sign."""
        super().reset(seed=seed)
        self._bit = int(self.np_random.integers(2))
        return show_bit("box", self._bit), {}

    def step(self, action: Any) -> StepResult:
        """End the episode and pay the sign."""
        return show_bit("box", self._bit), 2.0 * self._bit - 1.0, True, False, {}


class DelayedRewardEnv(ProbeEnv):
    """Two steps, reward 0 then 1: the values must become gamma and 1. Return 1."""

    def optimal_value(self, observation: Any, gamma: float) -> float:
        """Return gamma where 0 is observed (before the first step), 1 where 1 is."""
        return 1.0 if observation[0] > 0.5 else gamma

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Show 0."""
        self._step = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> StepResult:
        """Show 1; the second time also pay 1 and end."""
        self._step += 1
        last = self._step == 2
        return np.ones(1, dtype=np.float32), float(last), last, False, {}


class ActionRewardEnv(ProbeEnv):
    """One step; the policy must pick the action that tells 1, whatever the action space. Return 1.

    Args:
        action: Kind of action space, a key of `ACTION_SPACES`.
    """

    def __init__(self, action: str = "discrete") -> None:
        super().__init__()
        self.action_space = choose_space(action, ACTION_SPACES, "action")
        self.action_kind = action

    def step(self, action: Any) -> StepResult:
        """Score the action and end."""
        reward = score_action(self.action_kind, action, 1)
        return np.zeros(1, dtype=np.float32), reward, True, False, {}


class ObservationActionEnv(ProbeEnv):
    """The policy must tell the bit that it is shown; a new bit at each of `length` steps.

    The return is `length` at best. Actions have no influence on what comes.

    Args:
        observation: Kind of observation space, a key of `OBSERVATION_SPACES`.
        action: Kind of action space, a key of `ACTION_SPACES`.
        length: Steps of an episode.
    """

    def __init__(self, observation: str = "box", action: str = "discrete", length: int = 1) -> None:
        super().__init__()
        self.observation_space = choose_space(observation, OBSERVATION_SPACES, "observation")
        self.action_space = choose_space(action, ACTION_SPACES, "action")
        self.observation_kind, self.action_kind, self.length = observation, action, length
        self.optimal_return = float(length)

    def optimal_value(self, observation: Any, gamma: float) -> float:
        """Return the value at the start of an episode; the observation does not matter."""
        return sum(gamma**step for step in range(self.length))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Show the first bit."""
        super().reset(seed=seed)
        self._step = 0
        return self._show(), {}

    def step(self, action: Any) -> StepResult:
        """Score the action against the bit that was shown, and show the next."""
        reward = score_action(self.action_kind, action, self._bit)
        self._step += 1
        return self._show(), reward, self._step >= self.length, False, {}

    def _show(self) -> Any:
        self._bit = int(self.np_random.integers(2))
        return show_bit(self.observation_kind, self._bit)


class TruncationEnv(ProbeEnv):
    """Reward 1 at each step, and an end after `num_steps` that is, or is not, part of the task.

    Truncated, the value must be 1 / (1 - gamma) in every state, which holds only if the end is
    bootstrapped through. The terminated twin's is (1 - gamma^left) / (1 - gamma). Return:
    the steps.

    Args:
        num_steps: Steps of an episode.
        ends: `truncated` or `terminated`.
    """

    def __init__(
        self, num_steps: int = 5, ends: Literal["truncated", "terminated"] = "truncated"
    ) -> None:
        super().__init__()
        self.num_steps, self.ends = num_steps, ends
        self.optimal_return = float(num_steps)

    def optimal_value(self, observation: Any, gamma: float) -> float:
        """Return the value of a state; its observation is the share of the steps that is over."""
        if self.ends == "truncated":
            return 1.0 / (1.0 - gamma)
        left = self.num_steps - round(float(observation[0]) * self.num_steps)
        return (1.0 - gamma**left) / (1.0 - gamma)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Show 0."""
        self._step = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> StepResult:
        """Pay 1; show the share of the steps that is over."""
        self._step += 1
        over = self._step >= self.num_steps
        observation = np.array([self._step / self.num_steps], dtype=np.float32)
        truncated = over and self.ends == "truncated"
        return observation, 1.0, over and not truncated, truncated, {}


class CountEnv(ProbeEnv):
    """Observation and reward are the number of steps taken: a lost or doubled one shows at once.

    The seed decides the length (`length_of`), and with length L the return is L (L + 1) / 2.

    Args:
        min_length: Steps of the shortest episode.
        max_length: Steps of the longest.
        action: Kind of action space, a key of `ACTION_SPACES`.
        observation: `box`, or `discrete` for the plain number.
    """

    def __init__(
        self,
        min_length: int = 5,
        max_length: int = 10,
        action: str = "discrete",
        observation: str = "box",
    ) -> None:
        super().__init__()
        self.action_space = choose_space(action, ACTION_SPACES, "action")
        self.observation_space = choose_space(
            observation,
            {
                "box": spaces.Box(0.0, float(max_length), (1,), np.float32),
                "discrete": spaces.Discrete(max_length + 1),
            },
            "observation",
        )
        self.min_length, self.max_length = min_length, max_length
        lengths = range(min_length, max_length + 1)
        self.optimal_return = sum(n * (n + 1) / 2 for n in lengths) / len(lengths)

    def length_of(self, seed: int) -> int:
        """Return the length of the episode with this seed."""
        return self.min_length + seed % (self.max_length - self.min_length + 1)

    def optimal_value(self, observation: Any, gamma: float) -> float:
        """Return the value at step n of an episode of the length that is running."""
        taken = round(float(np.ravel(observation)[0]))
        return sum(gamma ** (n - taken - 1) * n for n in range(taken + 1, self.length + 1))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start at 0; the info holds the episode's `seed` and `length`."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self.count, self.length = 0, self.length_of(seed)
        return self._show(), {"seed": seed, "length": self.length}

    def step(self, action: Any) -> StepResult:
        """Count one."""
        self.count += 1
        return self._show(), float(self.count), self.count >= self.length, False, {}

    def _show(self) -> Any:
        if isinstance(self.observation_space, spaces.Discrete):
            return np.int64(self.count)
        return np.array([self.count], dtype=np.float32)


class FaultEnv(CountEnv):
    """A `CountEnv` that fails at a chosen call, counted from 1 over the life of the instance.

    Args:
        raise_at: Call that raises `RuntimeError`.
        hang_at: Call that sleeps for an hour.
        die_at: Call that kills the process (SIGKILL, as the kernel does when memory runs out).
        nan_at: Call that returns an observation of NaN.
        nan_reward_at: Step that returns a reward of NaN.
        bad_shape_at: Call that returns an observation of shape `(2,)`.
        where: Which calls are counted, and fail: `step`, `reset` or `init`.
        min_length: As in `CountEnv`.
        max_length: As in `CountEnv`.
    """

    def __init__(
        self,
        raise_at: int | None = None,
        hang_at: int | None = None,
        die_at: int | None = None,
        nan_at: int | None = None,
        nan_reward_at: int | None = None,
        bad_shape_at: int | None = None,
        where: Literal["step", "reset", "init"] = "step",
        min_length: int = 5,
        max_length: int = 10,
    ) -> None:
        super().__init__(min_length, max_length)
        self.raise_at, self.hang_at, self.die_at = raise_at, hang_at, die_at
        self.nan_at, self.nan_reward_at, self.bad_shape_at = nan_at, nan_reward_at, bad_shape_at
        self.where = where
        self.calls = 0
        if where == "init":
            self._fail()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset as `CountEnv` does, or fail."""
        observation, info = super().reset(seed=seed)
        if self.where == "reset":
            self._fail()
            observation = self._spoil(observation)
        return observation, info

    def step(self, action: Any) -> StepResult:
        """Count one, or fail."""
        observation, reward, terminated, truncated, info = super().step(action)
        if self.where == "step":
            self._fail()
            observation = self._spoil(observation)
            reward = float("nan") if self.calls == self.nan_reward_at else reward
        return observation, reward, terminated, truncated, info

    def _fail(self) -> None:
        self.calls += 1
        if self.calls == self.raise_at:
            raise RuntimeError(f"FaultEnv raises at {self.where} {self.calls}")
        if self.calls == self.hang_at:
            time.sleep(HANG_SECONDS)
        if self.calls == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _spoil(self, observation: np.ndarray) -> np.ndarray:
        if self.calls == self.nan_at:
            return np.full_like(observation, np.nan)
        return np.zeros(2, dtype=np.float32) if self.calls == self.bad_shape_at else observation


PROBES: dict[str, type[ProbeEnv]] = {
    f"LightningRL/{kind.__name__.removesuffix('Env')}-v0": kind
    for kind in (
        ConstantRewardEnv,
        ObservationRewardEnv,
        DelayedRewardEnv,
        ActionRewardEnv,
        ObservationActionEnv,
        TruncationEnv,
        CountEnv,
        FaultEnv,
    )
}
"""Registered id to class."""

for _identifier, _kind in PROBES.items():
    gymnasium.register(_identifier, entry_point=f"{__name__}:{_kind.__name__}")
