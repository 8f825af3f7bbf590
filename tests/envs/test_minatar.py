"""MinAtar as Gymnasium environments."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("minatar")

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.minatar import GAMES, MinAtarEnv
from lightning_rl.envs.snapshot import probe_snapshot_level
from lightning_rl.errors import ConfigError

CHANNELS = {"asterix": 4, "breakout": 4, "freeway": 7, "seaquest": 10, "space_invaders": 6}
MINIMAL = {"asterix": 5, "breakout": 3, "freeway": 3, "seaquest": 6, "space_invaders": 4}


def play(env: MinAtarEnv, seed: int, num_steps: int = 60) -> list[tuple[bytes, float, bool]]:
    actions = np.random.default_rng(seed)
    env.reset(seed=seed)
    events = []
    for _ in range(num_steps):
        observation, reward, terminated, _, _ = env.step(int(actions.integers(env.action_space.n)))
        events.append((observation.tobytes(), reward, terminated))
        if terminated:
            break
    return events


@pytest.mark.parametrize("game", GAMES)
def test_every_game_keeps_to_gymnasium(game: str) -> None:
    env = MinAtarEnv(game, minimal_actions=False)
    assert env.observation_space.shape == (CHANNELS[game], 10, 10)
    assert env.action_space.n == 6
    assert MinAtarEnv(game).action_space.n == MINIMAL[game]
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("game", GAMES)
def test_an_episode_follows_from_its_seed(game: str) -> None:
    used, new = MinAtarEnv(game), MinAtarEnv(game)
    play(used, 5)
    assert play(used, 1) == play(new, 1)
    assert play(new, 1) != play(new, 2)


def test_channels_are_those_of_the_game() -> None:
    env = MinAtarEnv("breakout")
    observation, _ = env.reset(seed=0)
    paddle, ball, trail, brick = observation
    assert np.argwhere(paddle).tolist() == [[9, 4]]
    assert ball.sum() == trail.sum() == 1
    assert brick[1:4].all()
    assert brick.sum() == 30


def test_sticky_actions_repeat_the_last_one() -> None:
    env = MinAtarEnv("breakout", sticky_action_prob=1.0)
    env.reset(seed=0)
    for _ in range(3):
        observation = env.step(2)[0]
    assert np.argwhere(observation[0]).tolist() == [[9, 4]]  # nothing but the first no-op
    env.sticky_action_prob = 0.0
    assert np.argwhere(env.step(2)[0][0]).tolist() == [[9, 5]]


@pytest.mark.parametrize("game", GAMES)
def test_states_can_be_saved(game: str) -> None:
    config = EnvConfig(f"MinAtar/{game.title().replace('_', '')}-v1")
    assert probe_snapshot_level(config.make) == "exact"


def test_it_can_be_filmed() -> None:
    env = MinAtarEnv("breakout", render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render()
    assert image.shape == (160, 160, 3)
    assert image.dtype == np.uint8
    assert (image[9 * 16 : 10 * 16, 4 * 16 : 5 * 16] > 0).all()  # the paddle's cell
    assert not image[:16, :16].any()


def test_another_game_is_refused() -> None:
    with pytest.raises(ConfigError, match="received 'pong'"):
        MinAtarEnv("pong")
