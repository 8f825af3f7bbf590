"""Atari 2600 preprocessing as published, as one wrapper (extra `atari`).

Mnih et al. (2015), https://doi.org/10.1038/nature14236, and Machado et al. (2018),
https://arxiv.org/abs/1709.06009. One env step is `action_repeat` emulated frames, so
`frames = env_steps * action_repeat`. Lay it over an environment that repeats nothing itself:
`ALE/Pong-v5` with `kwargs: {frameskip: 1}` (sticky actions as asked for there, 0.25 by default), or
`PongNoFrameskip-v4` (none). `frame_stack: 4` stacks what it returns.

Sticky actions are taken over from the emulator, with the same probability in each frame: its saved
state does not hold the action to repeat, so a restored game could run on differently.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl.errors import ConfigError, check_ranges
from lightning_rl.types import Array

_FIRE = 1
_NOOP = 0


class AtariPreprocessing(gymnasium.Wrapper):
    """Repeated actions, the brighter of the last two frames, grey, 84 x 84, and how games begin.

    A game begins with up to `noop_max` no-ops. With `episodic_life` an episode ends with a life and
    the next one goes on in the same game, so that only episodes that begin a game follow from their
    seed. With `fire_reset`, FIRE is pressed whenever a life begins, also within a full game: a
    policy that never had to press it would wait for ever in evaluation.

    In evaluation episodes are full games with unclipped rewards, whatever is asked for. At the end
    of a game `info["log"]["game_return"]` is its unclipped score.

    Args:
        env: An `AtariEnv`, maybe with a time limit (which counts env steps).
        evaluation: Full games, unclipped rewards.
        action_repeat: Frames per env step, at least 1.
        noop_max: Most no-op frames at the beginning of a game; 0 for none.
        screen_size: Pixels of a side.
        episodic_life: End an episode when a life is lost.
        fire_reset: Press FIRE when a life begins, in games that have it.
        clip_reward: Replace rewards by their sign.

    Raises:
        ConfigError: For another environment, one that repeats actions itself, or values outside
            their range.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        evaluation: bool = False,
        action_repeat: int = 4,
        noop_max: int = 30,
        screen_size: int = 84,
        episodic_life: bool = True,
        fire_reset: bool = True,
        clip_reward: bool = True,
    ) -> None:
        super().__init__(env)
        check_ranges(
            {
                "action_repeat": (action_repeat, 1, None),
                "noop_max": (noop_max, 0, None),
                "screen_size": (screen_size, 1, None),
            }
        )
        _check_env(env)
        import cv2  # an extra

        self._resize, self._interpolation = cv2.resize, cv2.INTER_AREA
        game: Any = env.unwrapped
        meanings = game.get_action_meanings()
        self.action_repeat, self.noop_max = action_repeat, noop_max
        self.episodic_life = episodic_life and not evaluation
        self.clip_reward = clip_reward and not evaluation
        self.fires = fire_reset and len(meanings) > _FIRE and meanings[_FIRE] == "FIRE"
        self.observation_space = spaces.Box(0, 255, (screen_size, screen_size), np.uint8)
        self.sticky = float(game.ale.getFloat("repeat_action_probability"))
        game.ale.setFloat("repeat_action_probability", 0.0)
        game.load_game()  # when the emulator reads its settings
        self._last_action = _NOOP
        screen = game.ale.getScreenDims()
        self._screens = [np.zeros(screen, np.uint8), np.zeros(screen, np.uint8)]
        self._lives = 0
        self._game_goes_on = False
        self._score = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin a game, or the next life of the present one."""
        info: dict[str, Any] = {}
        begins_game = not self._game_goes_on
        if self._game_goes_on:
            self._game_goes_on = False
            begins_game = any(self._advance(_NOOP)[1:3])  # a last life may end at once
        if begins_game:
            info = self._begin_game(seed, options)
        if self.fires:
            self._advance(_FIRE)
        self._lives = self._ale.lives()
        return self._observe(), info

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Repeat `action`; with `episodic_life` a lost life terminates."""
        reward, terminated, truncated, info = self._advance(action)
        game_over = terminated or truncated
        lost_life = self._ale.lives() < self._lives
        self._lives = self._ale.lives()
        if game_over:
            info = {**info, "log": {"game_return": self._score}}
        elif lost_life and self.episodic_life:
            self._game_goes_on = terminated = True
        elif lost_life and self.fires:
            more, terminated, truncated, info = self._advance(_FIRE)
            reward += more
        if self.clip_reward:
            reward = float(np.sign(reward))
        return self._observe(), reward, terminated, truncated, info

    @property
    def _ale(self) -> Any:
        game: Any = self.unwrapped
        return game.ale

    def _begin_game(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
        _, info = self.env.reset(seed=seed, options=options)
        self._score, self._last_action = 0.0, _NOOP
        noops = int(self.np_random.integers(1, self.noop_max + 1)) if self.noop_max else 0
        for _ in range(noops):
            self._ale.act(_NOOP)
            if self._ale.game_over():
                self.env.reset(options=options)
        for screen in self._screens:
            self._ale.getScreenGrayscale(screen)
        return info

    def _advance(self, action: Any) -> tuple[float, bool, bool, dict[str, Any]]:
        """Emulate `action_repeat` frames and keep the last two screens."""
        ale, reward = self._ale, 0.0
        game: Any = self.unwrapped
        *first, final = self._stick(int(action))
        for repeated in first:
            if ale.game_over():
                break
            reward += ale.act(game._action_set[repeated])
        ale.getScreenGrayscale(self._screens[0])
        # The last one through the environment, for its flags and the time limits around it. Behind
        # a game's end it emulates nothing.
        _, last, terminated, truncated, info = self.env.step(final)
        ale.getScreenGrayscale(self._screens[1])
        reward += float(last)
        self._score += reward
        return reward, bool(terminated), bool(truncated), info

    def _stick(self, action: int) -> list[int]:
        """Return the action of each frame: `action`, or by chance the one of the frame before."""
        if not self.sticky:
            return [action] * self.action_repeat
        actions = []
        for draw in self.np_random.random(self.action_repeat):
            if draw >= self.sticky:
                self._last_action = action
            actions.append(self._last_action)
        return actions

    def _observe(self) -> Array:
        screen = np.maximum(*self._screens)
        height, width = self.observation_space.shape  # type: ignore[misc]
        return self._resize(screen, (width, height), interpolation=self._interpolation)


def _check_env(env: gymnasium.Env) -> None:
    game: Any = env.unwrapped
    if not hasattr(game, "ale") or not isinstance(env.action_space, spaces.Discrete):
        raise ConfigError(
            "AtariPreprocessing expects an Atari environment with Discrete actions, received "
            f"{env.spec.id if env.spec else type(game).__name__}"
        )
    if game._frameskip != 1:
        raise ConfigError(
            f"expected an environment that repeats no actions, but {env.spec and env.spec.id} "
            f"repeats {game._frameskip}; set env.kwargs: {{frameskip: 1}}, AtariPreprocessing "
            "repeats them"
        )
