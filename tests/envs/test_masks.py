"""Masks in observations: where they come from, whose they are, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.masks import ActionMaskObservation, Masks, random_action
from lightning_rl.envs.native import NativeRows
from lightning_rl.envs.preflight import check_env
from lightning_rl.envs.snapshot import probe_snapshot_level
from lightning_rl.envs.vector import AsyncRows, SyncRows
from lightning_rl.errors import ConfigError, EnvironmentFailed
from tests.envs.masked import Corridor, CorridorWithMethod

SOURCES: dict[str, Any] = {
    "info": Corridor,
    "method": CorridorWithMethod,
    "observation": lambda **kwargs: Corridor(source="observation", **kwargs),
}


class Wrong(Corridor):
    """Gives the mask that it is told to, or none."""

    def __init__(self, wrong: Any = None, action: str = "discrete") -> None:
        super().__init__(action)
        self.wrong = wrong

    def _info(self) -> dict[str, Any]:
        return {} if self.wrong is None else {"action_mask": self.wrong}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("action", ["discrete", "multi_discrete"])
def test_the_mask_is_part_of_the_observation(source: str, action: str) -> None:
    env = ActionMaskObservation(TimeLimit(SOURCES[source](action=action), 100))
    task: Any = env.unwrapped
    observation, _ = env.reset(seed=1)
    space: Any = env.observation_space
    assert sorted(space.spaces) == [
        "action_mask",
        "count" if source == "observation" else "observation",
    ]
    draws = env.action_space
    draws.seed(0)
    ended = False
    while not ended:
        assert space.contains(observation)
        assert observation["action_mask"].tolist() == task.mask().tolist()
        observation, _, ended, _, _ = env.step(random_action(env, draws))
    assert not observation["action_mask"].any()  # of the episode's last: nobody acts upon it


def test_random_actions_are_uniform_over_the_valid_ones() -> None:
    space = spaces.MultiDiscrete([2, 3])
    space.seed(0)
    masks = Masks(space)
    drawn = np.array([masks.sample(np.array([1, 0, 1, 0, 1]), space) for _ in range(600)])
    assert not drawn[:, 0].any()
    assert sorted(set(drawn[:, 1])) == [0, 2]
    assert np.mean(drawn[:, 1] == 2) == pytest.approx(0.5, abs=0.1)
    shifted = spaces.Discrete(3, start=-1)
    shifted.seed(0)
    assert {int(Masks(shifted).sample(np.array([0, 0, 1]), shifted)) for _ in range(20)} == {1}
    square = spaces.MultiDiscrete([[2, 2], [2, 2]], start=[[0, 1], [2, 3]])
    square.seed(0)
    mask = np.array([0, 1, 1, 0, 0, 1, 1, 0])
    assert Masks(square).sample(mask, square).tolist() == [[1, 1], [3, 3]]


def test_a_look_at_an_environment_tries_valid_actions_only() -> None:
    """An invalid action raises there."""
    config = EnvConfig(factory=Corridor).showing_action_mask()
    for seed in range(5):
        check_env(config.make(), seed)
    assert probe_snapshot_level(config.make) == "exact"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, r'give masks by info\["action_mask"\] of reset and step, or a method action_masks'),
        ([1, 1, 1], r"a mask of shape \(4,\), one entry for each action, received \(3,\)"),
        ([[1, 1, 1, 1]], r"received \(1, 4\)"),
        ([0, 0, 0, 0], "at least one valid action, received a mask of zeros"),
    ],
)
def test_wrong_masks_are_refused_in_one_line(wrong: Any, message: str) -> None:
    config = EnvConfig(factory=Wrong, kwargs={"wrong": wrong}).showing_action_mask()
    with pytest.raises(
        ConfigError, match=f"Wrong, reset before step 1: mask_actions: .*{message}"
    ) as caught:
        check_env(config.make())
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvironmentFailed, match=message):
        SyncRows(config, 1).reset([0], [0])


def test_each_integer_of_an_action_needs_a_valid_value() -> None:
    kwargs = {"wrong": [1, 1, 0, 0, 0], "action": "multi_discrete"}
    config = EnvConfig(factory=Wrong, kwargs=kwargs).showing_action_mask()
    with pytest.raises(ConfigError, match="valid action for integer 1 of the action"):
        config.make().reset()


def test_other_action_spaces_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"Discrete or MultiDiscrete action space, received Box"):
        EnvConfig("Pendulum-v1").showing_action_mask().spaces()


def test_the_description_itself_stays_as_it_is() -> None:
    config = EnvConfig("Taxi-v4")
    plain, _ = config.spaces()
    masked = config.showing_action_mask()
    assert isinstance(masked.spaces()[0], spaces.Dict)
    assert config.spaces()[0] is plain
    assert masked.showing_action_mask(False).spaces()[0] == plain
    assert masked.showing_action_mask() is masked
    assert masked.to_dict() == config.to_dict() == {"id": "Taxi-v4"}


def test_stacked_frames_have_the_mask_of_the_last() -> None:
    env = EnvConfig(factory=Corridor, frame_stack=3).showing_action_mask().make()
    observation, _ = env.reset(seed=0)
    assert observation["observation"].shape == (3, 1)
    assert observation["action_mask"].tolist() == env.unwrapped.mask().tolist()  # type: ignore[attr-defined]


# Vector environments: after an episode's end, the mask is that of what is acted upon next.


def masks_of(rows: Any, num_steps: int) -> list[tuple[Any, Any, Any, Any]]:
    """Return the true last observations' masks, and those that are acted upon, with the counts."""
    rows.reset([0, 1], [5, 6])
    result, generator = [], np.random.default_rng(0)
    for step in range(num_steps):
        mask = rows.observation["action_mask"].copy()
        action = np.where(mask.any(-1), (mask * generator.random(mask.shape)).argmax(-1), 0)
        rows.step(action)
        final = [rows.observation[key].tolist() for key in ("action_mask", "observation")]
        if rows.ended:
            rows.reset(rows.ended, [100 * step + row for row in rows.ended])
        acted = [rows.observation[key].tolist() for key in ("action_mask", "observation")]
        result.append((*final, *acted))
    return result


def test_rows_in_processes_show_the_same_masks() -> None:
    config = EnvConfig(factory=Corridor).showing_action_mask()
    with SyncRows(config, 2) as sync, AsyncRows(config, 2) as processes:
        seen = masks_of(sync, 9)
        assert seen == masks_of(processes, 9)
    final, _, acted, count = seen[3]  # both episodes end in their fourth step
    assert final == [[0, 0, 0, 0]] * 2
    assert count == [[0.0], [0.0]]
    assert np.sum(acted, axis=-1).min() >= 1


@pytest.fixture(params=["info", "method"])
def batched(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return what makes the rows of an environment's own batched implementation."""
    make = SOURCES[request.param]

    class Batched(SyncVectorEnv):
        def __init__(self, num_envs: int, mode: AutoresetMode) -> None:
            super().__init__([make] * num_envs, autoreset_mode=mode)

        if request.param == "method":

            def action_masks(self) -> np.ndarray:
                return np.array([env.unwrapped.mask() for env in self.envs])

    gymnasium.register("BatchedCorridor-v0", entry_point=make, vector_entry_point=Batched)
    yield lambda mode: NativeRows(
        EnvConfig("BatchedCorridor-v0", kwargs={"mode": mode}).showing_action_mask(), 2
    )
    gymnasium.registry.pop("BatchedCorridor-v0")


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_batched_rows_show_the_mask_of_what_is_acted_upon(batched: Any, mode: Any) -> None:
    """Invalid actions raise, so that playing on is the proof."""
    with batched(mode) as rows:
        seen = masks_of(rows, 14)
        tasks = [env.unwrapped for env in rows.envs.unwrapped.envs]
        assert rows.observation["action_mask"].tolist() == [task.mask().tolist() for task in tasks]
    # Behind its fourth step an episode shows its true last observation, and no valid action.
    assert seen[3][:2] == ([[0, 0, 0, 0]] * 2, [[4.0], [4.0]])


def test_batched_rows_without_masks_are_refused() -> None:
    config = EnvConfig("CartPole-v1", vectorization="vector").showing_action_mask()
    with pytest.raises(EnvironmentFailed, match="give masks by"):
        NativeRows(config, 2).reset([0, 1], [1, 2])
