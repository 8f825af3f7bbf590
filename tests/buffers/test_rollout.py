"""The rollout: what leads where, what is a transition, and its state in checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from lightning_rl.buffers.rollout import Rollout

LINE = spaces.Box(0.0, 100.0, (1,), np.float32)
BOTH = spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "line": LINE})


def counting_rollout() -> Rollout:
    """Two rows that count; row 0 ends at step 1 with 2, and begins again at 0."""
    rollout = Rollout(3, 2, LINE, spaces.Discrete(2))
    observations = np.array([[0, 10], [1, 11], [0, 12], [1, 13]], dtype=np.float32)[..., None]
    for step in range(3):
        rollout.write_observation(step, observations[step])
        rollout.action[step] = [step, -step]
        rollout.reward[step] = [step, 10 * step]
        if step == 1:
            rollout.terminated[step, 0] = True
            rollout.write_final(step, 0, np.array([[2.0], [12.0]], dtype=np.float32))
        rollout.cursor = step + 1
    rollout.write_observation(3, observations[3])
    return rollout


def test_an_end_leads_to_the_true_final_observation() -> None:
    following = counting_rollout().next_observation()
    assert following[..., 0].tolist() == [[1, 11], [2, 12], [1, 13]]  # type: ignore[call-overload]


def test_following_observations_are_a_copy() -> None:
    rollout = counting_rollout()
    rollout.next_observation()[:] = -1  # type: ignore[call-overload]
    assert rollout.observation[2, 0, 0] == 0.0  # type: ignore[call-overload,index]


def test_final_observations_come_with_their_indices() -> None:
    rollout = counting_rollout()
    steps, rows = rollout.final_indices()
    assert (steps.tolist(), rows.tolist()) == ([1], [0])
    assert rollout.final_observations().tolist() == [[2.0]]  # type: ignore[union-attr]


def test_without_an_end_there_are_no_indices() -> None:
    steps, rows = Rollout(2, 2, LINE, LINE).final_indices()
    assert steps.shape == rows.shape == (0,)
    assert steps.dtype == np.int64


def test_finals_are_kept_while_the_environment_goes_on() -> None:
    rollout = Rollout(2, 2, LINE, LINE)
    observation = np.array([[7.0], [8.0]], dtype=np.float32)
    rollout.write_final(0, 1, observation)
    observation[:] = 0.0
    assert rollout.final_observations().tolist() == [[8.0]]  # type: ignore[union-attr]


def test_nested_observations_keep_their_dtypes() -> None:
    rollout = Rollout(2, 3, BOTH, LINE)
    observation: Any = {
        "image": np.full((3, 2, 2), 200, dtype=np.uint8),
        "line": np.full((3, 1), 0.5, dtype=np.float32),
    }
    for step in range(3):
        rollout.write_observation(step, observation)
    rollout.write_final(1, 2, {key: leaf + 1 for key, leaf in observation.items()})
    following: Any = rollout.next_observation()
    assert (following["image"].dtype, following["line"].dtype) == (np.uint8, np.float32)
    assert following["image"][1, :, 0, 0].tolist() == [200, 200, 201]
    assert following["line"][:, 2, 0].tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("space", "dtype", "shape"),
    [
        (spaces.Discrete(3), np.int64, (4, 2)),
        (spaces.MultiBinary(3), np.int64, (4, 2, 3)),
        (spaces.MultiDiscrete([2, 2]), np.int64, (4, 2, 2)),
        (spaces.Box(-1.0, 1.0, (3,), np.float64), np.float32, (4, 2, 3)),
    ],
)
def test_actions_are_int64_or_float32(space: Any, dtype: type, shape: tuple[int, ...]) -> None:
    action = Rollout(4, 2, LINE, space).action
    assert (action.dtype, action.shape) == (dtype, shape)


def test_all_steps_are_transitions_unless_said_otherwise() -> None:
    rollout = counting_rollout()
    rollout.write_valid(0, np.array([True, True]))
    assert rollout.valid is None
    assert rollout.num_transitions == 6
    assert rollout.mean_reward() == 5.5
    rollout.write_valid(2, np.array([False, True]))
    assert rollout.valid is not None
    assert rollout.valid.tolist() == [[True, True], [True, True], [False, True]]
    assert rollout.num_transitions == 5
    assert rollout.mean_reward() == pytest.approx(31 / 5)
    rollout.cursor = 2
    assert rollout.num_transitions == 4


def test_clearing_forgets_ends_and_validity() -> None:
    rollout = counting_rollout()
    rollout.write_valid(2, np.array([False, True]))
    rollout.clear()
    assert (rollout.cursor, rollout.final_index, rollout.valid) == (0, [], None)


@pytest.mark.parametrize("has_gaps", [False, True])
@pytest.mark.parametrize("filled", [0, 2, 3])
def test_a_rollout_survives_its_state(filled: int, has_gaps: bool, tmp_path: Any) -> None:
    rollout = counting_rollout()
    if has_gaps:
        rollout.write_valid(1, np.array([False, True]))
    rollout.cursor = filled
    torch.save(rollout.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    again = Rollout(3, 2, LINE, spaces.Discrete(2))
    again.load_state_dict(state)
    assert again.cursor == filled
    np.testing.assert_array_equal(
        again.observation[: filled + 1], rollout.observation[: filled + 1]
    )  # type: ignore[index]
    for name in ("action", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(
            getattr(again, name)[:filled], getattr(rollout, name)[:filled]
        )
    assert again.final_index == [(1, 0)]
    assert again.final_observations().tolist() == [[2.0]]  # type: ignore[union-attr]
    assert again.num_transitions == rollout.num_transitions


def test_the_state_is_a_copy() -> None:
    rollout = counting_rollout()
    state = rollout.state_dict()
    rollout.reward[:] = -1.0
    rollout.observation[:] = -1.0  # type: ignore[index]
    assert state["reward"][2].tolist() == [2.0, 20.0]
    assert state["observation"][0, 1].item() == 10.0
