"""The dueling architecture: the value of a state apart from the advantages of its actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_rl.networks.mlp import MLP, check_layer_sizes, linear_layers
from lightning_rl.types import Array


class DuelingMLP(nn.Module):
    """Two streams behind shared layers (Wang et al., 2016, https://arxiv.org/abs/1511.06581).

    Equation 9, `Q = V + A - mean(A)`, for each of `num_atoms` outputs per action apart. The last
    hidden layer is each stream's own, those before it are shared.

    Args:
        input_size: Features per row.
        num_actions: Actions.
        hidden_sizes: Units of each hidden layer; with none, each stream is one linear map.
        num_atoms: Numbers per action.
        activation: A key of `ACTIVATIONS`.
        noisy: Noisy layers everywhere.

    Raises:
        ConfigError: A size is not positive.
    """

    def __init__(
        self,
        input_size: int,
        num_actions: int,
        hidden_sizes: Sequence[int],
        num_atoms: int = 1,
        activation: str = "relu",
        noisy: bool = False,
    ) -> None:
        super().__init__()
        linear = linear_layers(noisy)
        check_layer_sizes(hidden_sizes)
        *shared, own = hidden_sizes or [0]
        self.trunk: MLP | None = None
        if shared:
            self.trunk = MLP(
                input_size,
                shared[-1],
                shared[:-1],
                activation,
                orthogonal=False,
                activate_output=True,
                linear=linear,
            )
        width, hidden = shared[-1] if shared else input_size, (own,) if own else ()
        self.value = MLP(width, num_atoms, hidden, activation, orthogonal=False, linear=linear)
        self.advantage = MLP(
            width, num_actions * num_atoms, hidden, activation, orthogonal=False, linear=linear
        )
        self.num_atoms = num_atoms

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, input_size)` to `(B, num_actions * num_atoms)`, action by action."""
        if self.trunk is not None:
            x = self.trunk(x)
        advantage = self.advantage(x).unflatten(-1, (-1, self.num_atoms))
        value = self.value(x).unsqueeze(-2)
        return (value + advantage - advantage.mean(-2, keepdim=True)).flatten(-2)

    def array_function(
        self, array_function_of: Callable[[nn.Module], Any]
    ) -> Callable[[Array], Array] | None:
        """Return `forward` in NumPy, or None; see `networks.acting`."""
        parts = [
            array_function_of(part) for part in (self.trunk, self.value, self.advantage) if part
        ]
        if any(part is None for part in parts):
            return None
        *trunk, value, advantage = parts

        def run(x: Array) -> Array:
            for part in trunk:
                x = part(x)
            advantages = advantage(x).reshape(len(x), -1, self.num_atoms)
            values = value(x)[:, None] + advantages
            values -= advantages.mean(axis=1, keepdims=True)
            return values.reshape(len(x), -1)

        return run
