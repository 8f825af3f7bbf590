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
class _ReplaySettings:
    """When an off-policy algorithm learns."""

    learning_starts: int
    train_frequency: int
    gradient_steps: int

    def minibatches(self, env_steps: int, num_envs: int) -> int:
        """Return the minibatches of a run of `env_steps`; libraries differ by one or two."""
        learning_env_steps = env_steps - self.learning_starts
        return learning_env_steps // (self.train_frequency * num_envs) * self.gradient_steps


@dataclass(frozen=True)
class DQNSettings(_ReplaySettings):
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
        """Return the optimizer steps, one for each minibatch."""
        return self.minibatches(env_steps, num_envs)


@dataclass(frozen=True)
class QRDQNSettings(DQNSettings):
    """Those of DQN, with quantiles in place of the squared error."""

    num_quantiles: int = 25


@dataclass(frozen=True)
class A2CSettings:
    """Hyperparameters of A2C under lightning_rl's names: RMSprop, two separate tanh networks."""

    num_steps: int = 5
    learning_rate: float = 7e-4
    gamma: float = 0.99
    gae_lambda: float = 1.0
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    hidden_sizes: tuple[int, ...] = (64, 64)

    def updates(self, env_steps: int, num_envs: int) -> int:
        """Return the optimizer steps that a run of `env_steps` (whole rollouts) takes."""
        return env_steps // (self.num_steps * num_envs)


@dataclass(frozen=True)
class SACSettings(_ReplaySettings):
    """Hyperparameters of SAC under lightning_rl's names: two critics, a learned temperature."""

    capacity: int = 100_000
    batch_size: int = 256
    learning_starts: int = 500
    train_frequency: int = 1
    gradient_steps: int = 1
    tau: float = 0.005
    gamma: float = 0.99
    learning_rate: float = 3e-4
    hidden_sizes: tuple[int, ...] = (256, 256)
    env_steps_per_iteration: int = 500

    def updates(self, env_steps: int, num_envs: int) -> int:
        """Return the optimizer steps: critics, actor and temperature at every minibatch."""
        return 3 * self.minibatches(env_steps, num_envs)


@dataclass(frozen=True)
class TD3Settings(SACSettings):
    """Those of SAC, with the delay and the noises of TD3; no temperature."""

    policy_delay: int = 2
    target_noise: float = 0.2
    noise_clip: float = 0.5
    exploration_noise: float = 0.1

    def updates(self, env_steps: int, num_envs: int) -> int:
        """Return the optimizer steps: the actor's at every `policy_delay`-th minibatch."""
        minibatches = self.minibatches(env_steps, num_envs)
        return minibatches + minibatches // self.policy_delay


@dataclass(frozen=True)
class TabularSettings:
    """Hyperparameters of Q-learning in a table under lightning_rl's names."""

    gamma: float = 0.99
    learning_rate: float = 0.5
    epsilon_end: float = 0.01

    def updates(self, env_steps: int, num_envs: int) -> int:
        """Return the entries of the table that are updated, one for each env step."""
        return env_steps


Settings = (
    PPOSettings | DQNSettings | QRDQNSettings | A2CSettings | SACSettings | TD3Settings
    | TabularSettings
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What every library is asked to train.

    Args:
        algorithm: Its name as `lightning_rl.make` takes it, in lower case.
        total_env_steps: Budget in env steps; on-policy a multiple of the rollout.
        warmup_env_steps: The clock starts when the first env step after these is asked for. They
            hold compilation and first uses; on-policy a multiple of the rollout, off-policy past
            `learning_starts`.
        parameters: Trainable parameters that the described networks have, those of all optimizers
            together; of a table its entries.
        whole_process: Measured from process start to process end instead, with all that a user gets
            without asking for it (callbacks, loggers, `compile: auto`); evaluation is off.
        library_defaults: Only environment and budget are given; the hyperparameters are each
            library's own, so the work is *not* equal.
        own_only: Compares ways of running lightning_rl; ratios are to its float32 row.
    """

    name: str
    algorithm: str
    env_id: str
    num_envs: int
    total_env_steps: int
    warmup_env_steps: int
    settings: Settings
    parameters: int
    whole_process: bool = False
    library_defaults: bool = False
    own_only: bool = False

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
    Case("a2c_cartpole", "a2c", "CartPole-v1", 8, 60_000, 6_000, A2CSettings(), 9_155),
    Case("qrdqn_cartpole", "qrdqn", "CartPole-v1", 1, 30_000, 3_000, QRDQNSettings(), 15_014),
    Case("sac_pendulum", "sac", "Pendulum-v1", 1, 2_500, 1_000, SACSettings(), 201_989),
    Case("td3_pendulum", "td3", "Pendulum-v1", 1, 2_500, 1_000, TD3Settings(), 201_731),
    Case("tabular_taxi", "qlearning", "Taxi-v4", 8, 400_000, 40_000, TabularSettings(), 3_000),
    Case("tabular_taxi_1", "qlearning", "Taxi-v4", 1, 200_000, 20_000, TabularSettings(), 3_000),
    # What bfloat16 has to offer: a network whose products outweigh everything else.
    Case(
        "sac_wide", "sac", "Pendulum-v1", 1, 250, 100,
        SACSettings(learning_starts=50, hidden_sizes=(1024, 1024), env_steps_per_iteration=50),
        3_167_237, own_only=True,
    ),
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
