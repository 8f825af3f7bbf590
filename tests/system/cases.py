"""Small runs that use every feature whose state a resume has to restore."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.system.fork_server import Run

NORMALIZED = {"normalize_observation": True, "normalize_reward": True}
# DQN needs discrete actions: every joint pushes fully one way or the other.
DISCRETIZED = {"class_path": "gymnasium.wrappers.DiscretizeAction", "init_args": {"bins": 2}}
CHECKPOINT = {"every_env_steps": 200, "keep_best": 2}


def ppo(env_id: str, schedule: str, patience: int = 99, **env: Any) -> Run:
    """A PPO run of 12 rollouts over two environments, evaluated every third."""
    return Run(
        root="",
        algorithm="PPO",
        agent={
            "env": {"id": env_id, "num_envs": 2, **NORMALIZED, **env},
            "total_env_steps": 12 * 128,
            "seed": 3,
            "num_steps": 64,
            "minibatch_size": 64,
            "update_epochs": 2,
            "learning_rate": 1e-3,
            "learning_rate_schedule": schedule,
            "compile": False,
        },
        trainer={"eval_every_env_steps": 3 * 128},
        checkpoint=CHECKPOINT,
        patience=patience,
    )


def recurrent(env_id: str) -> Run:
    """The same with RecurrentPPO, which never compiles."""
    run = ppo(env_id, "linear")
    memory = {"sequence_length": 16, "hidden_size": 8, "hidden_sizes": [16]}
    agent = {key: value for key, value in run.agent.items() if key != "compile"} | memory
    return replace(run, algorithm="RecurrentPPO", agent=agent)


def dqn(env_id: str, patience: int = 99, **env: Any) -> Run:
    """A DQN run of 12 units whose replay buffer overflows, evaluated every third."""
    return Run(
        root="",
        algorithm="DQN",
        agent={
            "env": {"id": env_id, **NORMALIZED, **env},
            "total_env_steps": 12 * 100,
            "seed": 3,
            "capacity": 700,
            "batch_size": 32,
            "learning_starts": 100,
            "train_frequency": 10,
            "gradient_steps": 4,
            "target_update_interval": 150,
            "epsilon_fraction": 0.5,
            "env_steps_per_iteration": 100,
            "compile": False,
        },
        trainer={"eval_every_env_steps": 300},
        checkpoint=CHECKPOINT,
        patience=patience,
    )


def continuous(algorithm: str, env_id: str, **agent: Any) -> Run:
    """An off-policy run of 12 units with Box actions whose replay overflows, evaluated each third.

    Args:
        algorithm: Its name.
        env_id: Environment.
        **agent: Arguments laid over those that all such runs have.
    """
    env = {"id": env_id, **NORMALIZED, **agent.pop("env", {})}
    return Run(
        root="",
        algorithm=algorithm,
        agent={
            "env": env,
            "total_env_steps": 12 * 100,
            "seed": 3,
            "capacity": 700,
            "batch_size": 32,
            "hidden_sizes": [32, 32],
            "learning_starts": 100,
            "train_frequency": 10,
            "gradient_steps": 4,
            "env_steps_per_iteration": 100,
            "compile": False,
            **agent,
        },
        trainer={"eval_every_env_steps": 300},
        checkpoint=CHECKPOINT,
        patience=99,
    )


def on_policy(algorithm: str, **agent: Any) -> Run:
    """A run of 12 rollouts, one gradient step each, evaluated every third."""
    return Run(
        root="",
        algorithm=algorithm,
        agent={
            "env": {"id": "CartPole-v1", "num_envs": 2, **NORMALIZED},
            "total_env_steps": 12 * 100,
            "seed": 3,
            "learning_rate_schedule": "linear",
            **agent,
        },
        trainer={"eval_every_env_steps": 300},
        checkpoint=CHECKPOINT,
        patience=99,
    )


def tabular(algorithm: str, **agent: Any) -> Run:
    """A run of 12 chunks that learn at every step, evaluated every third."""
    return Run(
        root="",
        algorithm=algorithm,
        agent={
            "env": {"id": "Taxi-v4", "num_envs": 2, "max_episode_steps": 30},
            "total_env_steps": 12 * 100,
            "seed": 3,
            "learning_rate_schedule": "linear",
            "epsilon_start": 0.8,
            "env_steps_per_iteration": 100,
            **agent,
        },
        trainer={"eval_every_env_steps": 300},
        checkpoint=CHECKPOINT,
        patience=99,
    )


def sibling(algorithm: str, **agent: Any) -> Run:
    """A run of DQN's settings, as far as they are shared, by another algorithm of its kind."""
    run = dqn("CartPole-v1")
    shared = {name: value for name, value in run.agent.items() if name != "epsilon_fraction"}
    return replace(run, algorithm=algorithm, agent={**shared, **agent})


PARTS = {
    "double": True,
    "dueling": True,
    "noisy": True,
    "n_step": 3,
    "prioritized": True,
    "hidden_sizes": [16, 16],
    "epsilon_start": 0.0,
    "epsilon_end": 0.0,
}
# Small images, so that the network is quick; lives end episodes, and the replay keeps frames.
ATARI = {
    "kwargs": {"frameskip": 1, "obs_type": "grayscale"},
    "wrappers": [
        {
            "class_path": "lightning_rl.envs.atari.AtariPreprocessing",
            "init_args": {"screen_size": 36},
        }
    ],
    "frame_stack": 3,
    "normalize_observation": False,
}
SHORT_EPISODES = {"max_episode_steps": 60}
RUNS = {
    "ppo-cartpole": ppo("CartPole-v1", "linear"),
    "ppo-acrobot": ppo("Acrobot-v1", "adaptive_kl", patience=2, **SHORT_EPISODES),
    "ppo-lunar-lander": ppo("LunarLander-v3", "linear"),
    "ppo-half-cheetah": ppo("HalfCheetah-v5", "adaptive_kl", **SHORT_EPISODES),
    "dqn-cartpole": dqn("CartPole-v1"),
    "dqn-acrobot": dqn("Acrobot-v1", patience=2, **SHORT_EPISODES),
    "dqn-lunar-lander": dqn("LunarLander-v3"),
    "dqn-half-cheetah": dqn("HalfCheetah-v5", wrappers=[DISCRETIZED], **SHORT_EPISODES),
}
ATOMS = {"num_atoms": 11, "v_min": 0.0, "v_max": 20.0, "hidden_sizes": [16, 16]}
FURTHER = {
    "recurrent-ppo-cartpole": recurrent("LightningRL/CartPoleNoVelocity-v1"),
    "dqn-all-parts": dqn("CartPole-v1", num_envs=2).changed(**PARTS),
    "c51-cartpole": sibling("C51", **ATOMS),
    "qrdqn-cartpole": sibling("QRDQN", num_quantiles=5, hidden_sizes=[16, 16]),
    "rainbow-cartpole": sibling("Rainbow", **ATOMS),
    "pqn-cartpole": replace(
        ppo("CartPole-v1", "linear").changed(hidden_sizes=[16, 16], epsilon_end=0.2),
        algorithm="PQN",
    ),
    "a2c": on_policy("A2C", num_steps=50, learning_rate=7e-4, compile=False),
    "reinforce": on_policy("REINFORCE", num_steps=50),
    "q-learning-double": tabular("QLearning", double=True, epsilon_decay_episodes=40),
    "sarsa": tabular("SARSA"),
    "expected-sarsa": tabular("ExpectedSARSA"),
    "sac-pendulum": continuous("SAC", "Pendulum-v1"),
}
# What of them differs from SAC under a kill is the noise, the delay, the buffers and the replay.
CONTINUOUS = {
    "td3-correlated-noise": continuous(
        "TD3", "Pendulum-v1", env={"num_envs": 2}, noise="ornstein_uhlenbeck"
    ),
    "ddpg-pendulum": continuous("DDPG", "Pendulum-v1"),
    "tqc-half-cheetah": continuous("TQC", "HalfCheetah-v5", env={"max_episode_steps": 60}),
    "sac-state-dependent": continuous(
        "SAC", "Pendulum-v1", env={"num_envs": 2}, use_sde=True, sde_sample_freq=7
    ),
    "crossq-pendulum": continuous("CrossQ", "Pendulum-v1"),
    "discrete-sac-cartpole": continuous("DiscreteSAC", "CartPole-v1"),
    "sac-hindsight": continuous(
        "SAC",
        "LightningRL/PointReach-v0",
        env={"num_envs": 2, "normalize_reward": False},
        replay={"class_path": "HindsightReplay"},
    ),
}
# An emulator takes a while to reset: fewer evaluations, and fewer kills.
IMAGES = {
    "dqn-breakout": replace(
        dqn("ALE/Breakout-v5", num_envs=2, **ATARI, max_episode_steps=90).changed(
            total_env_steps=6 * 100, capacity=250, gradient_steps=1
        ),
        trainer={"eval_every_env_steps": 300, "limit_val_batches": 2},
    )
}
ASYNC = {
    "ppo-cartpole-async": ppo("CartPole-v1", "linear", vectorization="async"),
    "ppo-lunar-lander-async": ppo("LunarLander-v3", "adaptive_kl", vectorization="async"),
    "dqn-cartpole-async": dqn("CartPole-v1", num_envs=2, vectorization="async"),
}


def changed(run: Run, **settings: Any) -> Run:
    """Return a run with other settings of the trainer and the checkpoints."""
    trainer = {**run.trainer, **settings.pop("trainer", {})}
    return replace(run, trainer=trainer, checkpoint={**run.checkpoint, **settings})


def shows(observation: str, action: str) -> dict[str, Any]:
    """Return the probe that shows a bit in one kind of space and asks for it in another."""
    return {
        "imports": ["lightning_rl.envs.probes"],
        "kwargs": {"observation": observation, "action": action, "length": 7},
    }


MASKED = "LightningRL/FewValidActions-v0"
PROBE = "LightningRL/ObservationAction-v0"
VARIANTS = {
    # Saved every few milliseconds, hence mostly within rollouts, updates and evaluations.
    "ppo-saves-within-units": changed(RUNS["ppo-cartpole"], every_s=0.01),
    "dqn-saves-within-units": changed(RUNS["dqn-cartpole"], every_s=0.01),
    "ppo-short-epochs": changed(RUNS["ppo-cartpole"], trainer={"limit_train_batches": 5}),
    "ppo-episodes": RUNS["ppo-cartpole"].changed(total_env_steps=None, total_episodes=60),
    "dqn-episodes": RUNS["dqn-cartpole"].changed(total_env_steps=None, total_episodes=40),
    "dqn-more-rows-than-steps": dqn("CartPole-v1", num_envs=16),
    "ppo-dict": ppo(PROBE, "linear", **shows("dict", "multi_binary")),
    "ppo-tuple": ppo(PROBE, "adaptive_kl", **shows("tuple", "multi_discrete")),
    "dqn-dict": dqn(PROBE, **shows("dict", "discrete")),
    "ppo-masked": ppo(MASKED, "linear", vectorization="async").changed(mask_actions=True),
    "recurrent-ppo-masked": recurrent(MASKED).changed(
        mask_actions=True, learning_rate_schedule="adaptive_kl"
    ),
}
