"""What all vector environments share."""

from __future__ import annotations

import numpy as np

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.contract import environment_failed, rows_of_info


def test_infos_are_taken_apart_by_row() -> None:
    info = {
        "x": np.array([1.0, 2.0]),
        "_x": np.array([True, False]),
        "parts": {"a": np.array([0.0, 3.0]), "_a": np.array([False, True])},
        "_parts": np.array([False, True]),
    }
    assert rows_of_info(info, 2) == [{"x": 1.0}, {"parts": {"a": 3.0}}]


def test_a_failure_is_one_line_with_environment_and_row() -> None:
    error = environment_failed(EnvConfig("CartPole-v1"), 3, "step", ValueError("two\n lines"))
    assert str(error) == "environment CartPole-v1 (row 3) failed in step: ValueError: two lines"
