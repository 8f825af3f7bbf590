"""Train one case with Stable-Baselines3, or with SBX, which has the same interface."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

from benchmarks.speed.cases import Case, DQNSettings, PPOSettings
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


def make_model(case: Case, seed: int, flavour: str) -> Any:
    """Return SB3's or SBX's algorithm for a case, its environments made."""
    from stable_baselines3.common.env_util import make_vec_env

    if flavour == "sbx":
        import sbx as library
    else:
        import stable_baselines3 as library
    algorithm = getattr(library, case.algorithm.upper())
    if case.library_defaults:
        return algorithm("MlpPolicy", case.env_id, seed=seed, device="cpu")
    envs = make_vec_env(case.env_id, n_envs=case.num_envs, seed=seed)
    if isinstance(case.settings, PPOSettings):
        arguments = ppo_arguments(case.settings)
    else:
        arguments = dqn_arguments(case.settings, flavour)
        use_squared_error(flavour)
    return algorithm("MlpPolicy", envs, seed=seed, device="cpu", **arguments)


def flax_counts(model: Any) -> tuple[int, int]:
    """Return optimizer steps and trainable parameters of an SBX model, from its train states."""
    import jax

    names = ("actor_state", "vf_state", "qf_state")
    states = [getattr(model.policy, name) for name in names if hasattr(model.policy, name)]
    leaves = [leaf for state in states for leaf in jax.tree_util.tree_leaves(state.params)]
    return int(states[0].step), sum(leaf.size for leaf in leaves)


def train(case: Case, options: argparse.Namespace) -> tuple[Outcome, Clock]:
    """Train the case; see `harness.run_case`."""
    import torch

    torch.set_num_threads(1)
    import_all("sbx" if options.flavour == "sbx" else "stable_baselines3")
    updates = TorchUpdates()
    clock = Clock(case.warmup_env_steps)
    model = make_model(case, options.seed, options.flavour)
    model.learn(case.total_env_steps, callback=make_clock_callback(clock))
    if options.flavour == "sbx":
        gradient_steps, parameters = flax_counts(model)
        name, computes = "sbx-rl", "jax"
    else:
        gradient_steps, parameters = updates.gradient_steps, updates.parameters
        name, computes = "stable-baselines3", "torch"
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
