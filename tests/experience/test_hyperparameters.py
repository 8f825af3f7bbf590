"""Ranges that hold for a name wherever it occurs."""

from __future__ import annotations

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.experience.hyperparameters import check_common_ranges


def test_names_in_range_unknown_names_and_none_pass() -> None:
    check_common_ranges({"gamma": 1.0, "capacity": 1, "max_grad_norm": None, "my_own": -5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 1.01}, r"expected gamma to be in \[0.0, 1.0\], received 1.01"),
        ({"gradient_steps": 0}, "expected gradient_steps to be at least 1, received 0"),
        ({"learning_rate": -1.0}, "expected learning_rate to be at least 0.0, received -1.0"),
        ({"tau": float("nan")}, "expected tau"),
    ],
)
def test_a_name_out_of_range_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_common_ranges(arguments)
