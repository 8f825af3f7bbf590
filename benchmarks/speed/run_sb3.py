"""Train one case with Stable-Baselines3, or with SBX, which has the same interface."""

from __future__ import annotations

import argparse
import importlib
from importlib.metadata import version
from typing import Any

from benchmarks.speed.cases import (
    A2CSettings,
    Case,
    DQNSettings,
    PPOSettings,
    QRDQNSettings,
    SACSettings,
    TD3Settings,
)
from benchmarks.speed.harness import Clock, Outcome, TorchUpdates, import_all, parser, run_case


def ppo_arguments(settings: PPOSettings) -> dict[str, Any]:
    """Return the settings under the names that SB3 and SBX give them."""
    hidden = list(settings.hidden_sizes)
    return {
        "n_steps": settings.num_steps,
        "batch_size": settings.minibatch_size,
        "n_epochs": settings.update_epochs,
        "learning_rate": settings.learning_rate,
        "gamma": settings.gamma,
        "gae_lambda": settings.gae_lambda,
        "clip_range": settings.clip_coef,
        "ent_coef": settings.ent_coef,
        "vf_coef": settings.vf_coef,
        "max_grad_norm": settings.max_grad_norm,
        "policy_kwargs": {"net_arch": {"pi": hidden, "vf": hidden}},
    }


def dqn_arguments(settings: DQNSettings, flavour: str) -> dict[str, Any]:
    """Return the settings under the names that SB3 and SBX give them."""
    arguments = {
        "buffer_size": settings.capacity,
        "batch_size": settings.batch_size,
        "learning_starts": settings.learning_starts,
        "train_freq": settings.train_frequency,
        "gradient_steps": settings.gradient_steps,
        "target_update_interval": settings.target_update_interval,
        "learning_rate": settings.learning_rate,
        "gamma": settings.gamma,
        "exploration_initial_eps": settings.epsilon_start,
        "exploration_final_eps": settings.epsilon_end,
        "exploration_fraction": settings.epsilon_fraction,
    }
    if flavour == "sbx":
        # SBX takes the first entry for both layers: 100-100 has 10,802 parameters, 120-84 10,934.
        return {**arguments, "policy_kwargs": {"net_arch": [100, 100]}}
    hidden = list(settings.hidden_sizes)
    return {
        **arguments,
        "max_grad_norm": settings.max_grad_norm,
        "policy_kwargs": {"net_arch": hidden},
    }


def a2c_arguments(settings: A2CSettings) -> dict[str, Any]:
    """Return the settings under the names that SB3 gives them; RMSprop is its default."""
    hidden = list(settings.hidden_sizes)
    return {
        "n_steps": settings.num_steps,
        "learning_rate": settings.learning_rate,
        "gamma": settings.gamma,
        "gae_lambda": settings.gae_lambda,
        "ent_coef": settings.ent_coef,
        "vf_coef": settings.vf_coef,
        "max_grad_norm": settings.max_grad_norm,
        "policy_kwargs": {"net_arch": {"pi": hidden, "vf": hidden}},
    }


def off_policy_arguments(settings: SACSettings) -> dict[str, Any]:
    """Return the settings of SAC or TD3 under the names that SB3 and SBX give them."""
    arguments = {
        "buffer_size": settings.capacity,
        "batch_size": settings.batch_size,
        "learning_starts": settings.learning_starts,
        "train_freq": settings.train_frequency,
        "gradient_steps": settings.gradient_steps,
        "tau": settings.tau,
        "gamma": settings.gamma,
        "learning_rate": settings.learning_rate,
        "policy_kwargs": {"net_arch": list(settings.hidden_sizes)},
    }
    if not isinstance(settings, TD3Settings):
        return arguments
    return {
        **arguments,
        "policy_delay": settings.policy_delay,
        "target_policy_noise": settings.target_noise,
        "target_noise_clip": settings.noise_clip,
    }


def arguments_of(case: Case, flavour: str) -> dict[str, Any]:
    """Return a case's hyperparameters under the names that SB3 and SBX give them."""
    settings = case.settings
    if isinstance(settings, PPOSettings):
        return ppo_arguments(settings)
    if isinstance(settings, A2CSettings):
        return a2c_arguments(settings)
    if isinstance(settings, SACSettings):
        return off_policy_arguments(settings)
    if not isinstance(settings, DQNSettings):
        raise TypeError(f"no {case.algorithm} in {flavour}")
    arguments = dqn_arguments(settings, flavour)
    if isinstance(settings, QRDQNSettings):
        arguments["policy_kwargs"]["n_quantiles"] = settings.num_quantiles
    return arguments


def make_action_noise(settings: TD3Settings, action_size: int) -> Any:
    """Return the Gaussian noise that TD3 explores with."""
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise

    return NormalActionNoise(
        np.zeros(action_size), np.full(action_size, settings.exploration_noise)
    )


def make_clock_callback(clock: Clock) -> Any:
    """Return an SB3 callback that drives the clock."""
    from stable_baselines3.common.callbacks import BaseCallback

    class ClockCallback(BaseCallback):
        """Starts the clock at the first rollout that begins after the warm-up."""

        def _on_rollout_start(self) -> None:
            clock.before_step(self.num_timesteps)

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            clock.stop(self.num_timesteps)

    return ClockCallback()


def use_squared_error(flavour: str) -> None:
    """Make DQN minimise the squared error as the others do; neither flavour has the option."""
    if flavour == "sbx":
        import optax

        optax.huber_loss = optax.squared_error
        return
    import torch
    from stable_baselines3.dqn import dqn

    class SquaredError:
        """Stands in for `torch.nn.functional` in SB3's DQN, which takes nothing else from it."""

        smooth_l1_loss = staticmethod(torch.nn.functional.mse_loss)

    dqn.F = SquaredError


def package(case: Case, flavour: str) -> str:
    """Return the package that has the case's algorithm."""
    if flavour == "sbx":
        return "sbx"
    return "sb3_contrib" if case.algorithm == "qrdqn" else "stable_baselines3"


def make_model(case: Case, seed: int, flavour: str) -> Any:
    """Return SB3's or SBX's algorithm for a case, its environments made."""
    from stable_baselines3.common.env_util import make_vec_env

    algorithm = getattr(importlib.import_module(package(case, flavour)), case.algorithm.upper())
    if case.library_defaults:
        return algorithm("MlpPolicy", case.env_id, seed=seed, device="cpu")
    envs = make_vec_env(case.env_id, n_envs=case.num_envs, seed=seed)
    arguments = arguments_of(case, flavour)
    if case.algorithm == "dqn":
        use_squared_error(flavour)
    if isinstance(case.settings, TD3Settings):
        size = envs.action_space.shape[0]
        arguments["action_noise"] = make_action_noise(case.settings, size)
    return algorithm("MlpPolicy", envs, seed=seed, device="cpu", **arguments)


def flax_counts(model: Any, is_joint: bool) -> tuple[int, int]:
    """Return optimizer steps and trainable parameters of an SBX model, from its train states.

    Args:
        model: After training.
        is_joint: Whether its states are parts of one network with one optimizer elsewhere (PPO),
            so that their steps together count as one.
    """
    import jax

    names = ("actor_state", "vf_state", "qf_state", "ent_coef_state")
    owners = (model.policy, model)
    states = [getattr(o, name) for o in owners for name in names if hasattr(o, name)]
    leaves = [leaf for state in states for leaf in jax.tree_util.tree_leaves(state.params)]
    steps = [int(state.step) for state in states]
    return steps[0] if is_joint else sum(steps), sum(leaf.size for leaf in leaves)


def train(case: Case, options: argparse.Namespace) -> tuple[Outcome, Clock]:
    """Train the case; see `harness.run_case`."""
    import torch

    torch.set_num_threads(1)
    import_all(package(case, options.flavour))
    updates = TorchUpdates()
    clock = Clock(case.warmup_env_steps)
    model = make_model(case, options.seed, options.flavour)
    model.learn(case.total_env_steps, callback=make_clock_callback(clock))
    if options.flavour == "sbx":
        gradient_steps, parameters = flax_counts(model, is_joint=case.algorithm == "ppo")
        name, computes = "sbx-rl", "jax"
    else:
        gradient_steps, parameters = updates.gradient_steps, updates.parameters
        name = "sb3-contrib" if case.algorithm == "qrdqn" else "stable-baselines3"
        computes = "torch"
    versions = f"{version(name)} ({computes} {version(computes)})"
    returns = [episode["r"] for episode in model.ep_info_buffer]
    return Outcome(name, versions, gradient_steps, parameters, returns), clock


def main() -> None:
    """Run from the command line."""
    arguments = parser()
    arguments.add_argument("--flavour", choices=("sb3", "sbx"), default="sb3")
    run_case(arguments.parse_args(), train)


if __name__ == "__main__":
    main()
