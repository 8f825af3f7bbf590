"""Batched implementations behind the contract, whichever way they reset their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.contract import VectorEnv
from lightning_rl.envs.native import NativeRows
from lightning_rl.envs.probes import CountEnv
from lightning_rl.envs.state_walk import UnsupportedState
from lightning_rl.errors import ConfigError
from lightning_rl.functional.trees import map_tree


class BatchedCount(gymnasium.vector.VectorEnv):
    """Counts in all rows; row r's episodes have r + 2 steps, every other end is a truncation."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, mode: Any = AutoresetMode.NEXT_STEP, finals: bool = True):
        self.metadata = {"autoreset_mode": mode}
        self.num_envs, self.finals = num_envs, finals
        self.single_observation_space = spaces.Box(0.0, 100.0, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.lengths = np.arange(num_envs) + 2
        self.ended = np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        if mask.all():
            self.count = np.zeros(self.num_envs)
        self.count[mask], self.ended[mask] = 0, False
        return self._observe(), {}

    def step(self, actions: Any) -> Any:
        mode = self.metadata["autoreset_mode"]
        resets = (
            self.ended.copy() if mode == AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, bool)
        )
        self.count = np.where(resets, 0, self.count + 1)
        self.ended = self.count >= self.lengths
        reward, info = np.where(resets, -99.0, self.count), {}
        if mode == AutoresetMode.SAME_STEP and self.ended.any():
            if self.finals:
                finals = np.array([*self._observe(), None], dtype=object)[:-1]
                info = {"final_obs": finals, "_final_obs": self.ended.copy()}
            ended = self.ended
            self.count = np.where(ended, 0, self.count)
            return self._observe(), reward, ended, np.zeros_like(ended), info
        return self._observe(), reward, self.ended.copy(), np.zeros_like(resets), info

    def _observe(self) -> np.ndarray:
        return self.count[:, None].astype(np.float32)


@pytest.fixture
def batched() -> Iterator[Callable[..., NativeRows]]:
    gymnasium.register(
        "BatchedCount-v0",
        entry_point=CountEnv,
        vector_entry_point=BatchedCount,
    )
    yield lambda **kwargs: NativeRows(EnvConfig("BatchedCount-v0", kwargs=kwargs), 2)
    gymnasium.registry.pop("BatchedCount-v0")


def play(env: VectorEnv, num_steps: int) -> list[tuple[Any, ...]]:
    """Return observation, reward, end and validity of every step, before ended rows are reset."""
    env.reset([0, 1], [3, 4])
    steps = []
    for _ in range(num_steps):
        env.step(np.zeros(2, dtype=np.int64))
        ended = env.terminated | env.truncated
        observation = env.observation.ravel().tolist()  # type: ignore[union-attr]
        steps.append((observation, env.reward.tolist(), ended.tolist(), env.valid.tolist()))
        rows = np.flatnonzero(ended).tolist()
        assert env.ended == rows
        if rows:
            env.reset(rows, [0 for _ in rows])
    return steps


def test_a_reset_in_the_next_step_is_no_transition(batched: Callable[..., NativeRows]) -> None:
    with batched() as env:
        assert play(env, 4) == [
            ([1, 1], [1, 1], [False, False], [True, True]),
            ([2, 2], [2, 2], [True, False], [True, True]),
            ([0, 3], [0, 3], [False, True], [False, True]),  # -99 for the reset is not passed on
            ([1, 0], [1, 0], [False, False], [True, False]),
        ]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_other_resets_cost_no_step(mode: AutoresetMode, batched: Callable[..., NativeRows]) -> None:
    with batched(mode=mode) as env:
        assert play(env, 4) == [
            ([1, 1], [1, 1], [False, False], [True, True]),
            ([2, 2], [2, 2], [True, False], [True, True]),
            ([1, 3], [1, 3], [False, True], [True, True]),
            ([2, 1], [2, 1], [True, False], [True, True]),
        ]


def test_missing_finals_are_said_once(
    batched: Callable[..., NativeRows], caplog: pytest.LogCaptureFixture
) -> None:
    with batched(mode=AutoresetMode.SAME_STEP, finals=False) as env:
        steps = play(env, 8)
    assert steps[1][0] == [0, 2]  # the first observation stands in for the last
    assert [record.getMessage()[:60] for record in caplog.records] == [
        "BatchedCount-v0 does not report the last observations of its"
    ]


def test_an_unknown_way_of_resetting_is_refused(batched: Callable[..., NativeRows]) -> None:
    with (
        pytest.warns(UserWarning, match="AutoresetMode"),
        pytest.raises(ConfigError, match="does not say how its rows are reset"),
    ):
        batched(mode="sometimes")


def test_cart_poles_of_one_batch_equal_single_ones() -> None:
    """Gymnasium's own batch, against single environments started from its states."""
    config = EnvConfig("CartPole-v1", num_envs=4, vectorization="vector")
    actions = np.random.default_rng(0).integers(0, 2, (60, 4))
    invalid = 0
    with NativeRows(config, 4) as env:
        env.reset(range(4), [11] * 4)
        singles = [gymnasium.make("CartPole-v1").unwrapped for _ in range(4)]
        for single, state in zip(singles, env.envs.state.T, strict=True):  # type: ignore[attr-defined]
            single.reset()
            single.state = state
        for action in actions:
            env.step(action)
            for row, single in enumerate(singles):
                if not env.valid[row]:
                    single.reset()
                    single.state = env.envs.state[:, row]  # type: ignore[attr-defined]
                    invalid += 1
                    continue
                observation, _, terminated, _, _ = single.step(int(action[row]))
                np.testing.assert_allclose(env.observation[row], observation, atol=1e-5)  # type: ignore[index]
                assert env.terminated[row] == terminated
            rows = np.flatnonzero(env.terminated | env.truncated).tolist()
            if rows:
                env.reset(rows, rows)
    assert invalid >= 4


def test_the_same_seed_gives_the_same_batch() -> None:
    def observations() -> list[Any]:
        with NativeRows(EnvConfig("CartPole-v1"), 3) as env:
            env.reset(range(3), [7, 8, 9])
            return [
                map_tree(np.copy, (env.step(np.ones(3, int)), env.observation)[1]) for _ in range(9)
            ]

    np.testing.assert_array_equal(observations(), observations())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EnvConfig("Acrobot-v1"), "no batched implementation of its own; use vectorization: sync"),
        (EnvConfig(factory=CountEnv), "env.factory needs single environments"),
        (EnvConfig("CartPole-v1", frame_stack=2), "env.frame_stack needs single environments"),
        (EnvConfig("CartPole-v1", wrappers=["x.Y"]), "env.wrappers needs single environments"),
        (EnvConfig("CartPole-v1", kwargs={"mass": 1}), "could not be made with {'mass': 1}"),
    ],
)
def test_what_a_batch_cannot_do_is_refused(config: EnvConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NativeRows(config, 2)


def test_a_batch_obeys_max_episode_steps_and_cannot_be_saved() -> None:
    with NativeRows(EnvConfig("CartPole-v1", max_episode_steps=2), 2) as env:
        env.reset([0, 1], [0, 0])
        env.step(np.zeros(2, int))
        env.step(np.zeros(2, int))
        assert env.truncated.tolist() == [True, True]
        with pytest.raises(UnsupportedState, match="NativeRows cannot be saved"):
            env.snapshot(0, "exact")
