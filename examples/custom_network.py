"""Give PPO networks of your own: a policy with a skip connection and a wider critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_rl import PPO, run


class SkipActor(nn.Module):
    """A linear policy plus a small correction by a hidden layer.

    `PPO` builds it as `SkipActor(input_size, output_size)`: features of an observation in, the
    parameters of the action distribution out (logits here).
    """

    def __init__(self, input_size: int, output_size: int, hidden_size: int = 32) -> None:
        """Make a network from `input_size` features to `output_size` numbers."""
        super().__init__()
        self.linear = nn.Linear(input_size, output_size)
        self.hidden = nn.Linear(input_size, hidden_size)
        self.correction = nn.Linear(hidden_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, input_size)` to `(B, output_size)`."""
        return self.linear(features) + self.correction(torch.tanh(self.hidden(features)))


def main(total_env_steps: int = 100_000) -> float:
    """Return the mean training reward."""
    # A class, or (as YAML says it) a path with arguments; either can be stored in a checkpoint.
    critic = {
        "class_path": "lightning_rl.networks.values.MLPCritic",
        "init_args": {"hidden_sizes": [128, 128]},
    }
    agent = PPO(
        env="CartPole-v1", total_env_steps=total_env_steps, actor=SkipActor, critic=critic, seed=1
    )
    result = run(agent)
    print(f"mean training reward {result.metrics['mean_reward']:.1f}")
    return result.metrics["mean_reward"]


if __name__ == "__main__":
    main()
