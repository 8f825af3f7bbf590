"""One episode as a JSON file: environment, seed, actions and rewards, enough to play it again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lightning_rl.errors import ConfigError
from lightning_rl.storage.sealed import atomic_write_text

KIND = "lightning_rl.replay"
FORMAT = 1
MAX_BYTES = 256 * 2**20
MAX_TEXT = 1_000
MAX_FRAME_STACK = 128
"""Larger stacks of frames are no policy's, but a way to fill the memory of whoever opens a file."""


@dataclass(frozen=True)
class EpisodeReplay:
    """What a replay file holds.

    Attributes:
        algorithm: Name of the algorithm that acted.
        environment: Id of the environment, or the name of its factory.
        env: Fields of its `EnvConfig`; with the seed and the actions they give the episode again.
        seed: Seed of the reset.
        actions: What the environment's `step` was given, one entry per env step.
        rewards: One per env step.
        terminated: Whether the environment ended the episode.
        truncated: Whether a limit cut it.
        episode: Number of episodes of the run that ended before it.
        env_index: Row of the vector environment.
        env_steps: The run's clock at its end.
        agent_id: `agent_0` in single-agent runs.
        observations: What the policy saw, the first and the final one included; None if they were
            not asked for. A list, or one per key of a Dict.
    """

    algorithm: str
    environment: str
    env: dict[str, Any]
    seed: int
    actions: list[Any]
    rewards: list[float]
    terminated: bool
    truncated: bool
    episode: int = 0
    env_index: int = 0
    env_steps: int = 0
    agent_id: str = "agent_0"
    observations: Any = field(default=None, repr=False)

    @property
    def reward(self) -> float:
        """Undiscounted return; NaN where it is not defined."""
        try:
            return math.fsum(self.rewards)
        except (ValueError, OverflowError):  # infinities of both signs, or beyond the largest
            return math.nan

    @property
    def length(self) -> int:
        """Env steps."""
        return len(self.rewards)


def write_replay(replay: EpisodeReplay, path: Path) -> None:
    """Write a replay file; a reader finds the whole file or none.

    Raises:
        OSError: It cannot be written.
    """
    values, is_finite = dict(vars(replay)), math.isfinite(replay.reward)
    if not is_finite:
        values["rewards"] = [number if math.isfinite(number) else None for number in replay.rewards]
    head = {"kind": KIND, "format": FORMAT, "length": replay.length}
    head |= {"reward": replay.reward if is_finite else None}
    text = json.dumps({**head, **values}, ensure_ascii=False)
    atomic_write_text(path, text + "\n", durable=False)


def read_replay(path: str | Path) -> EpisodeReplay:
    """Read and check a replay file; nothing that it names is imported or run.

    Raises:
        ConfigError: It is no replay file, or of a newer format; says what is wrong with it.
    """
    path = Path(path)
    values = _read_json(path)
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise ConfigError(f"{path}: no replay file of lightning_rl")
    if not isinstance(values.get("format"), int) or values["format"] > FORMAT:
        raise ConfigError(
            f"{path}: has format {_short(values.get('format'))}, this version reads up to "
            f"{FORMAT}; update lightning_rl"
        )
    known = {item.name for item in fields(EpisodeReplay)}
    content = {name: value for name, value in values.items() if name in known}
    problem = _problem(content)
    if problem:
        raise ConfigError(f"{path}: not a valid replay file: {problem}")
    content["rewards"] = [math.nan if r is None else float(r) for r in content["rewards"]]
    return EpisodeReplay(**content)


def _read_json(path: Path) -> Any:
    if not path.is_file():  # a pipe or device would never end
        raise ConfigError(f"{path}: no such replay file")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES // 2**20} MB, which no replay is")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{path}: not JSON: {' '.join(reason.split())}") from error


_KINDS: dict[str, type | tuple[type, ...]] = {
    "algorithm": str,
    "environment": str,
    "env": dict,
    "seed": int,
    "actions": list,
    "rewards": list,
    "terminated": bool,
    "truncated": bool,
    "episode": int,
    "env_index": int,
    "env_steps": int,
    "agent_id": str,
    "observations": (list, dict, type(None)),
}
_OPTIONAL = ("episode", "env_index", "env_steps", "agent_id", "observations")


def _problem(content: dict[str, Any]) -> str | None:
    """Return what is wrong with the entries, None if nothing is."""
    for name, kinds in _KINDS.items():
        if name not in content:
            if name in _OPTIONAL:
                continue
            return f"no entry {name!r}"
        value = content[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
            return f"{name} is {_short(value)}"
        if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
            return f"{name} is no plain name"
    actions, rewards = content["actions"], content["rewards"]
    if len(actions) != len(rewards):
        return f"{len(actions)} actions but {len(rewards)} rewards"
    wrong = next((r for r in rewards if not (r is None or _is_number(r))), ())
    if wrong != ():
        return f"a reward is {_short(wrong)}"
    if not 0 <= content["seed"] < 2**63:
        return f"seed is {_short(content['seed'])}"
    stack = content["env"].get("frame_stack")
    if stack is not None and not (isinstance(stack, int) and 1 <= stack <= MAX_FRAME_STACK):
        return f"env.frame_stack is {_short(stack)}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
