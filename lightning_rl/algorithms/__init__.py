"""Algorithms: one file each that reads like its paper. The command line lists what is exported."""

from lightning_rl.algorithms.a2c import A2C
from lightning_rl.algorithms.base import Algorithm
from lightning_rl.algorithms.c51 import C51
from lightning_rl.algorithms.crossq import CrossQ
from lightning_rl.algorithms.ddpg import DDPG
from lightning_rl.algorithms.discrete_sac import DiscreteSAC
from lightning_rl.algorithms.dqn import DQN
from lightning_rl.algorithms.expected_sarsa import ExpectedSARSA
from lightning_rl.algorithms.ppo import PPO
from lightning_rl.algorithms.pqn import PQN
from lightning_rl.algorithms.q_learning import QLearning
from lightning_rl.algorithms.qrdqn import QRDQN
from lightning_rl.algorithms.rainbow import Rainbow
from lightning_rl.algorithms.recurrent_ppo import RecurrentPPO
from lightning_rl.algorithms.reinforce import REINFORCE
from lightning_rl.algorithms.sac import SAC
from lightning_rl.algorithms.sarsa import SARSA
from lightning_rl.algorithms.td3 import TD3
from lightning_rl.algorithms.tqc import TQC

__all__ = [
    "A2C",
    "C51",
    "DDPG",
    "DQN",
    "PPO",
    "PQN",
    "QRDQN",
    "REINFORCE",
    "SAC",
    "SARSA",
    "TD3",
    "TQC",
    "Algorithm",
    "CrossQ",
    "DiscreteSAC",
    "ExpectedSARSA",
    "QLearning",
    "Rainbow",
    "RecurrentPPO",
]
