"""MinAtar: five Atari games on a 10 x 10 grid, as Gymnasium environments (extra `minatar`).

Young and Tian (2019), https://arxiv.org/abs/1903.03176. Registered as `MinAtar/Breakout-v1` and so
on; `-v0` has all six actions, `-v1` those that do something in the game. What differs from the
package's own Gymnasium class: channels come first and are bytes (0 or 1), which image encoders take
and replay keeps small; and a reset forgets the last action, which sticky actions would otherwise
carry into the next episode, so that an episode follows from its seed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.types import Array

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
# Empty cells, then colours of equal steps for the channels.
_BACKGROUND = 0
_BRIGHTEST = 255
_PIXELS_PER_CELL = 16


class MinAtarEnv(gymnasium.Env):
    """One game. Observations are `(C, 10, 10)` uint8 grids of zeros and ones.

    Args:
        game: One of `GAMES`.
        minimal_actions: Only the actions that do something in this game.
        sticky_action_prob: Probability that the last action is repeated instead, in [0, 1].
        difficulty_ramping: Let the games that do so become harder with time.
        render_mode: `rgb_array` or None.

    Raises:
        ConfigError: For another game, or when MinAtar is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own

    def __init__(
        self,
        game: str,
        minimal_actions: bool = True,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if game not in GAMES:
            raise ConfigError(
                f"expected game among {GAMES}, received {game!r}{did_you_mean(game, GAMES)}"
            )
        self.game: Any = _load(game)(ramping=difficulty_ramping)
        self.actions = (
            [int(a) for a in self.game.minimal_action_set()] if minimal_actions else list(range(6))
        )
        self.sticky_action_prob = sticky_action_prob
        self.render_mode = render_mode
        height, width, channels = self.game.state_shape()
        self.observation_space = spaces.Box(0, 1, (channels, height, width), np.uint8)
        self.action_space = spaces.Discrete(len(self.actions))
        self.last_action = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; with `seed`, all that happens in it follows from the actions."""
        super().reset(seed=seed)
        if seed is not None:
            self.game.random = np.random.RandomState(self.np_random.integers(2**32))
        self.last_action = 0
        self.game.reset()
        return self._observe(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Act, or repeat the last action by chance; episodes end by the game's rules alone."""
        if self.game.random.rand() >= self.sticky_action_prob:
            self.last_action = self.actions[action]
        reward, terminated = self.game.act(self.last_action)
        return self._observe(), float(reward), bool(terminated), False, {}

    def render(self) -> Array:  # type: ignore[override]  # Gymnasium's type leaves the shape open
        """Return the grid as an RGB image, one shade per channel, the last one on top."""
        cells = self._observe()
        shades = np.linspace(_BACKGROUND, _BRIGHTEST, len(cells) + 1).astype(np.uint8)[1:]
        image = (cells * shades[:, None, None]).max(axis=0)
        image = np.kron(image, np.ones((_PIXELS_PER_CELL, _PIXELS_PER_CELL), np.uint8))
        return np.repeat(image[:, :, None], 3, axis=2)

    def _observe(self) -> Array:
        return np.ascontiguousarray(self.game.state().transpose(2, 0, 1), dtype=np.uint8)


def _load(game: str) -> Any:
    """Return the class of one game."""
    try:
        return import_module(f"minatar.environments.{game}").Env
    except ImportError as error:
        raise ConfigError("MinAtar is missing: pip install 'lightning-rl[minatar]'") from error


for _game in GAMES:
    for _version in (0, 1):
        gymnasium.register(
            f"MinAtar/{_game.title().replace('_', '')}-v{_version}",
            entry_point=f"{__name__}:{MinAtarEnv.__name__}",
            kwargs={"game": _game, "minimal_actions": _version == 1},
        )
