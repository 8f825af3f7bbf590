"""What a training run and an execution of a policy return, and how they are kept as JSON."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from lightning_rl.errors import ConfigError, did_you_mean
from lightning_rl.runs.plain_json import dumps, loads
from lightning_rl.storage.sealed import atomic_write_text

Render: TypeAlias = Literal["human", "video"] | bool
_Result = TypeVar("_Result", bound="Json")


class Json:
    """Conversion of a dataclass from and to dictionaries and JSON text."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls: type[_Result], values: Mapping[str, Any]) -> _Result:
        """Return the object whose `to_dict` gave `values`; computed entries are computed anew.

        Raises:
            ConfigError: An entry is unknown.
        """
        names = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in values:
            if key not in names and not isinstance(getattr(cls, key, None), property):
                raise ConfigError(
                    f"{cls.__name__}: expected entries among {', '.join(names)}, "
                    f"got {key!r}{did_you_mean(key, names)}"
                )
        return cls(**{name: values[name] for name in names if name in values})

    def to_json(self) -> str:
        """Return the object as JSON text; NaN and infinities survive the way back."""
        return dumps(self.to_dict())

    @classmethod
    def from_json(cls: type[_Result], text: str) -> _Result:
        """Return the object whose `to_json` gave `text`.

        Raises:
            ConfigError: The text is not JSON of one object, or an entry is unknown.
        """
        try:
            values = loads(text)
        except ValueError as error:
            raise ConfigError(f"{cls.__name__}: expected JSON, got: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(
                f"{cls.__name__}: expected a JSON object, got {type(values).__name__}"
            )
        return cls.from_dict(values)


@dataclass
class RunResult(Json):
    """How a training run ended.

    Attributes:
        environment: Id of the environment, or the name of its factory.
        algorithm: Name of the algorithm.
        hyperparameters: Its constructor's arguments as primitives.
        metrics: The `training` part of `metrics.json`.
        success: Whether the run came to its end without an error.
        error_message: One line when it did not.
        directory: The run directory.
        best_checkpoint: The best checkpoint, or the last one where nothing was evaluated.
        seed: The run's seed.
    """

    environment: str
    algorithm: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    success: bool = True
    error_message: str | None = None
    directory: str | None = None
    best_checkpoint: str | None = None
    seed: int | None = None


@dataclass
class ExecutionConfig(Json):
    """How a trained policy is to be executed.

    Attributes:
        num_episodes: Episodes, at least 1.
        max_steps_per_episode: Cut an episode after so many env steps; None for no cap of our own.
        render: `human` shows a window, `video` writes MP4 files, False does neither.
        deterministic: Act greedily instead of sampling.
    """

    num_episodes: int = 10
    max_steps_per_episode: int | None = None
    render: Render = False
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.render is True:
            self.render = "human"
        if self.render not in (False, "human", "video"):
            raise ConfigError(f"render: expected False, 'human' or 'video', got {self.render!r}")
        for name in ("num_episodes", "max_steps_per_episode"):
            value = getattr(self, name)
            may_be_none = value is None and name != "num_episodes"
            if not may_be_none and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}: expected a whole number of at least 1, got {value!r}")


@dataclass
class ExecutionResult(Json):
    """How a policy did. `mean, std = result` unpacks the mean and deviation of its returns.

    Attributes:
        episode_rewards: Undiscounted return of each episode.
        episode_lengths: Env steps of each episode.
        total_episodes: Number of finished episodes; default: as many as there are rewards.
        success: Whether all episodes could be played.
        error_message: One line when they could not.
    """

    episode_rewards: list[float] = field(default_factory=list)
    episode_lengths: list[int] = field(default_factory=list)
    total_episodes: int | None = None
    success: bool = True
    error_message: str | None = None

    def __post_init__(self) -> None:
        if self.total_episodes is None:
            self.total_episodes = len(self.episode_rewards)

    def __iter__(self) -> Iterator[float]:
        return iter((self.mean_reward, self.std_reward))

    @property
    def mean_reward(self) -> float:
        """Mean return; NaN without episodes, like all of these."""
        return _mean(self.episode_rewards)

    @property
    def std_reward(self) -> float:
        """Population standard deviation of the returns."""
        return _deviation(self.episode_rewards)

    @property
    def min_reward(self) -> float:
        """Least return."""
        return min(self.episode_rewards, default=math.nan)

    @property
    def max_reward(self) -> float:
        """Greatest return."""
        return max(self.episode_rewards, default=math.nan)

    @property
    def mean_length(self) -> float:
        """Mean length in env steps."""
        return _mean(self.episode_lengths)

    @property
    def std_length(self) -> float:
        """Population standard deviation of the lengths in env steps."""
        return _deviation(self.episode_lengths)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and what is computed from them."""
        computed = ("mean_reward", "std_reward", "min_reward", "max_reward", "mean_length")
        values = {name: getattr(self, name) for name in (*computed, "std_length")}
        return {**super().to_dict(), **values}


def save_execution_results(
    results: ExecutionResult | Iterable[ExecutionResult] | Mapping[str, ExecutionResult],
    directory: str | Path,
    filename: str = "execution_results.json",
) -> Path:
    """Write execution results as JSON; a reader finds the whole file or none.

    Args:
        results: One result, several, or several under names; the JSON has the same form.
        directory: Where to; made when needed.
        filename: Name of the file in it.

    Returns:
        The path of the file.

    Raises:
        ConfigError: The file name is a path, or the directory cannot be written.
    """
    if Path(filename).name != filename:
        raise ConfigError(f"filename: expected a name without a folder, got {filename!r}")
    content: Any
    if isinstance(results, ExecutionResult):
        content = results.to_dict()
    elif isinstance(results, Mapping):
        content = {str(name): result.to_dict() for name, result in results.items()}
    else:
        content = [result.to_dict() for result in results]
    path = Path(directory) / filename
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, dumps(content) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _mean(values: list[Any]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _deviation(values: list[Any]) -> float:
    """Return the population standard deviation; NaN where it is not defined."""
    if not values or not all(math.isfinite(value) for value in values):
        return math.nan
    return statistics.pstdev(values)
