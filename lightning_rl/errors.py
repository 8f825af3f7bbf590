"""The errors that lightning_rl raises on purpose, each with the exit code of the command line.

A message is one line: what was expected, what was received, what to do. Anything else that reaches
the user is a bug.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Mapping


class ConfigError(ValueError):
    """A mistake in the command, the configuration or an argument; exit code 2."""

    exit_code = 2


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, missing or not usable here; exit code 1."""

    exit_code = 1


class TrainingFailed(RuntimeError):  # noqa: N818 - reads as what happened, as in `status: failed`
    """A run that cannot go on (not finite, broken environment, diverged policy); exit code 1."""

    exit_code = 1


class EnvironmentFailed(TrainingFailed):
    """An environment raised or returned something malformed; what was learned so far is sound."""


class Interrupted(SystemExit):
    """A run that was asked to stop by a signal and has saved its state.

    Being a `SystemExit`, it ends a plain script with the shell's code for the signal and no
    traceback.

    Args:
        signum: The signal's number; the exit code is 128 + signum (130 for SIGINT, 143 for
            SIGTERM).
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signal = signal.Signals(signum).name


def nearest(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` choices spelt most like `name`, best first; case is ignored."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.6)
    return [by_lower[match] for match in matches]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest choice, or "" when none is near."""
    matches = nearest(name, choices, count=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise a `ConfigError` unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ConfigError(f"expected {name} among {', '.join(choices)}, received {value!r}{hint}")


def check_ranges(arguments: Mapping[str, tuple[float | None, float, float | None]]) -> None:
    """Raise a `ConfigError` for the first number outside its range.

    Args:
        arguments: Name to (value, lowest, highest); a value of None is not checked, a highest of
            None is no bound.
    """
    for name, (value, lowest, highest) in arguments.items():
        if value is None:
            continue
        if not value >= lowest or (highest is not None and not value <= highest):
            bound = f"at least {lowest}" if highest is None else f"in [{lowest}, {highest}]"
            raise ConfigError(f"expected {name} to be {bound}, received {value}")
