"""Who registers an environment id: modules that are imported when an id of theirs is asked for."""

from __future__ import annotations

import importlib
import logging
from functools import cache

import gymnasium

from lightning_rl.errors import ConfigError

logger = logging.getLogger(__name__)

RENAMED_IDS = {
    "Taxi-v3": "Taxi-v4",
    "LunarLander-v2": "LunarLander-v3",
    "LunarLanderContinuous-v2": "LunarLanderContinuous-v3",
    "CliffWalking-v0": "CliffWalking-v1",
}
"""Ids that Gymnasium has retired, and what they are called today."""

PROVIDERS: dict[str, tuple[str, ...]] = {
    "LightningRL": (
        "lightning_rl.envs.probes",
        "lightning_rl.envs.memory",
        "lightning_rl.envs.goals",
        "lightning_rl.envs.few_valid_actions",
    ),
    "MinAtar": ("lightning_rl.envs.minatar",),
    "ALE": ("ale_py",),
}
"""Namespace of an id to the modules that register it."""

EXTRAS = {"ale_py": "atari"}
"""Module outside this package to the extra that installs it."""


@cache  # says it once
def todays_id(identifier: str) -> str:
    """Return what a retired id is called today, and every other as it is."""
    renamed = RENAMED_IDS.get(identifier, identifier)
    if renamed != identifier:
        logger.warning("%s is called %s in today's Gymnasium; using that", identifier, renamed)
    return renamed


def import_provider(identifier: str) -> None:
    """Import what registers `identifier`, if that is known and has not happened.

    Raises:
        ConfigError: When the package that has the environment is not installed.
    """
    if identifier in gymnasium.registry:
        return
    namespace = identifier.split("/", 1)[0] if "/" in identifier else ""
    if "NoFrameskip-v" in identifier or "Deterministic-v" in identifier:  # names before ALE v5
        namespace = "ALE"
    for module in PROVIDERS.get(namespace, ()):
        try:
            importlib.import_module(module)
        except ImportError as error:
            extra = EXTRAS.get(module)
            if extra is None:
                raise
            raise ConfigError(
                f"environment {identifier!r} needs {module}: pip install 'lightning-rl[{extra}]'"
            ) from error
