"""Bad environments are named before any training; good ones, also odd ones, pass."""

from __future__ import annotations

import random
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from lightning_rl.envs.preflight import PREFLIGHT_STEPS, check_env
from lightning_rl.errors import ConfigError

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
GOOD = np.zeros(2, dtype=np.float32)
NESTED = spaces.Dict({"a": BOX, "b": spaces.Tuple((spaces.Discrete(3), BOX))})


class ScriptedEnv(gym.Env):
    """Returns what it is told to."""

    def __init__(
        self,
        observation: Any = GOOD,
        reward: Any = 0.0,
        terminated: Any = False,
        truncated: Any = False,
        info: Any = None,
        observation_space: Any = BOX,
        action_space: Any = None,
        result: Any = None,
        reset_result: Any = None,
        bad_from: int = 2,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.good = observation if observation_space is not BOX else GOOD
        self.returned = (observation, reward, terminated, truncated, {} if info is None else info)
        self.result, self.reset_result = result, reset_result
        self.steps, self.bad_from = 0, bad_from

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return (self.good, {}) if self.reset_result is None else self.reset_result

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps < self.bad_from:
            return self.good, 0.0, False, False, {}
        return self.returned if self.result is None else self.result


STEP_MISTAKES = [
    ({"observation": np.zeros(3, np.float32)}, r"shape \(2,\), received an array of shape \(3,\)$"),
    ({"observation": np.zeros((1, 2), np.float32)}, r"observation to be shape \(2,\)"),
    ({"observation": np.array([np.nan, 0], np.float32)}, "observation to be finite numbers.*nan"),
    ({"observation": np.array([np.inf, 0], np.float32)}, "observation to be finite numbers.*inf"),
    ({"observation": np.array(["a", "b"])}, "observation to be dtype float32"),
    ({"observation": np.zeros(2, np.complex64)}, "observation to be dtype float32.*complex64"),
    ({"observation": np.array([None, None])}, "observation to be dtype float32, received object"),
    ({"observation": None}, "observation to be shape.*None"),
    ({"observation": [[1.0], [1.0, 2.0]]}, "observation to be an array, received list"),
    ({"observation": {"a": GOOD}}, "observation to be shape.*dict"),
    ({"reward": None}, "reward to be a number, received None"),
    ({"reward": "1"}, "reward to be a number, received str 1"),
    ({"reward": np.zeros(1)}, r"reward to be a number, received an array of shape \(1,\)"),
    ({"reward": [1.0]}, "reward to be a number, received list"),
    ({"reward": 1j}, "reward to be a number, received complex"),
    ({"reward": float("nan")}, "reward to be a finite number, received nan"),
    ({"reward": np.float64("-inf")}, "reward to be a finite number, received -inf"),
    ({"terminated": None}, "terminated to be a bool, received None"),
    ({"terminated": "False"}, "terminated to be a bool, received str"),
    ({"truncated": np.array([False])}, "truncated to be a bool, received an array"),
    ({"truncated": 2}, "truncated to be a bool, received int 2"),
    ({"terminated": {"TimeLimit": True}}, "terminated to be a bool, received dict"),
    ({"info": [1]}, "info to be a dict, received list"),
    ({"info": {1: 2}}, "info to be keys that are strings, received 1"),
    ({"result": (GOOD, 0.0, False, {})}, r"result to be \(observation.*received a tuple of 4"),
    ({"result": [GOOD, 0.0, False, False, {}]}, r"result to be \(observation.*received list"),
    ({"result": GOOD}, "result to be.*an array of shape"),
]


@pytest.mark.parametrize(("script", "message"), STEP_MISTAKES)
def test_a_bad_step_is_named(script: dict[str, Any], message: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^environment ScriptedEnv, step 2: expected .*{message}"
    ) as caught:
        check_env(ScriptedEnv(**script))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reset_result", "message"),
    [
        (GOOD, "result to be a pair .* received an array"),
        ((GOOD,), "a tuple of 1"),
        ((GOOD, None), "info to be a dict, received None"),
        ((np.zeros(3, np.float32), {}), r"observation to be shape \(2,\)"),
        (({}, GOOD), "observation to be shape"),
    ],
)
def test_a_bad_reset_is_named(reset_result: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"reset before step 1: expected .*{message}"):
        check_env(ScriptedEnv(reset_result=reset_result))


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"a": GOOD}, r"observation to be the keys \['a', 'b'\], received \['a'\]"),
        ((GOOD, GOOD), "observation to be a dict, received a tuple of 2"),
        ({"a": GOOD, "b": (1,)}, r"observation\['b'\] to be a tuple of 2, received a tuple of 1"),
        ({"a": GOOD, "b": (1, np.zeros(1))}, r"observation\['b'\]\[1\] to be shape"),
        ({"a": GOOD, "b": (3, GOOD)}, r"observation\['b'\]\[0\] to be a value of Discrete\(3\)"),
        ({"a": GOOD, "b": (1.5, GOOD)}, r"observation\['b'\]\[0\] to be dtype int64"),
    ],
)
def test_a_bad_part_of_a_nested_observation_is_named(observation: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_env(ScriptedEnv(observation=observation, observation_space=NESTED))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"observation_space": spaces.Text(5)}, "observation_space: expected .*Box, Discrete"),
        ({"observation_space": spaces.Graph(BOX, None)}, "observation_space: expected .*Dict or"),
        ({"observation_space": spaces.Sequence(BOX)}, "observation_space: expected .*Tuple"),
        ({"observation_space": spaces.Dict({"t": spaces.Text(5)})}, "observation_space: .*'t'"),
        ({"observation_space": 4}, "observation_space to be a gymnasium space, received 4"),
        ({"action_space": spaces.Dict({"a": BOX})}, "action_space to be Box, Discrete, Multi"),
        ({"action_space": spaces.Text(5)}, "action_space to be Box, Discrete, MultiDiscrete"),
        ({"action_space": "Discrete(2)"}, "action_space to be a gymnasium space"),
    ],
)
def test_an_unsupported_space_is_named_with_the_supported_ones(
    script: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_env(ScriptedEnv(**script))


def test_a_missing_space_is_named() -> None:
    env = ScriptedEnv()
    del env.observation_space
    with pytest.raises(ConfigError, match="observation_space to be a gymnasium space"):
        check_env(env)


def test_an_environment_that_raises_is_named_with_the_step() -> None:
    class Raising(ScriptedEnv):
        def step(self, action: Any) -> Any:
            super().step(action)
            raise ZeroDivisionError("two\nlines")

    with pytest.raises(
        ConfigError, match="environment Raising, step 1: raised ZeroDivisionError: two lines"
    ):
        check_env(Raising())


@pytest.mark.parametrize(
    "script",
    [
        {"observation": np.array([5.0, -7.0], np.float32)},  # out of bounds by much
        {"observation": np.zeros(2, np.float64)},
        {"observation": [0.0, 1.0]},
        {"reward": 1},
        {"reward": np.float32(1.5)},
        {"reward": np.array(2.0)},
        {"reward": True},
        {"terminated": np.bool_(False), "truncated": 0},
        {"observation": 2, "observation_space": spaces.Discrete(3)},
        {"observation": np.int32(2), "observation_space": spaces.Discrete(3)},
        {"observation": {"a": GOOD, "b": (1, GOOD)}, "observation_space": NESTED},
        {"action_space": spaces.MultiBinary(3)},
        {"action_space": BOX},
    ],
)
def test_what_works_is_let_through(script: dict[str, Any]) -> None:
    env = ScriptedEnv(**script)
    check_env(env)
    assert env.steps == PREFLIGHT_STEPS


def test_observations_in_one_buffer_are_let_through() -> None:
    class Aliasing(ScriptedEnv):
        def step(self, action: Any) -> Any:
            self.good += 0.01
            return self.good, 0.0, False, False, {}

    check_env(Aliasing())


def test_ended_episodes_are_reset() -> None:
    env = ScriptedEnv(truncated=True, bad_from=1)
    check_env(env)
    assert env.steps == PREFLIGHT_STEPS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("identifier", ["CartPole-v1", "Pendulum-v1", "Blackjack-v1", "Taxi-v4"])
def test_gymnasium_passes(identifier: str) -> None:
    check_env(gym.make(identifier))


def test_it_is_over_after_two_seconds() -> None:
    class Slow(ScriptedEnv):
        def step(self, action: Any) -> Any:
            time.sleep(0.5)
            return super().step(action)

    env = Slow()
    begun = time.monotonic()
    check_env(env)
    assert time.monotonic() - begun < 4
    assert env.steps < PREFLIGHT_STEPS


def test_it_moves_no_global_stream() -> None:
    class Noisy(ScriptedEnv):
        def step(self, action: Any) -> Any:
            random.random()
            np.random.rand()
            return super().step(action)

    before = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    check_env(Noisy())
    assert (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
    ) == before
