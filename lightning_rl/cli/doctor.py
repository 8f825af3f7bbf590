"""`lightning-rl doctor`: is everything here, and does it work?"""

from __future__ import annotations

from lightning_rl.cli.arguments import Request
from lightning_rl.cli.checks import check_env_registered
from lightning_rl.cli.shared import say
from lightning_rl.errors import ConfigError

DEFAULT_ENV = "CartPole-v1"


def doctor(request: Request) -> int:
    """Check packages, machine, environment, a tiny run, its stop and its resume."""
    if len(request.positionals) > 1:
        raise ConfigError("doctor: expected at most one environment id, as in `doctor Taxi-v4`")
    env = (request.positionals or [DEFAULT_ENV])[0]
    check_env_registered(env)

    from lightning_rl.runs.doctor import Doctor

    return 0 if Doctor(env, say).examine() else 1
