"""Multi-layer perceptron with layer normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_rl.networks.mlp import check_layer_sizes, initialize_orthogonal
from lightning_rl.types import Array


class LayerNormMLP(nn.Module):
    """Linear, layer normalisation and ReLU for each hidden layer, then a linear one.

    Layer normalisation (Ba et al., 2016, https://arxiv.org/abs/1607.06450) keeps temporal
    differences from diverging without a target network (Gallici et al., 2024,
    https://arxiv.org/abs/2407.04811). Orthogonal weights, as in CleanRL.

    Args:
        input_size: Features per row.
        output_size: Numbers per row of the result.
        hidden_sizes: Units of each hidden layer.

    Raises:
        ConfigError: A size is not positive.
    """

    def __init__(self, input_size: int, output_size: int, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        check_layer_sizes([*sizes, output_size])
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in hidden_sizes)
        self.output = nn.Linear(sizes[-1], output_size)
        for layer in self.hidden:
            initialize_orthogonal(layer, math.sqrt(2.0))  # type: ignore[arg-type]
        initialize_orthogonal(self.output, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, input_size)` to `(B, output_size)`."""
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = norm(layer(x)).relu()
        return self.output(x)

    def array_function(
        self, array_function_of: Callable[[nn.Module], Any]
    ) -> Callable[[Array], Array]:
        """Return `forward` in NumPy; see `networks.acting`."""
        pairs = [(_arrays(x), _arrays(y)) for x, y in zip(self.hidden, self.norms, strict=True)]
        eps = self.norms[0].eps if pairs else 0.0  # type: ignore[operator]
        output_weight, output_bias = _arrays(self.output)

        def run(x: Array) -> Array:
            for (weight, bias), (scale, shift) in pairs:
                x = x @ weight.T + bias
                x -= x.mean(axis=1, keepdims=True)
                variance = np.mean(x * x, axis=1, keepdims=True)
                x *= scale / np.sqrt(variance + eps)
                x = np.maximum(x + shift, 0.0)
            return x @ output_weight.T + output_bias

        return run


def _arrays(module: Any) -> tuple[Array, Array]:
    """Return views of a module's weight and bias."""
    return module.weight.detach().numpy(), module.bias.detach().numpy()
