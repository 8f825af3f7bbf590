"""Lightning's validation, test and prediction: the deterministic policy on whole episodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from gymnasium import spaces
from torch.utils.data import DataLoader

from lightning_rl.envs.config import EnvConfig
from lightning_rl.envs.masks import with_mask
from lightning_rl.envs.seeding import SeedStream
from lightning_rl.envs.spaces import action_adapter, storage_dtype
from lightning_rl.errors import ConfigError
from lightning_rl.experience.evaluation import EpisodeMetric, EpisodePolicy, EvaluationSource
from lightning_rl.experience.source import sized_loader
from lightning_rl.functional.trees import map_tree, tree_items
from lightning_rl.types import Array, Episode, Statistics, TensorObservation

EVAL_EPISODES = 20
TEST_EPISODES = 100


class EvaluationHooks(pl.LightningModule):
    """The half of an algorithm that plays finished episodes; the training half is `Algorithm`.

    Episodes come from environments and seeds of their own, actions from the deterministic policy
    with frozen normalisers. The number of episodes is the trainer's `eval_episodes` (20) and
    `test_episodes` (100) where it has these attributes. Logs `eval/mean_reward`, `eval/std_reward`,
    `eval/min_reward`, `eval/max_reward` (undiscounted returns) and `eval/mean_length` (env steps).

    Attributes:
        is_evaluating: Whether a validation is under way. Lightning's `trainer.validating` cannot
            tell: after a resume it may be true while training goes on.
        evaluation: The last evaluation: `rewards` and `lengths` in order of the episodes' seeds,
            and the five statistics.
    """

    env_config: EnvConfig
    observation_space: spaces.Space
    action_space: Any
    seed: int

    def __init__(self) -> None:
        super().__init__()
        self.evaluation: dict[str, Any] = {}
        self.is_evaluating = False
        self._episode_metric = EpisodeMetric()
        self._evaluation_sources: dict[str, EvaluationSource] = {}

    @abstractmethod
    def act(self, observation: TensorObservation, deterministic: bool = True) -> Array:
        """Return the actions `(N, ...)` of observations `(N, *obs_shape)` on the agent's device."""

    @abstractmethod
    def poll(self) -> None:
        """Save and stop when the run was asked to."""

    @abstractmethod
    def log_metrics(self, metrics: Statistics) -> None:
        """Log a row."""

    def predict(
        self, observation: Any, deterministic: bool = True, action_mask: Any = None
    ) -> Array:
        """Return the action that the environment's `step` takes.

        Args:
            observation: One observation as the environment returns it, or a batch of them with one
                leading dimension.
            deterministic: The most probable action instead of a sampled one.
            action_mask: Which actions are valid, `(n,)` or `(N, n)`, of an agent with
                `mask_actions`; not needed where the observation has it as an entry.

        Raises:
            ConfigError: When the observation's shape is not that of the observation space, or the
                mask is missing or leaves no action.
        """
        return self.predict_with_state(observation, None, deterministic, action_mask)[0]

    def predict_with_state(
        self,
        observation: Any,
        state: Array | None = None,
        deterministic: bool = True,
        action_mask: Any = None,
    ) -> tuple[Array, Array | None]:
        """Return the action as `predict` does, and the policy's memory to hand in next time.

        Args:
            observation: One observation, or a batch of them.
            state: What the last call returned, `(N, S)`; None when the episodes begin. Set a row to
                zero where an episode begins.
            deterministic: The most probable action instead of a sampled one.
            action_mask: As in `predict`.

        Returns:
            The action, and the memory; None for a policy without one.
        """
        if self.env_config.shows_action_mask:
            observation = with_mask(observation, action_mask, self.action_space)
        elif action_mask is not None:
            raise ConfigError("expected an agent with mask_actions for an action_mask")
        batch, single = _to_batch(self.observation_space, observation)
        to_env = action_adapter(self.action_space, self.env_config.action)
        action, state = self.act_with_state(self.to_device(batch), state, deterministic)
        action = to_env(action)
        return (action[0] if single else action), state

    def act_with_state(
        self, observation: TensorObservation, state: Array | None, deterministic: bool = True
    ) -> tuple[Array, Array | None]:
        """Return `act`, and the memory `(N, S)` of a policy that has one.

        Args:
            observation: `(N, *obs_shape)` on the agent's device.
            state: What the last call returned; None when the episodes begin.
            deterministic: The most probable action instead of a sampled one.
        """
        return self.act(observation, deterministic), None

    def to_device(self, tree: Any) -> Any:
        """Return a tensor, or a flat dictionary of them, on the agent's device."""
        return map_tree(lambda leaf: leaf.to(self.device), tree)

    def act_from_cpu(self, observation: TensorObservation, deterministic: bool = True) -> Array:
        """Return `act` of observations that the environments have just returned."""
        return self.act(self.to_device(observation), deterministic)

    def evaluation_source(self, stream: SeedStream, num_episodes: int) -> EvaluationSource:
        """Return the source of `num_episodes` finished episodes with seeds from `stream`."""
        return EvaluationSource(
            self.env_config,
            EpisodePolicy(self),
            num_episodes,
            self.seed,
            stream=stream,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            poll=self.poll,
        )

    def _loader(self, stream: SeedStream, num_episodes: int) -> DataLoader:
        if stream in self._evaluation_sources:
            self._evaluation_sources[stream].close()
        source = self._evaluation_sources[stream] = self.evaluation_source(stream, num_episodes)
        return sized_loader(source)

    def val_dataloader(self) -> DataLoader:
        """Return the evaluation episodes, used for choosing checkpoints and for early stopping."""
        return self._loader("evaluation", getattr(self.trainer, "eval_episodes", EVAL_EPISODES))

    def test_dataloader(self) -> DataLoader:
        """Return the test episodes, whose seeds nothing was ever chosen by."""
        return self._loader("test", getattr(self.trainer, "test_episodes", TEST_EPISODES))

    def predict_dataloader(self) -> DataLoader:
        """Return the evaluation episodes; `predict` collects them."""
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Return the batch as it is: units move their own minibatches, episodes hold no tensors."""
        return batch

    def validation_step(self, episode: Episode, batch_idx: int) -> None:
        """Count one finished episode."""
        self._episode_metric.update(episode)

    def test_step(self, episode: Episode, batch_idx: int) -> None:
        """Count one finished episode."""
        self._episode_metric.update(episode)

    def predict_step(self, episode: Episode, batch_idx: int) -> dict[str, Any]:
        """Return the fields of the finished episode (Lightning refuses frozen dataclasses)."""
        return asdict(episode)

    def on_validation_epoch_end(self) -> None:
        """Log the statistics of the episodes."""
        self._finish_evaluation()

    def on_test_epoch_end(self) -> None:
        """Log the statistics of the episodes."""
        self._finish_evaluation()

    def on_validation_epoch_start(self) -> None:
        """Forget episodes of an evaluation that was broken off."""
        self._episode_metric.reset()
        self.is_evaluating = True

    def _finish_evaluation(self) -> None:
        self.is_evaluating = False
        self.evaluation = self._episode_metric.compute()
        self._episode_metric.reset()
        statistics = {
            f"eval/{name}": value
            for name, value in self.evaluation.items()
            if isinstance(value, float)
        }
        # For stock callbacks; its loggers would get batches as axis and not env steps.
        if not self.trainer.barebones:  # which warns about everything that is logged
            # All ranks have the same values: Lightning warns about what is not synchronised.
            self.log_dict(statistics, logger=False, sync_dist=True)
        if not self.trainer.sanity_checking:
            self.log_metrics(statistics)

    def close_evaluation(self) -> None:
        """Close the evaluation environments."""
        for source in self._evaluation_sources.values():
            source.close()


def _to_batch(space: spaces.Space, observation: Any) -> tuple[TensorObservation, bool]:
    """Return an observation of a flat space as `(N, *obs_shape)`, and whether it was a single one.

    The dtypes are those of training, whatever a caller's list or array has.
    """
    leaf_spaces: Any = space
    if isinstance(space, spaces.Dict):
        leaf_spaces, observation = dict(space.spaces), _flat_entries(space, observation)
        missing = [key for key in space.spaces if key not in observation]
        if missing:
            raise ConfigError(
                f"expected an observation with the entries {list(space.spaces)}, received one "
                f"without {missing}"
            )
    arrays = map_tree(
        lambda leaf, value: np.asarray(value, dtype=storage_dtype(leaf)), leaf_spaces, observation
    )
    extra = set()
    for (key, array), (_, leaf) in zip(tree_items(arrays), tree_items(leaf_spaces), strict=True):
        extra.add(array.ndim - len(leaf.shape))
        if array.shape[array.ndim - len(leaf.shape) :] != leaf.shape or not extra <= {0, 1}:
            raise ConfigError(
                f"expected an observation{f' {key!r}' if key else ''} of shape {leaf.shape}, or a "
                f"batch of them, received {array.shape}"
            )
    single = extra == {0}
    add = (lambda array: torch.from_numpy(array[None])) if single else torch.from_numpy
    return map_tree(add, arrays), single


def _flat_entries(space: spaces.Dict, observation: Any, name: str = "") -> dict[str, Any]:
    """Return a nested observation as the flat space's entries, guided by their names alone.

    The environment's own space is not needed, which a policy from a checkpoint does not have.
    """
    if name in space.spaces:
        return {name: observation}
    if not isinstance(observation, Mapping | tuple | list):
        raise ConfigError(
            f"expected an observation with the entries {list(space.spaces)}, received "
            f"{type(observation).__name__}{f' as {name!r}' if name else ''}"
        )
    nested = observation.items() if isinstance(observation, Mapping) else enumerate(observation)
    entries: dict[str, Any] = {}
    for key, child in nested:
        entries |= _flat_entries(space, child, f"{name}.{key}" if name else str(key))
    return entries
