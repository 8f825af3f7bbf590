"""Networks with batch renormalisation, whose statistics travel as buffers with every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.networks.acting import ActingFunction, acting_function
from lightning_rl.networks.encoders import make_encoder
from lightning_rl.networks.ensemble import EnsembleMLP
from lightning_rl.types import TensorObservation

MOMENTUM = 0.01
"""Weight of a batch in the running statistics."""
EPS = 1e-3
WARMUP_BATCHES = 100_000
"""Until so many batches were seen, batch statistics are used as they are: batch normalisation."""
MAX_SCALE, MAX_SHIFT = 3.0, 5.0


class BatchRenorm(nn.Module):
    """Batch renormalisation of M networks' features, each by statistics of its own.

    Ioffe, 2017, https://arxiv.org/abs/1702.03275. With `batch_statistics` features are normalised
    by the batch and then corrected towards the running statistics, by no more than `MAX_SCALE` and
    `MAX_SHIFT`; without, by the running statistics alone.

    Args:
        num_members: M.
        size: Features.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor

    def __init__(self, num_members: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_members, 1, size))
        self.bias = nn.Parameter(torch.zeros(num_members, 1, size))
        self.register_buffer("mean", torch.zeros(num_members, 1, size))
        self.register_buffer("var", torch.ones(num_members, 1, size))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Tensor, batch_statistics: bool) -> Tensor:
        """Map `(M, B, size)` to the same shape; with `batch_statistics` also update the buffers."""
        std = (self.var + EPS).sqrt()
        if not batch_statistics:
            return (x - self.mean) / std * self.weight + self.bias
        var, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        batch_std = (var + EPS).sqrt()
        with torch.no_grad():
            warm = self.batches >= WARMUP_BATCHES
            scale = (batch_std / std).clamp(1.0 / MAX_SCALE, MAX_SCALE)
            shift = ((mean - self.mean) / std).clamp(-MAX_SHIFT, MAX_SHIFT)
            scale = torch.where(warm, scale, torch.ones_like(scale))
            shift = torch.where(warm, shift, torch.zeros_like(shift))
            self.mean.lerp_(mean.to(self.mean.dtype), MOMENTUM)
            self.var.lerp_(var.to(self.var.dtype), MOMENTUM)
            self.batches.add_(1.0)
        return ((x - mean) / batch_std * scale + shift) * self.weight + self.bias


class RenormMLP(EnsembleMLP):
    """M fully connected networks with ReLU, normalised at the input and behind every hidden layer.

    Args:
        num_members: M.
        input_size: Features per row.
        hidden_sizes: Units of each hidden layer.
        output_size: Numbers per row of each network's result.
    """

    norms: Sequence[BatchRenorm]

    def __init__(
        self, num_members: int, input_size: int, hidden_sizes: Sequence[int], output_size: int
    ) -> None:
        super().__init__(num_members, input_size, hidden_sizes, output_size)
        sizes = (input_size, *hidden_sizes)
        self.norms = nn.ModuleList(  # type: ignore[assignment]  # ModuleList is not generic
            BatchRenorm(num_members, size) for size in sizes
        )

    def forward(self, x: Tensor, batch_statistics: bool = False) -> Tensor:
        """Map `(B, input_size)` to `(M, B, output_size)`."""
        x = x.expand(self.num_members, -1, -1)
        layers = zip(self.norms, self.weights, self.biases, strict=True)
        for index, (norm, weight, bias) in enumerate(layers):
            x = norm(x.relu() if index > 0 else x, batch_statistics)
            x = torch.bmm(x, weight) + bias
        return x


class RenormNetwork(nn.Module):
    """Encoder and `RenormMLP` of an observation and, for critics, an action.

    Args:
        observation_space: A leaf space or a flat Dict.
        action_size: Numbers of one action; 0 for an actor.
        num_members: Networks of one shape.
        hidden_sizes: Units of each hidden layer.
        output_size: Numbers per row of each network's result.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_size: int,
        num_members: int,
        hidden_sizes: Sequence[int],
        output_size: int,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space)
        width = self.encoder.output_size + action_size
        self.mlp = RenormMLP(num_members, width, hidden_sizes, output_size)
        self._is_critic = action_size > 0

    def forward(
        self,
        observation: TensorObservation,
        action: Tensor | None = None,
        batch_statistics: bool = False,
    ) -> Tensor:
        """Return a critic's values `(M, B)`, or an actor's `(B, output_size)`, as float32.

        Args:
            observation: `(B, *obs_shape)`.
            action: `(B, action_size)`, for a critic.
            batch_statistics: Normalise by the batch, as the loss being minimised does.
        """
        features = self.encoder(observation)
        if action is not None:
            features = torch.cat((features, action), -1)
        outputs = self.mlp(features, batch_statistics).float()
        return outputs.squeeze(-1) if self._is_critic else outputs[0]

    def acting_function(self, normalizer: nn.Module | None = None) -> ActingFunction:
        """Return `forward` with running statistics as a function to NumPy, behind `normalizer`."""
        return acting_function(normalizer, self)
