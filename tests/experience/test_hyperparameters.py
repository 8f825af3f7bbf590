"""Ranges that hold for a name wherever it occurs."""

from __future__ import annotations

import pytest

from lightning_rl.errors import ConfigError
from lightning_rl.experience.hyperparameters import check_common_ranges, number_or_auto


def test_names_in_range_unknown_names_and_none_pass() -> None:
    check_common_ranges({"gamma": 1.0, "capacity": 1, "max_grad_norm": None, "my_own": -5})
    check_common_ranges({"max_grad_norm": float("inf"), "target_kl": None, "tau": 1.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 1.01}, r"expected gamma to be in \[0.0, 1.0\], received 1.01"),
        ({"gradient_steps": 0}, "expected gradient_steps to be at least 1, received 0"),
        ({"learning_rate": -1.0}, "expected learning_rate to be at least 0.0, received -1.0"),
        ({"tau": float("nan")}, "expected tau"),
        ({"tau": 0.0}, "expected tau to be above 0, received 0.0"),
        ({"clip_coef": 0.0}, "expected clip_coef to be above 0, received 0.0"),
        ({"target_kl": 0}, "expected target_kl to be above 0, received 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm to be above 0, received 0.0; use .inf for no clip"),
    ],
)
def test_a_name_out_of_range_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_common_ranges(arguments)


def test_auto_stands_for_a_number_and_other_texts_are_refused() -> None:
    assert number_or_auto("target_entropy", "auto", -2.0) == -2.0
    assert number_or_auto("target_entropy", 1, -2.0) == 1.0
    message = "expected target_entropy among auto, received 'aut'; did you mean 'auto'"
    with pytest.raises(ConfigError, match=message):
        number_or_auto("target_entropy", "aut", -2.0)
