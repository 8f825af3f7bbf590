"""Checks of what has one meaning wherever it occurs: ranges of hyperparameters, action spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from lightning_rl.errors import ConfigError, check_choice, check_ranges

RANGES: dict[str, tuple[float, float | None]] = {
    "num_steps": (1, None),
    "minibatch_size": (1, None),
    "update_epochs": (1, None),
    "hidden_size": (1, None),
    "sequence_length": (1, None),
    "capacity": (1, None),
    "batch_size": (1, None),
    "learning_starts": (0, None),
    "train_frequency": (1, None),
    "gradient_steps": (1, None),
    "target_update_interval": (1, None),
    "env_steps_per_iteration": (1, None),
    "n_step": (1, None),
    "num_quantiles": (1, None),
    "num_critics": (1, None),
    "q_lambda": (0.0, 1.0),
    "priority_alpha": (0.0, 1.0),
    "priority_beta": (0.0, 1.0),
    "tau": (0.0, 1.0),
    "gamma": (0.0, 1.0),
    "gae_lambda": (0.0, 1.0),
    "clip_coef": (0.0, None),
    "ent_coef": (0.0, None),
    "vf_coef": (0.0, None),
    "target_kl": (0.0, None),
    "learning_rate": (0.0, None),
    "actor_learning_rate": (0.0, None),
    "critic_learning_rate": (0.0, None),
    "alpha_learning_rate": (0.0, None),
    "max_grad_norm": (0.0, None),
}
"""Name to lowest and highest value; None is no bound."""

POSITIVE = ("tau", "clip_coef", "target_kl", "max_grad_norm")
"""Names whose lowest value is excluded: with 0 a run would go on and learn nothing."""


def num_discrete_actions(algorithm: str, space: spaces.Space) -> int:
    """Return the number of actions of a Discrete space.

    Raises:
        ConfigError: For another one.
    """
    if not isinstance(space, spaces.Discrete):
        raise ConfigError(f"{algorithm} expects a Discrete action space, received {space}")
    return int(space.n)


def check_common_ranges(arguments: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` for the first argument of a name in `RANGES` that is outside of it.

    Args:
        arguments: Those of an algorithm's constructor; other names and None are not checked.
    """
    for name in POSITIVE:
        if arguments.get(name) == 0:
            remedy = "; use .inf for no clipping" if name == "max_grad_norm" else ""
            raise ConfigError(f"expected {name} to be above 0, received {arguments[name]}{remedy}")
    check_ranges(
        {name: (arguments[name], *bounds) for name, bounds in RANGES.items() if name in arguments}
    )


def number_or_auto(name: str, value: float | str, auto: float) -> float:
    """Return an argument that is a number or `auto`, which stands for another number.

    Raises:
        ConfigError: For another text.
    """
    if isinstance(value, str):
        check_choice(name, value, ("auto",))
        return auto
    return float(value)


def choose_learning_rates(common: float, *own: float | None) -> list[float]:
    """Return each network's learning rate: its own, or the common one where it is None."""
    return [common if rate is None else rate for rate in own]
