"""Train one case with Tianshou's procedural interface."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

from benchmarks.speed.cases import Case, DQNSettings, PPOSettings
from benchmarks.speed.harness import Clock, Outcome, TorchUpdates, import_all, parser, run_case


def make_envs(case: Case, seed: int) -> tuple[Any, list[Any]]:
    """Return Tianshou's vector environment, and the wrappers that record the returns."""
    import gymnasium
    from tianshou.env import DummyVectorEnv

    singles = [
        gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(case.env_id))
        for _ in range(case.num_envs)
    ]
    envs = DummyVectorEnv([lambda env=env: env for env in singles])
    envs.seed(seed)
    return envs, singles


def make_policy(env: Any, settings: PPOSettings) -> Any:
    """Return PPO's stochastic policy for the action space of `env`."""
    import gymnasium
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from torch.distributions import Categorical, Independent, Normal

    network = make_network(env, settings.hidden_sizes)
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        from tianshou.utils.net.discrete import DiscreteActor

        actor = DiscreteActor(
            preprocess_net=network, action_shape=env.action_space.n, softmax_output=False
        )
        return ProbabilisticActorPolicy(
            actor=actor,
            dist_fn=lambda logits: Categorical(logits=logits),
            action_space=env.action_space,
            action_scaling=False,
            action_bound_method=None,
        )
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic

    actor = ContinuousActorProbabilistic(
        preprocess_net=network, action_shape=env.action_space.shape, unbounded=True
    )
    return ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=lambda mean_and_std: Independent(Normal(*mean_and_std), 1),
        action_space=env.action_space,
        action_scaling=False,
        action_bound_method="clip",
    )


def make_network(env: Any, hidden_sizes: tuple[int, ...]) -> Any:
    """Return hidden layers with tanh for the observations of `env`."""
    import torch
    from tianshou.utils.net.common import Net

    return Net(
        state_shape=env.observation_space.shape,
        hidden_sizes=hidden_sizes,
        activation=torch.nn.Tanh,
    )


def make_critic(env: Any, settings: PPOSettings) -> Any:
    """Return a value network for the observations of `env`."""
    from tianshou.utils.net.discrete import DiscreteCritic

    return DiscreteCritic(preprocess_net=make_network(env, settings.hidden_sizes))


def train_ppo(case: Case, settings: PPOSettings, envs: Any, clock: Clock) -> int:
    """Train PPO on `envs`; return the env steps made."""
    from tianshou.algorithm.modelfree.ppo import PPO
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.trainer import OnPolicyTrainerParams

    env = envs.workers[0].env
    algorithm = PPO(
        policy=make_policy(env, settings),
        critic=make_critic(env, settings),
        optim=AdamOptimizerFactory(lr=settings.learning_rate, eps=1e-5),
        eps_clip=settings.clip_coef,
        gae_lambda=settings.gae_lambda,
        gamma=settings.gamma,
        ent_coef=settings.ent_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
    )
    rollout = settings.num_steps * case.num_envs
    collector = Collector(algorithm, envs, VectorReplayBuffer(rollout, case.num_envs))
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=case.total_env_steps,
            collection_step_num_env_steps=rollout,
            batch_size=settings.minibatch_size,
            update_step_num_repetitions=settings.update_epochs,
            training_fn=lambda _epoch, env_step: clock.before_step(env_step),
            verbose=False,
            show_progress=False,
        )
    )
    return collector.collect_step


def train_dqn(case: Case, settings: DQNSettings, envs: Any, clock: Clock) -> int:
    """Train DQN on `envs`; return the env steps made, those before learning included."""
    from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    env = envs.workers[0].env
    network = Net(
        state_shape=env.observation_space.shape,
        action_shape=env.action_space.n,
        hidden_sizes=settings.hidden_sizes,
    )
    policy = DiscreteQLearningPolicy(model=network, action_space=env.action_space)
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=settings.learning_rate),
        gamma=settings.gamma,
        # Counted in updates here, in env steps by the other libraries.
        target_update_freq=settings.target_update_interval // settings.train_frequency,
        is_double=False,
    )
    buffer = VectorReplayBuffer(settings.capacity, case.num_envs)
    collector = Collector(algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=settings.learning_starts, random=True)

    def before_training_step(_epoch: int, env_step: int) -> None:
        done = settings.learning_starts + env_step
        clock.before_step(done)
        fraction = min(1.0, done / (settings.epsilon_fraction * case.total_env_steps))
        policy.set_eps_training(
            settings.epsilon_start + fraction * (settings.epsilon_end - settings.epsilon_start)
        )

    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=case.total_env_steps - settings.learning_starts,
            collection_step_num_env_steps=settings.train_frequency * case.num_envs,
            batch_size=settings.batch_size,
            update_step_num_gradient_steps_per_sample=1 / settings.train_frequency,
            training_fn=before_training_step,
            verbose=False,
            show_progress=False,
        )
    )
    return case.total_env_steps


def train(case: Case, options: argparse.Namespace) -> tuple[Outcome, Clock]:
    """Train the case; see `harness.run_case`."""
    import torch

    torch.set_num_threads(1)
    import_all("tianshou.algorithm", "tianshou.env", "tianshou.trainer")
    torch.manual_seed(options.seed)
    updates = TorchUpdates()
    clock = Clock(case.warmup_env_steps)
    envs, singles = make_envs(case, options.seed)
    if isinstance(case.settings, PPOSettings):
        env_steps = train_ppo(case, case.settings, envs, clock)
    else:
        env_steps = train_dqn(case, case.settings, envs, clock)
    clock.stop(env_steps)
    share = max(1, 100 // case.num_envs)
    returns = [float(value) for env in singles for value in list(env.return_queue)[-share:]]
    versions = f"{version('tianshou')} (torch {version('torch')})"
    return Outcome("tianshou", versions, updates.gradient_steps, updates.parameters, returns), clock


def main() -> None:
    """Run from the command line."""
    run_case(parser().parse_args(), train)


if __name__ == "__main__":
    main()
