"""Running normalisation as module buffers, so that its statistics travel with every checkpoint.

Statistics are float32 (the MPS backend has no float64) with an exact int64 count; joining batch
moments by Chan's formula keeps float32 accurate, where running sums would lose digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import TrainingFailed
from lightning_rl.functional.returns import reverse_discounted_sum
from lightning_rl.functional.statistics import combine_moments
from lightning_rl.functional.trees import tree_items
from lightning_rl.types import TensorObservation

Moments = tuple[Tensor, Tensor, Tensor]
"""Mean, population variance and count of a batch."""

EPS = 1e-8


class RunningMoments(nn.Module):
    """Mean, variance and count of everything seen.

    Args:
        shape: Shape of one item.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def absorb(self, moments: Moments) -> None:
        """Join the moments of a batch, in place.

        Raises:
            TrainingFailed: The variance is too large for float32; nothing is absorbed then.
        """
        joint = combine_moments(self.mean, self.var, self.count, *moments)
        if not torch.isfinite(joint[1]).all():
            largest = moments[0].abs().max().item()
            raise TrainingFailed(
                f"cannot normalise numbers around {largest:.3g}, whose squares float32 does not "
                "hold, most likely a reward or an observation without bounds; scale it down in a "
                "wrapper of the environment"
            )
        for buffer, new in zip((self.mean, self.var, self.count), joint, strict=True):
            buffer.copy_(new)


class RunningNormalizer(nn.Module):
    """Observations minus their running mean, divided by their running standard deviation, clipped.

    Only float Box entries are normalised; images, integers and bits pass through.

    Args:
        observation_space: A leaf space or a flat Dict.
        clip: Largest magnitude of a normalised number.
    """

    leaves: Mapping[str, RunningMoments]

    def __init__(self, observation_space: spaces.Space, clip: float = 10.0) -> None:
        super().__init__()
        space = observation_space
        leaves = dict(space.items()) if isinstance(space, spaces.Dict) else space
        self.clip = clip
        self.leaves = nn.ModuleDict(  # type: ignore[assignment]  # ModuleDict is not generic
            {
                _module_name(key): RunningMoments(tuple(leaf.shape))
                for key, leaf in tree_items(leaves)
                if isinstance(leaf, spaces.Box) and np.issubdtype(leaf.dtype, np.floating)
            }
        )

    def forward(self, observation: TensorObservation) -> TensorObservation:
        """Return the normalised observation `(B, *obs_shape)`, of the same structure."""
        if not isinstance(observation, dict):
            return self._normalize("", observation)
        return {key: self._normalize(key, leaf) for key, leaf in observation.items()}

    def _normalize(self, key: str, leaf: Tensor) -> Tensor:
        name = _module_name(key)
        return _standardize(leaf, self.leaves[name], self.clip) if name in self.leaves else leaf

    def inference_function(self) -> Callable[[Any], Any]:
        """Return `forward` without a module call's overhead; later updates of the statistics show.

        A new one is needed when buffers are replaced (`module.to(device)`).
        """
        if "observation" not in self.leaves:
            return torch.no_grad()(self.forward)
        moments = self.leaves["observation"]
        mean, var, clip = moments.mean, moments.var, self.clip
        return lambda leaf: ((leaf - mean) * torch.rsqrt(var + EPS)).clamp_(-clip, clip)

    @torch.no_grad()
    def batch_moments(self, observation: TensorObservation) -> dict[str, Moments]:
        """Return the moments of a batch by key, for `update_from_moments` here or on other ranks.

        Args:
            observation: `(*batch_shape, *obs_shape)` with any number of leading dimensions.

        Raises:
            ValueError: A number is not finite; the message names the entry.
        """
        moments = {}
        for key, leaf in tree_items(observation):
            name = _module_name(key)
            if name in self.leaves:
                shape = self.leaves[name].mean.shape
                label = f"observation[{key!r}]" if key else "observation"
                moments[key] = _moments(leaf.reshape(-1, *shape), label)
        return moments

    def update_from_moments(self, moments: Mapping[str, Moments]) -> None:
        """Absorb the moments of a batch; with several ranks, each rank's in rank order."""
        for key, batch in moments.items():
            self.leaves[_module_name(key)].absorb(batch)

    def update(self, observation: TensorObservation) -> None:
        """Absorb a batch of observations `(*batch_shape, *obs_shape)`.

        Raises:
            ValueError: A number is not finite; nothing is absorbed then.
        """
        self.update_from_moments(self.batch_moments(observation))


PER_ENVIRONMENT = "discounted_return"
"""A buffer with one number for each environment: it loads whatever their number was."""


Shape = tuple[int, ...]


def differing_shapes(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> dict[str, tuple[Shape | None, Shape | None]]:
    """Return by name the shapes here and there of what does not fit, None where it is missing."""
    shapes = [
        {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (own, found)
    ]
    pairs = {name: (shapes[0].get(name), shapes[1].get(name)) for name in sorted({**own, **found})}
    return {
        name: (here, there)
        for name, (here, there) in pairs.items()
        if here != there and (None in (here, there) or not name.endswith(PER_ENVIRONMENT))
    }


class RewardNormalizer(nn.Module):
    """Rewards divided by the running standard deviation of each env's discounted return, clipped.

    As `VecNormalize` of SB3 and gymnasium's `NormalizeReward`: the mean stays, since shifting
    rewards changes the task.

    Args:
        num_envs: N.
        gamma: Discount of the returns in [0, 1).
        clip: Largest magnitude of a normalised reward.
    """

    discounted_return: Tensor

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.clip = clip
        self.moments = RunningMoments(())
        self.register_buffer("discounted_return", torch.zeros(num_envs))

    @torch.no_grad()
    def advance(self, reward: Tensor, episode_end: Tensor) -> Moments:
        """Carry the discounted returns over a rollout; return moments for `update_from_moments`.

        Args:
            reward: `(T, N)`.
            episode_end: `(T, N)` bool; the return starts again at zero after it.

        Raises:
            ValueError: A reward is not finite (nothing changes then), or the shapes do not fit.
        """
        if reward.dim() != 2 or reward.shape[1:] != self.discounted_return.shape:
            expected = f"(T, {self.discounted_return.shape[0]})"
            raise ValueError(f"expected rewards of shape {expected}, got {tuple(reward.shape)}")
        _check_finite(reward, "reward")
        goes_on = episode_end.logical_not().to(reward.dtype)
        first = reward[:1] + self.gamma * self.discounted_return
        terms = torch.cat((first, reward[1:]))
        # The recurrence runs forward in time: the scan gets it reversed. Row t takes what row t - 1
        # passes on.
        passed_on = torch.cat((torch.zeros_like(goes_on[:1]), self.gamma * goes_on[:-1]))
        returns = reverse_discounted_sum(terms.flip(0), passed_on.flip(0)).flip(0)
        self.discounted_return.copy_(returns[-1] * goes_on[-1])
        return _moments(returns.reshape(-1), "discounted return")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load; the returns begin anew where they are those of another number of environments."""
        name, own = f"{prefix}{PER_ENVIRONMENT}", self.discounted_return
        if name in state_dict and state_dict[name].shape != own.shape:
            state_dict = {**state_dict, name: torch.zeros_like(own)}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def update_from_moments(self, moments: Moments) -> None:
        """Absorb moments of discounted returns; with several ranks, each rank's in rank order."""
        self.moments.absorb(moments)

    def update(self, reward: Tensor, episode_end: Tensor) -> None:
        """Absorb a rollout's rewards `(T, N)` with their episode ends `(T, N)`; see `advance`."""
        self.update_from_moments(self.advance(reward, episode_end))

    def forward(self, reward: Tensor) -> Tensor:
        """Return the rewards, of any shape, divided by the standard deviation and clipped."""
        return (reward * torch.rsqrt(self.moments.var + EPS)).clamp(-self.clip, self.clip)


def _standardize(leaf: Tensor, moments: RunningMoments, clip: float) -> Tensor:
    return ((leaf - moments.mean) * torch.rsqrt(moments.var + EPS)).clamp(-clip, clip)


def _module_name(key: str) -> str:
    """Return a name that modules accept: no dots, not empty."""
    return f"entry:{key.replace('.', '/')}" if key else "observation"


def _moments(rows: Tensor, label: str) -> Moments:
    """Return the moments over the first dimension of `(B, *shape)`."""
    _check_finite(rows, label)
    var, mean = torch.var_mean(rows.float(), dim=0, correction=0)
    return mean, var, torch.tensor(rows.shape[0], device=rows.device)


def _check_finite(tensor: Tensor, label: str) -> None:
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"expected finite numbers in {label}, got {bad} non-finite of {tensor.numel()};"
            " the running statistics are unchanged"
        )
