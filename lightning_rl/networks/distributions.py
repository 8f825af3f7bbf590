"""Action heads: what an actor's numbers mean as a distribution over actions, as pure functions.

A head is made from the action space. The *distribution parameters* `(B, P)` are the network's
output, for Box joined by the log standard deviation. Noise is drawn for a whole rollout in one call
and handed to `sample`, so that a step costs two or three small operations, and the same noise gives
the same actions. Integer actions are 0-based here; offsets of a space (`start`) belong to the
environment layer.
"""

from __future__ import annotations

import abc
import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from lightning_rl.errors import ConfigError
from lightning_rl.types import Array


class ActionHead(abc.ABC):
    """A family of distributions over the actions of one space.

    Attributes:
        num_outputs: Numbers per row that the actor network must return.
        has_log_std: Whether the distribution parameters are `cat(network output, log_std)`.
        action_shape: Shape of one action.
        action_dtype: dtype of the actions that `sample` and `mode` return.
    """

    num_outputs: int
    has_log_std: bool = False
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype

    def noise_shape(self, *prefix: int) -> tuple[int, ...]:
        """Return the shape of the noise for actions of shape `(*prefix, *action_shape)`."""
        return (*prefix, self.num_outputs)

    @abc.abstractmethod
    def draw_noise(
        self, shape_prefix: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the noise of `sample` for all steps at once.

        Args:
            shape_prefix: For example `(T, N)`; `noise[t]` then belongs to step t.
            generator: Stream to draw from; the noise lives on its device (CPU for None).

        Returns:
            `(*shape_prefix, num_outputs)` float32.
        """

    @abc.abstractmethod
    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return actions `(B, *action_shape)` of parameters `(B, P)`, noise `(B, num_outputs)`."""

    def sample_array(self, parameters: Array, noise: Array) -> Array:
        """Return `sample` of NumPy arrays, which costs a few microseconds less on small ones."""
        return self.sample(torch.from_numpy(parameters), torch.from_numpy(noise)).numpy()

    @abc.abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """Return the most probable actions `(B, *action_shape)`."""

    @abc.abstractmethod
    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Return the log-probability (Box: density) of actions `(B, *action_shape)` as `(B,)`."""

    @abc.abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the entropy in nats as `(B,)`."""


class CategoricalHead(ActionHead):
    """Softmax over the actions of a Discrete space; the parameters are logits `(B, n)`.

    Args:
        space: The action space.
    """

    action_dtype = torch.int64
    action_shape = ()

    def __init__(self, space: spaces.Discrete) -> None:
        self.num_outputs = int(space.n)

    def draw_noise(
        self, shape_prefix: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw Gumbel noise `-log(q)`, q exponential; `argmax(logits + noise)` is a sample."""
        return _gumbel(self.noise_shape(*shape_prefix), generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return action indexes `(B,)` int64."""
        return (parameters + noise).argmax(-1)

    def sample_array(self, parameters: Array, noise: Array) -> Array:
        """Return action indexes `(B,)` int64."""
        return (parameters + noise).argmax(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the indexes of the largest logits, `(B,)` int64."""
        return parameters.argmax(-1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Return `log_softmax(parameters)[action]` as `(B,)`."""
        return _categorical_log_prob(parameters, action)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return `-sum(p log p)` as `(B,)`."""
        return _categorical_entropy(parameters)


class MultiCategoricalHead(ActionHead):
    """Independent softmaxes for a MultiDiscrete space; the parameters are logits `(B, sum(nvec))`.

    Args:
        space: The action space.
    """

    action_dtype = torch.int64

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        self._sizes = [int(size) for size in space.nvec.reshape(-1)]
        self.num_outputs = sum(self._sizes)
        self.action_shape = tuple(space.shape)

    def draw_noise(
        self, shape_prefix: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw standard Gumbel noise, see `CategoricalHead`."""
        return _gumbel(self.noise_shape(*shape_prefix), generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return action indexes `(B, *action_shape)` int64."""
        return self.mode(parameters + noise)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the index of the largest logit of each integer, `(B, *action_shape)` int64."""
        indexes = [logits.argmax(-1) for logits in parameters.split(self._sizes, -1)]
        return torch.stack(indexes, -1).unflatten(-1, self.action_shape)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Return the sum over the integers as `(B,)`."""
        columns = action.flatten(action.dim() - len(self.action_shape)).unbind(-1)
        groups = zip(parameters.split(self._sizes, -1), columns, strict=True)
        return torch.stack([_categorical_log_prob(*group) for group in groups]).sum(0)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the sum over the integers as `(B,)`."""
        groups = parameters.split(self._sizes, -1)
        return torch.stack([_categorical_entropy(logits) for logits in groups]).sum(0)


class BernoulliHead(ActionHead):
    """Independent coins for a MultiBinary space; the parameters are logits `(B, n)`.

    Args:
        space: The action space.
    """

    action_dtype = torch.int8

    def __init__(self, space: spaces.MultiBinary) -> None:
        self.action_shape = tuple(space.shape)
        self.num_outputs = math.prod(self.action_shape)

    def draw_noise(
        self, shape_prefix: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw uniform noise in [0, 1)."""
        return torch.rand(
            self.noise_shape(*shape_prefix), generator=generator, device=_device(generator)
        )

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return 1 where the noise is below the probability, `(B, *action_shape)` int8."""
        return self._shape((noise < torch.sigmoid(parameters)).to(torch.int8))

    def mode(self, parameters: Tensor) -> Tensor:
        """Return 1 where the probability is above one half, `(B, *action_shape)` int8."""
        return self._shape((parameters > 0).to(torch.int8))

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Return the sum over the coins as `(B,)`."""
        coins = action.flatten(action.dim() - len(self.action_shape)).to(parameters.dtype)
        # log p(1) = logsigmoid(x) and log p(0) = logsigmoid(x) - x.
        return (F.logsigmoid(parameters) - (1.0 - coins) * parameters).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the sum over the coins as `(B,)`."""
        return (F.softplus(parameters) - parameters * torch.sigmoid(parameters)).sum(-1)

    def _shape(self, coins: Tensor) -> Tensor:
        return coins.unflatten(-1, self.action_shape)


class GaussianHead(ActionHead):
    """Independent normals for a Box space; the parameters are `cat(mean, log_std)`, `(B, 2A)`.

    Actions are not bounded here: clipping or rescaling to the Box is the environment layer's, so
    that the densities stay those of the actions taken.

    Args:
        space: The action space, of a float dtype.

    Raises:
        ConfigError: The Box holds integers.
    """

    action_dtype = torch.float32
    has_log_std = True

    def __init__(self, space: spaces.Box) -> None:
        if not np.issubdtype(space.dtype, np.floating):
            raise ConfigError(
                f"expected a Box action space of floats, got dtype {space.dtype};"
                " use MultiDiscrete for integers"
            )
        self.action_shape = tuple(space.shape)
        self.num_outputs = math.prod(self.action_shape)

    def draw_noise(
        self, shape_prefix: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw standard normal noise."""
        return torch.randn(
            self.noise_shape(*shape_prefix), generator=generator, device=_device(generator)
        )

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return `mean + exp(log_std) * noise` as `(B, *action_shape)` float32."""
        mean, log_std = parameters.chunk(2, -1)
        return self._shape(torch.addcmul(mean, log_std.exp(), noise))

    def sample_array(self, parameters: Array, noise: Array) -> Array:
        """Return `mean + exp(log_std) * noise` as `(B, *action_shape)` float32."""
        mean, log_std = parameters[:, : self.num_outputs], parameters[:, self.num_outputs :]
        return (mean + np.exp(log_std) * noise).reshape(-1, *self.action_shape)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the mean as `(B, *action_shape)` float32."""
        return self._shape(parameters.chunk(2, -1)[0])

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Return the joint log-density as `(B,)`."""
        mean, log_std = parameters.chunk(2, -1)
        distance = (self._vector(action) - mean) * torch.exp(-log_std)
        constant = 0.5 * math.log(2.0 * math.pi) * self.num_outputs
        return -(0.5 * distance.square() + log_std).sum(-1) - constant

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the joint differential entropy as `(B,)`."""
        constant = 0.5 * (1.0 + math.log(2.0 * math.pi)) * self.num_outputs
        return parameters.chunk(2, -1)[1].sum(-1) + constant

    def _shape(self, vector: Tensor) -> Tensor:
        if len(self.action_shape) == 1:
            return vector
        return vector.reshape(*vector.shape[:-1], *self.action_shape)

    def _vector(self, action: Tensor) -> Tensor:
        if len(self.action_shape) == 1:
            return action
        prefix = action.shape[: action.dim() - len(self.action_shape)]
        return action.reshape(*prefix, self.num_outputs)


_HEADS: dict[type[spaces.Space], type[ActionHead]] = {
    spaces.Discrete: CategoricalHead,
    spaces.Box: GaussianHead,
    spaces.MultiDiscrete: MultiCategoricalHead,
    spaces.MultiBinary: BernoulliHead,
}


def make_action_head(action_space: spaces.Space) -> ActionHead:
    """Return the action head for `action_space`.

    Raises:
        ConfigError: The space is not supported.
    """
    for space_class, head_class in _HEADS.items():
        if isinstance(action_space, space_class):
            return head_class(action_space)  # type: ignore[call-arg]
    supported = ", ".join(space_class.__name__ for space_class in _HEADS)
    raise ConfigError(
        f"action space {type(action_space).__name__} is not supported; supported are {supported}"
    )


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _gumbel(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Return Gumbel noise; its logarithm is taken here, once per rollout and not once per step."""
    exponential = torch.empty(shape, device=_device(generator)).exponential_(generator=generator)
    # Infinite noise, of a draw of exactly zero, would choose even an action without probability.
    return -exponential.clamp_(min=torch.finfo(torch.float32).tiny).log_()


def _categorical_log_prob(logits: Tensor, action: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def _categorical_entropy(logits: Tensor) -> Tensor:
    log_prob = logits.log_softmax(-1)
    return -(log_prob.exp() * log_prob).sum(-1)
