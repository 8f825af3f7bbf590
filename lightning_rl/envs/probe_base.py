"""What the probe environments are made of: their spaces, what they show and how they score."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.errors import ConfigError

StepResult = tuple[Any, float, bool, bool, dict[str, Any]]

BIT = spaces.Discrete(2)
SIGN = spaces.Box(-1.0, 1.0, (1,), np.float32)
ACTION_SPACES: dict[str, spaces.Space] = {
    "discrete": BIT,
    "box": SIGN,
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(2),
}
OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "box": SIGN,
    "discrete": BIT,
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(2),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "dict": spaces.Dict({"sign": SIGN, "bit": BIT}),
    "tuple": spaces.Tuple((BIT, SIGN)),
}


def show_bit(kind: str, bit: int) -> Any:
    """Return the observation of `OBSERVATION_SPACES[kind]` that tells whether `bit` is 0 or 1."""
    sign = np.array([2.0 * bit - 1.0], dtype=np.float32)
    image = np.zeros((36, 36, 1), dtype=np.uint8)
    image[:, 18 * bit : 18 * bit + 18] = 255
    return {
        "box": sign,
        "discrete": np.int64(bit),
        "multi_discrete": np.array([bit, 2 * bit]),
        "multi_binary": np.array([bit, 1 - bit], dtype=np.int8),
        "image": image,
        "dict": {"sign": sign, "bit": np.int64(bit)},
        "tuple": (np.int64(bit), sign),
    }[kind]


def read_bit(kind: str, observation: Any) -> int:
    """Return the bit that an observation from `show_bit` tells."""
    if kind == "image":
        return int(observation[0, -1, 0] > 0)
    leaf = observation["bit"] if kind == "dict" else observation
    return int(np.ravel(leaf[0] if kind == "tuple" else leaf)[0] > 0)


def score_action(kind: str, action: Any, bit: int) -> float:
    """Return the reward of an action that should tell `bit`; 1 at best, smooth for Box.

    The best actions are `bit`, `(bit, 2 bit)`, `(bit, 1 - bit)`, and 0.5 or -0.5 for Box, inside
    its bounds, where clipping does not help to find it.
    """
    if kind == "box":
        return 1.0 - float(np.ravel(action)[0] - (bit - 0.5)) ** 2
    targets = {
        "discrete": [bit],
        "multi_discrete": [bit, 2 * bit],
        "multi_binary": [bit, 1 - bit],
    }
    return float(np.mean(np.ravel(action) == targets[kind]))


def choose_space(kind: str, choices: dict[str, spaces.Space], what: str) -> spaces.Space:
    """Return a copy of the space that `kind` names.

    Raises:
        ConfigError: For another name.
    """
    if kind not in choices:
        raise ConfigError(f"expected {what} among {sorted(choices)}, received {kind!r}")
    return copy.deepcopy(choices[kind])  # a space carries a random generator


class ProbeEnv(gymnasium.Env):
    """Base of the probes: one zero to observe, two actions, one step, reward 1.

    Attributes:
        optimal_return: Undiscounted return of an episode under the best policy, on average.
    """

    optimal_return: float = 1.0

    def __init__(self) -> None:
        self.observation_space: spaces.Space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space: spaces.Space = spaces.Discrete(2)

    def optimal_value(self, observation: Any, gamma: float) -> float:
        """Return the discounted value of what `observation` shows, under the best policy."""
        return 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> StepResult:
        """End the episode with reward 1."""
        return np.zeros(1, dtype=np.float32), 1.0, True, False, {}
