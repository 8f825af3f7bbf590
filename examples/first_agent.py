"""Train PPO on CartPole-v1, load the best checkpoint, evaluate it and act with it."""

from __future__ import annotations

import gymnasium

from lightning_rl import PPO, evaluate_policy, run


def main(total_env_steps: int = 100_000) -> float:
    """Return the mean reward of the best checkpoint over 20 episodes."""
    result = run(PPO(env="CartPole-v1", total_env_steps=total_env_steps, seed=1))
    print(f"{result.algorithm} on {result.environment}: {result.directory}")

    # A checkpoint is a complete policy: it knows its environment, networks and normalisation.
    agent = PPO.load_from_checkpoint(result.best_checkpoint)
    mean_reward, std_reward = evaluate_policy(agent, num_episodes=20)
    print(f"mean reward {mean_reward:.1f} ± {std_reward:.1f}")

    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        observation, *_ = env.step(agent.predict(observation))
    env.close()
    return mean_reward


if __name__ == "__main__":
    main()
