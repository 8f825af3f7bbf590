"""Train on an environment of your own: walk along a corridor to its right end."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lightning_rl import DQN, EnvConfig, evaluate_policy, run


class Corridor(gymnasium.Env):
    """A line of `length` cells. The start is random, every step costs, the right end pays."""

    def __init__(self, length: int = 6) -> None:
        """Make a corridor of `length` cells."""
        self.length = length
        self.position = 0
        self.observation_space = spaces.Discrete(length)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start in a random cell, drawn from `self.np_random`: an episode follows from its seed."""
        super().reset(seed=seed)
        self.position = int(self.np_random.integers(self.length - 1))
        return np.int64(self.position), {}

    def step(self, action: int) -> Any:
        """Go right for action 1, left for 0. Reaching the end terminates; time limits truncate."""
        self.position = max(self.position + (1 if action == 1 else -1), 0)
        arrived = self.position == self.length - 1
        return np.int64(self.position), 1.0 if arrived else -0.1, arrived, False, {}


def main(total_env_steps: int = 10_000) -> float:
    """Return the mean reward of the learnt policy."""
    env = EnvConfig(factory=Corridor, kwargs={"length": 8}, max_episode_steps=50)
    agent = DQN(env=env, total_env_steps=total_env_steps, learning_starts=500, seed=1)
    result = run(agent)
    # A checkpoint holds no code: it knows the class by name only, so pass it again.
    best = DQN.load_from_checkpoint(result.best_checkpoint, env=env)
    mean_reward = evaluate_policy(best, num_episodes=20).mean_reward
    print(f"mean reward {mean_reward:.2f}")
    return mean_reward


if __name__ == "__main__":
    main()
