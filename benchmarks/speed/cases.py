"""The cases: environment, hyperparameters and budget, the same for every library.

Imported by every library's own interpreter, so nothing but the standard library is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PPOSettings:
    """Hyperparameters of PPO under lightning_rl's names.

    No learning-rate decay, no value clipping, advantages normalised; two separate tanh networks.
    """

    num_steps: int
    minibatch_size: int
    update_epochs: int
    learning_rate: float
    ent_coef: float
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_coef: float = 0.2
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    hidden_sizes: tuple[int, ...] = (64, 64)

    def updates(self, env_steps: int, num_envs: int) -> int:
        """Return the optimizer steps that a run of `env_steps` (whole rollouts) takes."""
        rollout = self.num_steps * num_envs
        return env_steps // rollout * self.update_epochs * (rollout // self.minibatch_size)


@dataclass(frozen=True)
class DQNSettings:
    """Hyperparameters of DQN under lightning_rl's names: hard target updates and squared error."""

    capacity: int = 10_000
    batch_size: int = 128
    learning_starts: int = 1_000
    train_frequency: int = 10
    gradient_steps: int = 1
    target_update_interval: int = 500
    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_fraction: float = 0.5
    max_grad_norm: float = 10.0
    hidden_sizes: tuple[int, ...] = (120, 84)

    def updates(self, env_steps: int, num_envs: int) -> int:
        """Return the optimizer steps of a run of `env_steps`; libraries differ by one or two."""
        learning_env_steps = env_steps - self.learning_starts
        return learning_env_steps // (self.train_frequency * num_envs) * self.gradient_steps


@dataclass(frozen=True)
class Case:
    """What every library is asked to train.

    Args:
        algorithm: "ppo" or "dqn".
        total_env_steps: Budget in env steps; for PPO a multiple of the rollout.
        warmup_env_steps: The clock starts when the first env step after these is asked for. They
            hold compilation and first uses; for PPO a multiple of the rollout, for DQN past
            `learning_starts`.
        parameters: Trainable parameters that the described networks have.
        whole_process: Measured from process start to process end instead, with all that a user gets
            without asking for it (callbacks, loggers, `compile: auto`); evaluation is off.
        library_defaults: Only environment and budget are given; the hyperparameters are each
            library's own, so the work is *not* equal.
    """

    name: str
    algorithm: str
    env_id: str
    num_envs: int
    total_env_steps: int
    warmup_env_steps: int
    settings: PPOSettings | DQNSettings
    parameters: int
    whole_process: bool = False
    library_defaults: bool = False

    def updates(self) -> int:
        """Return the optimizer steps that the whole run takes."""
        return self.settings.updates(self.total_env_steps, self.num_envs)


_PPO_CARTPOLE = PPOSettings(
    num_steps=128, minibatch_size=256, update_epochs=4, learning_rate=2.5e-4, ent_coef=0.01
)
_PPO_CHEETAH = PPOSettings(
    num_steps=512, minibatch_size=64, update_epochs=10, learning_rate=3e-4, ent_coef=0.0
)

_ALL = (
    Case("ppo_cartpole", "ppo", "CartPole-v1", 8, 100_352, 10_240, _PPO_CARTPOLE, 9_155),
    Case("ppo_cheetah", "ppo", "HalfCheetah-v5", 4, 24_576, 4_096, _PPO_CHEETAH, 11_085),
    Case("dqn_cartpole", "dqn", "CartPole-v1", 1, 30_000, 3_000, DQNSettings(), 10_934),
    Case(
        "process_start", "ppo", "CartPole-v1", 8, 100_352, 10_240, _PPO_CARTPOLE, 9_155,
        whole_process=True,
    ),
    Case(
        "process_start_defaults", "ppo", "CartPole-v1", 8, 100_000, 10_240, _PPO_CARTPOLE, 9_155,
        whole_process=True, library_defaults=True,
    ),
)  # fmt: skip

CASES = {case.name: case for case in _ALL}
