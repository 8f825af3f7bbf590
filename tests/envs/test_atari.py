"""Atari preprocessing, on the emulator."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("ale_py")

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.snapshot import probe_snapshot_level
from lightning_rl.errors import ConfigError

WRAPPER = "lightning_rl.envs.atari.AtariPreprocessing"
NOOP, FIRE, RIGHT = 0, 1, 2


def game(
    identifier: str = "BreakoutNoFrameskip-v4", evaluation: bool = False, **kwargs: Any
) -> Any:
    config = EnvConfig(
        identifier,
        kwargs={"frameskip": 1, "obs_type": "grayscale"},
        wrappers=[{"class_path": WRAPPER, "init_args": kwargs}],
    )
    return config.make(evaluation)


def frames(env: gymnasium.Env) -> int:
    return env.unwrapped.ale.getFrameNumber()  # type: ignore[attr-defined]


def lose_a_life(env: gymnasium.Env) -> tuple[Any, ...]:
    """Play Breakout without moving until a life is lost or the game is over."""
    lives = env.unwrapped.ale.lives()  # type: ignore[attr-defined]
    for _ in range(2_000):
        result = env.step(NOOP)
        over = env.unwrapped.ale.lives() < lives  # type: ignore[attr-defined]
        if over or result[2] or result[3]:
            return result
    raise AssertionError("no life was lost")


@pytest.mark.parametrize("identifier", ["ALE/Pong-v5", "PongNoFrameskip-v4"])
def test_a_step_is_four_frames_of_a_small_grey_image(identifier: str) -> None:
    env = game(identifier)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (84, 84)
    assert observation.dtype == np.uint8
    before = frames(env)
    for _ in range(5):
        observation, reward, terminated, truncated, _ = env.step(RIGHT)
        assert env.observation_space.contains(observation)
        assert (reward, terminated, truncated) == (0.0, False, False)
    assert frames(env) - before == 20
    assert env.get_wrapper_attr("sticky") == (0.25 if identifier.startswith("ALE") else 0.0)


def test_sticky_actions_repeat_the_action_of_the_frame_before() -> None:
    env = game("ALE/Pong-v5")
    env.reset(seed=0)
    draw = env.get_wrapper_attr("_stick")
    draw(RIGHT)
    frames_of = np.array([draw(RIGHT + step % 2) for step in range(4_000)])
    asked = np.array([RIGHT + step % 2 for step in range(4_000)])
    assert set(np.unique(frames_of)) == {RIGHT, RIGHT + 1}
    others = frames_of != asked[:, None]  # the chance that all frames so far stuck
    assert others.mean(axis=0) == pytest.approx([0.25, 0.25**2, 0.25**3, 0.25**4], abs=0.03)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0.0


def test_it_is_the_brighter_of_the_last_two_frames() -> None:
    env = game("PongNoFrameskip-v4", screen_size=160)
    env.reset(seed=0)
    twin = gymnasium.make("PongNoFrameskip-v4", obs_type="grayscale").unwrapped
    for _ in range(20):
        env.step(RIGHT)
    twin.reset(seed=1)
    twin.ale.restoreState(env.unwrapped.ale.cloneState(include_rng=True))
    observation = env.step(RIGHT)[0]
    screens = [twin.step(RIGHT)[0] for _ in range(4)]
    expected = np.maximum(screens[2], screens[3])
    assert not np.array_equal(screens[2], screens[3])
    # 210 rows become 160, 160 columns stay: a column's mean is kept.
    assert observation.mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.5)


def test_a_game_begins_with_a_random_number_of_no_ops() -> None:
    env = game(fire_reset=False)
    begins = set()
    for seed in range(6):
        env.reset(seed=seed)
        begins.add(env.unwrapped.ale.getEpisodeFrameNumber())
    assert 1 <= min(begins) < max(begins) <= 30
    assert len(begins) > 2
    env.reset(seed=3)
    begun = env.unwrapped.ale.getEpisodeFrameNumber()
    env.reset(seed=3)
    assert env.unwrapped.ale.getEpisodeFrameNumber() == begun
    plain = game(fire_reset=False, noop_max=0)
    plain.reset(seed=0)
    assert plain.unwrapped.ale.getEpisodeFrameNumber() == 0


def test_training_episodes_are_lives_of_one_game() -> None:
    env = game()
    env.reset(seed=0)
    for lives in (4, 3, 2, 1):
        _, _, terminated, truncated, info = lose_a_life(env)
        assert terminated
        assert not truncated
        assert env.unwrapped.ale.lives() == lives
        assert "log" not in info
        begun = frames(env)
        env.reset(seed=99)
        assert 0 < frames(env) - begun <= 8  # one no-op, one FIRE: no new game
    _, _, terminated, _, info = lose_a_life(env)
    assert terminated
    assert info["log"]["game_return"] >= 0.0
    env.reset(seed=1)
    assert env.unwrapped.ale.lives() == 5


def test_evaluation_plays_full_games_and_fires_for_each_life() -> None:
    env = game(evaluation=True)
    env.reset(seed=0)
    total, lives, ends = 0.0, [], 0
    for _ in range(6_000):
        _, reward, terminated, truncated, info = env.step(NOOP)
        total += reward
        lives.append(env.unwrapped.ale.lives())
        ends += terminated or truncated
        if ends:
            break
    assert ends == 1
    assert sorted(set(lives)) == [0, 1, 2, 3, 4, 5]
    assert info["log"]["game_return"] == total


def test_rewards_are_clipped_in_training_only() -> None:
    paid = []
    for evaluation in (False, True):
        env = game("SpaceInvadersNoFrameskip-v4", evaluation)
        env.reset(seed=0)
        actions = np.random.default_rng(0)
        rewards = {env.step(int(actions.integers(6)))[1] for _ in range(200)}
        paid.append(rewards)
    assert paid[0] == {0.0, 1.0}
    assert max(paid[1]) >= 5.0


def test_a_time_limit_counts_env_steps() -> None:
    config = EnvConfig("PongNoFrameskip-v4", wrappers=[WRAPPER], max_episode_steps=7, frame_stack=4)
    env = config.make()
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4, 84, 84)
    flags = [env.step(NOOP)[2:4] for _ in range(7 - 1)]  # FIRE was the first
    assert flags == [(False, False)] * 5 + [(False, True)]


@pytest.mark.parametrize("identifier", ["ALE/Breakout-v5", "BreakoutNoFrameskip-v4"])
def test_its_state_can_be_saved(identifier: str) -> None:
    make = partial(
        EnvConfig(identifier, kwargs={"frameskip": 1}, wrappers=[WRAPPER], frame_stack=4).make
    )
    assert probe_snapshot_level(make) == "exact"


def test_double_repetition_and_other_environments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ALE/Pong-v5 repeats 4; set env\.kwargs"):
        EnvConfig("ALE/Pong-v5", wrappers=[WRAPPER]).make()
    with pytest.raises(ConfigError, match=r"expects an Atari environment .* received CartPole-v1"):
        EnvConfig("CartPole-v1", wrappers=[WRAPPER]).make()
    with pytest.raises(ConfigError, match="action_repeat"):
        game(action_repeat=0)
