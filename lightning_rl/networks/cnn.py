"""Convolutional encoders for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.networks.mlp import initialize_orthogonal

SMALLEST_NATURE_SIDE = 36
"""Shortest image side, in pixels, that survives the Nature network's three convolutions."""

# (channels, kernel size, stride) of each convolution.
_NATURE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
NATURE_OUTPUT_SIZE = 512
# Grid-like images (10 x 10 cells) lose everything to strides of 4: MinAtar's own network.
_SMALL_LAYERS = ((16, 3, 1),)
SMALL_OUTPUT_SIZE = 128


class Encoder(nn.Module):
    """A module from observations to features `(B, output_size)`.

    Attributes:
        output_size: Features per observation.
    """

    output_size: int


class NatureCNN(Encoder):
    """The convolutional network of DQN (Mnih et al., 2015, https://www.nature.com/articles/nature14236).

    Images with a side below 36 pixels get the network of MinAtar instead, one convolution with 16
    3x3 kernels (Young and Tian, 2019, https://arxiv.org/abs/1903.03176). Orthogonal initialisation
    as in CleanRL and SB3.

    Args:
        input_shape: `(C, H, W)` or `(H, W, C)`; the shorter end is the channels, the front one on a
            tie. A stack of such images, `(k, ...)`, is one image with the channels of all.
        output_size: Features per image; default 512, or 128 for small images, as published.
        brightest: What a byte is divided by: the largest one of an observation.

    Raises:
        ConfigError: The shape is not that of an image.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int | None = None,
        brightest: float = 255.0,
    ) -> None:
        super().__init__()
        if len(input_shape) not in (3, 4) or min(input_shape) < 1:
            raise ConfigError(
                "expected an image shape (C, H, W) or (H, W, C), or that of a stack of images "
                f"(k, ...), got {tuple(input_shape)}"
            )
        *stack, front, middle, back = input_shape
        self.channels_last = back < front
        self.brightest = brightest
        height, width = (front, middle) if self.channels_last else (middle, back)
        channels = math.prod(stack) * (back if self.channels_last else front)
        small = min(height, width) < SMALLEST_NATURE_SIDE
        self.output_size = output_size or (SMALL_OUTPUT_SIZE if small else NATURE_OUTPUT_SIZE)
        self.convolutions = nn.ModuleList()
        for out_channels, kernel, stride in _SMALL_LAYERS if small else _NATURE_LAYERS:
            kernel = min(kernel, height, width)  # a grid may be smaller than it
            layer = nn.Conv2d(channels, out_channels, kernel, stride)
            initialize_orthogonal(layer, math.sqrt(2.0))
            self.convolutions.append(layer)
            channels = out_channels
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.linear = nn.Linear(channels * height * width, self.output_size)
        initialize_orthogonal(self.linear, math.sqrt(2.0))

    def forward(self, observation: Tensor) -> Tensor:
        """Map images `(B, *input_shape)`, uint8 or float (not scaled), to `(B, output_size)`."""
        x = observation
        if x.dtype == torch.uint8:
            x = x.to(self.linear.weight.dtype)
            if self.brightest != 1.0:
                x = x / self.brightest
        if self.channels_last:
            x = x.movedim(-1, -3)
        if x.dim() == 5:
            x = x.flatten(1, 2)
        for layer in self.convolutions:
            x = torch.relu(layer(x))
        return torch.relu(self.linear(x.flatten(1)))
