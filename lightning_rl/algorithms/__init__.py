"""Algorithms: one file each that reads like its paper. The command line lists what is exported."""

from lightning_rl.algorithms.base import Algorithm
from lightning_rl.algorithms.ddpg import DDPG
from lightning_rl.algorithms.dqn import DQN
from lightning_rl.algorithms.ppo import PPO
from lightning_rl.algorithms.sac import SAC
from lightning_rl.algorithms.td3 import TD3

__all__ = ["DDPG", "DQN", "PPO", "SAC", "TD3", "Algorithm"]
