"""Vector environments: one contract, whoever steps the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.probes import OBSERVATION_SPACES, CountEnv, FaultEnv, ObservationActionEnv
from lightning_rl.envs.spaces import observation_flattener
from lightning_rl.envs.state_walk import UnsupportedState
from lightning_rl.envs.vector import (
    AsyncRows,
    NativeRows,
    SyncRows,
    VectorEnv,
    make_vector_env,
)
from lightning_rl.errors import TrainingFailed
from lightning_rl.functional.trees import tree_items

ROWS = 3


def copy_of(observation: Any) -> dict[str, np.ndarray]:
    return {key: leaf.copy() for key, leaf in tree_items(observation)}


def assert_same(left: Any, right: Any) -> None:
    for (key, ours), (_, theirs) in zip(tree_items(left), tree_items(right), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=key)


class Drifting(ObservationActionEnv):
    """Episodes of seeded random length in every kind of observation space."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        result = super().reset(seed=seed)
        self.length = int(self.np_random.integers(1, 6))
        return result

    def step(self, action: Any) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        by_limit = terminated and self.length % 2 == 0
        return (
            observation,
            reward,
            terminated and not by_limit,
            by_limit,
            {**info, "at": self._step},
        )


@pytest.fixture(scope="module", params=sorted(OBSERVATION_SPACES))
def config(request: pytest.FixtureRequest) -> EnvConfig:
    return EnvConfig(factory=Drifting, num_envs=ROWS, kwargs={"observation": request.param})


def gymnasium_steps(
    config: EnvConfig, actions: np.ndarray, seeds: Iterator[int]
) -> Iterator[tuple[Any, ...]]:
    """Step Gymnasium's own vector environment, and reset ended rows by mask."""
    env = SyncVectorEnv([config.make] * ROWS, autoreset_mode=AutoresetMode.DISABLED)
    flatten = observation_flattener(env.single_observation_space)
    env.reset(seed=[next(seeds) for _ in range(ROWS)])
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        final = copy_of(flatten(observation))
        ended = terminated | truncated
        if ended.any():
            row_seeds = [next(seeds) if end else None for end in ended]
            observation, _ = env.reset(seed=row_seeds, options={"reset_mask": ended.copy()})
        yield final, reward, terminated, truncated, copy_of(flatten(observation))
    env.close()


def our_steps(
    env: VectorEnv, actions: np.ndarray, seeds: Iterator[int]
) -> Iterator[tuple[Any, ...]]:
    env.reset(range(ROWS), [next(seeds) for _ in range(ROWS)])
    for action in actions:
        infos = env.step(action)
        assert len(infos) == ROWS
        final = copy_of(env.observation)
        rows = np.flatnonzero(env.terminated | env.truncated).tolist()
        assert env.ended == rows
        if rows:
            env.reset(rows, [next(seeds) for _ in rows])
        flags = env.terminated.copy(), env.truncated.copy()
        yield final, env.reward.copy(), *flags, copy_of(env.observation)


@pytest.mark.parametrize("kind", [SyncRows, AsyncRows])
def test_rows_equal_gymnasiums_step_for_step(kind: type[Any], config: EnvConfig) -> None:
    actions = np.random.default_rng(0).integers(0, 2, (40, ROWS))
    with kind(config, ROWS) as env:
        ours = list(our_steps(env, actions, iter(range(1000))))
    theirs = list(gymnasium_steps(config, actions, iter(range(1000))))
    ends = np.array([[step[2], step[3]] for step in ours])
    assert ends[:, 0].any()
    assert ends[:, 1].any()
    for our, their in zip(ours, theirs, strict=True):
        for our_part, their_part in zip(our, their, strict=True):
            assert_same(our_part, their_part)


def test_observations_have_the_spaces_dtypes(config: EnvConfig) -> None:
    with SyncRows(config, ROWS) as env:
        env.reset(range(ROWS), range(ROWS))
        leaves = dict(tree_items(env.observation))
        flat = env.observation_space
        parts = flat.spaces if isinstance(flat, spaces.Dict) else {"": flat}
        assert {key: leaf.dtype for key, leaf in leaves.items()} == {
            key: part.dtype for key, part in parts.items()
        }


BOTH = pytest.mark.parametrize("kind", [SyncRows, AsyncRows])


@BOTH
def test_an_ended_row_shows_its_true_end_until_it_is_reset(kind: type[Any]) -> None:
    config = EnvConfig(factory=CountEnv, kwargs={"min_length": 2, "max_length": 3})
    with kind(config, 2) as env:
        env.reset([0, 1], [0, 1])  # lengths 2 and 3
        env.step(np.zeros(2, dtype=np.int64))
        env.step(np.zeros(2, dtype=np.int64))
        assert env.terminated.tolist() == [True, False]
        assert env.observation.tolist() == [[2.0], [2.0]]
        env.reset([0], [1])
        assert env.observation.tolist() == [[0.0], [2.0]]
        env.step(np.zeros(2, dtype=np.int64))
        assert env.observation.tolist() == [[1.0], [3.0]]
        assert env.terminated.tolist() == [False, True]


@BOTH
def test_a_snapshot_goes_on_alike(kind: type[Any]) -> None:
    config = EnvConfig("CartPole-v1")
    push = np.ones(2, dtype=np.int64)
    with kind(config, 2) as env:
        env.reset([0, 1], [5, 6])
        env.step(push)
        states = [env.snapshot(row, "exact") for row in (0, 1)]
        env.step(push)
        expected = env.observation.copy()
        env.reset([0, 1], [7, 8])
        for row, state in enumerate(states):
            env.restore(row, state)
        env.step(push)
        np.testing.assert_array_equal(env.observation, expected)


@BOTH
@pytest.mark.parametrize("identifier", ["CartPole-v1", "Pendulum-v1"])
def test_replay_repeats_an_episode(kind: type[Any], identifier: str) -> None:
    config = EnvConfig(identifier)
    _, action_space = config.spaces()
    action_space.seed(0)
    actions = [np.asarray(action_space.sample()) for _ in range(4)]
    with kind(config, 2) as env:
        env.reset([0, 1], [5, 6])
        for action in actions:
            env.step(np.stack([action, action]))
        expected = env.observation.copy()
        env.reset([1], [9])
        env.replay(1, 6, actions)
        np.testing.assert_array_equal(env.observation, expected)


class Growing(CountEnv):
    """Holds something that cannot be saved, from the third step on."""

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.count == 3:
            self.secret = (item for item in range(3))
        return result


@BOTH
def test_what_cannot_be_saved_is_named_and_stops_nothing(kind: type[Any]) -> None:
    zeros = np.zeros(2, dtype=np.int64)
    with kind(EnvConfig(factory=Growing), 2) as env:
        env.reset([0, 1], [0, 1])
        for _ in range(3):
            env.step(zeros)
        with pytest.raises(UnsupportedState, match="secret"):
            env.snapshot(0, "exact")
        env.step(zeros)
        assert env.observation.tolist() == [[4.0], [4.0]]


@pytest.mark.filterwarnings("ignore:.*(Received the following error|Raising the last|Traceback)")
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ({"raise_at": 2}, SyncRows, r"FaultEnv \(row 0\) failed in step: RuntimeError: FaultEnv"),
        ({"raise_at": 1, "where": "reset"}, SyncRows, r"\(row 0\) failed in reset: RuntimeError"),
        (
            {"bad_shape_at": 2},
            SyncRows,
            r"\(row 0\) failed in step: .*shape \(1,\), received \(2,\)",
        ),
        ({"raise_at": 2}, AsyncRows, r"FaultEnv failed in step: RuntimeError: FaultEnv raises"),
    ],
)
def test_a_failing_environment_is_named(
    fault: dict[str, Any], kind: type[Any], message: str
) -> None:
    env = kind(EnvConfig(factory=FaultEnv, kwargs=fault), 2)
    with env, pytest.raises(TrainingFailed, match=message):
        count_to_three(env)


def count_to_three(env: VectorEnv) -> None:
    env.reset([0, 1], [0, 1])
    for _ in range(3):
        env.step(np.zeros(2, dtype=np.int64))


class Shrinks(CountEnv):
    """Returns one number where three are promised, which NumPy would stretch."""

    def __init__(self, nested: bool) -> None:
        super().__init__()
        box = spaces.Box(0.0, 1.0, (3,))
        self.observation_space = spaces.Dict({"a": box}) if nested else box
        self.size, self.nested = 3, nested

    def reset(self, **_: Any) -> Any:
        value = np.zeros(self.size, dtype=np.float32)
        return ({"a": value} if self.nested else value), {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}


@pytest.mark.parametrize("nested", [False, True])
def test_an_observation_is_never_stretched(nested: bool) -> None:
    with SyncRows(EnvConfig(factory=Shrinks, kwargs={"nested": nested}), 2) as env:
        count_to_three(env)
        env.envs[1].size = 1  # type: ignore[attr-defined]
        with pytest.raises(
            TrainingFailed, match=r"\(row 1\) failed in step.*\(3,\), received \(1,\)"
        ):
            env.step(np.zeros(2, dtype=np.int64))
        with pytest.raises(TrainingFailed, match=r"\(row 1\) failed in reset.*received \(1,\)"):
            env.reset([1], [0])


def test_a_worker_that_dies_is_reported_and_the_others_end() -> None:
    env = AsyncRows(EnvConfig(factory=FaultEnv, kwargs={"die_at": 2}), 2)
    with pytest.raises(
        TrainingFailed, match=r"FaultEnv failed in step: (EOFError|Broken|Connection)"
    ):
        count_to_three(env)
    env.close()
    assert not any(process.is_alive() for process in env.envs.processes)


def test_only_activated_rows_are_stepped() -> None:
    with SyncRows(EnvConfig(factory=CountEnv), 3) as env:
        env.reset(range(3), range(3))
        env.activate([2, 0])
        infos = env.step(np.zeros(3, dtype=np.int64))
        assert len(infos) == 2
        assert env.observation.tolist() == [[1.0], [0.0], [1.0]]


@pytest.mark.parametrize(
    ("vectorization", "num_envs", "evaluation", "kind"),
    [
        ("sync", 2, False, SyncRows),
        ("async", 2, False, AsyncRows),
        ("async", 1, False, SyncRows),  # a process of its own would only cost
        ("vector", 2, False, NativeRows),
        ("vector", 2, True, SyncRows),
    ],
)
def test_the_configuration_chooses(
    vectorization: Any, num_envs: int, evaluation: bool, kind: type[Any]
) -> None:
    config = EnvConfig("CartPole-v1", num_envs=num_envs, vectorization=vectorization)
    with make_vector_env(config, evaluation=evaluation) as env:
        assert type(env) is kind
        assert env.num_envs == num_envs


def test_evaluation_has_its_own_keywords() -> None:
    config = EnvConfig(factory=CountEnv, eval_kwargs={"max_length": 77})
    with make_vector_env(config, 1, evaluation=True) as env:
        assert env.observation_space.high.item() == 77.0  # type: ignore[attr-defined]
