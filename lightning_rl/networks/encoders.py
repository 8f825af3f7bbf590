"""Encoders: an observation of a flat space to float features `(B, output_size)`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from lightning_rl.errors import ConfigError
from lightning_rl.networks.cnn import Encoder, NatureCNN

_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, and a flat Dict of these"


class IdentityEncoder(Encoder):
    """Float vectors as they are.

    Args:
        output_size: Length of the vectors.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, observation: Tensor) -> Tensor:
        """Return `(B, output_size)` as it is."""
        return observation


class FlattenEncoder(Encoder):
    """Numbers of any shape and dtype as a float32 vector.

    Args:
        output_size: Numbers per observation.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, observation: Tensor) -> Tensor:
        """Map `(B, *obs_shape)` to `(B, output_size)` float32."""
        return observation.reshape(observation.shape[0], -1).float()


class OneHotEncoder(Encoder):
    """Integers as concatenated one-hot vectors; an integer outside its range becomes zeros.

    Args:
        sizes: Number of values of each integer.
        starts: Smallest value of each integer.
    """

    column: Tensor
    value: Tensor

    def __init__(self, sizes: np.ndarray, starts: np.ndarray) -> None:
        super().__init__()
        sizes, starts = sizes.reshape(-1), starts.reshape(-1)
        ranges = [np.arange(start, start + size) for size, start in zip(sizes, starts, strict=True)]
        column = torch.as_tensor(np.repeat(np.arange(len(sizes)), sizes), dtype=torch.int64)
        value = torch.as_tensor(np.concatenate(ranges), dtype=torch.int64)
        self.output_size = len(value)
        self._single = len(sizes) == 1
        # Not persistent: they follow from the space and are no part of a checkpoint.
        self.register_buffer("column", column, persistent=False)
        self.register_buffer("value", value, persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        """Map integers `(B,)` or `(B, *obs_shape)` to `(B, output_size)` float32."""
        rows = observation.reshape(observation.shape[0], -1)
        # One integer per row broadcasts against its values; several are repeated to them first.
        rows = rows if self._single else rows.index_select(1, self.column)
        return torch.eq(rows, self.value).float()


class DictEncoder(Encoder):
    """The encoded entries of a flat dictionary, concatenated in the order of the space's keys.

    Args:
        encoders: Key to encoder.
    """

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.keys = tuple(encoders)
        # A list, since keys of flattened spaces hold dots, which module names may not.
        self.encoders = nn.ModuleList(encoders.values())
        self.output_size = sum(encoder.output_size for encoder in encoders.values())

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Map `{key: (B, *shape)}` to `(B, output_size)` float32."""
        pairs = zip(self.keys, self.encoders, strict=True)
        return torch.cat([encoder(observation[key]) for key, encoder in pairs], dim=1)


def is_image(space: spaces.Space) -> bool:
    """Return whether `space` is a Box of uint8 images with three dimensions, or stacks of them."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (3, 4)


def make_encoder(space: spaces.Space, cnn_output_size: int | None = None) -> Encoder:
    """Return the encoder for observations of `space`, with its width as `output_size`.

    Vectors cost nothing, other Boxes are flattened, uint8 images go through a `NatureCNN`, integers
    become one-hot vectors (counted from their `start`), MultiBinary becomes floats, and the entries
    of a Dict are encoded one by one and concatenated.

    Args:
        space: A leaf space, or a Dict of leaf spaces as the environment layer makes of nested ones.
        cnn_output_size: Features per image; see `NatureCNN` for the default.

    Raises:
        ConfigError: The space is not supported.
    """
    if isinstance(space, spaces.Dict):
        leaves = {key: _leaf_encoder(leaf, cnn_output_size) for key, leaf in space.items()}
        if not leaves:
            raise ConfigError("expected an observation space with entries, got an empty Dict")
        return DictEncoder(leaves)
    return _leaf_encoder(space, cnn_output_size)


def _leaf_encoder(space: spaces.Space, cnn_output_size: int | None) -> Encoder:
    if isinstance(space, spaces.Box):
        if is_image(space):
            return NatureCNN(space.shape, cnn_output_size, float(space.high.max()))
        size = int(np.prod(space.shape))
        is_vector = len(space.shape) == 1 and space.dtype in (np.float32, np.float64)
        return IdentityEncoder(size) if is_vector else FlattenEncoder(size)
    if isinstance(space, spaces.Discrete):
        return OneHotEncoder(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return OneHotEncoder(space.nvec, space.start)
    if isinstance(space, spaces.MultiBinary):
        return FlattenEncoder(int(np.prod(space.shape)))
    raise ConfigError(
        f"observation space {type(space).__name__} is not supported; supported are {_SUPPORTED}"
    )
