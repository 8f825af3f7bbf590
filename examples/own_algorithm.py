"""Write an algorithm of your own: advantage actor-critic (A2C), one gradient step per rollout."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from lightning_rl import Algorithm, evaluate_policy, run
from lightning_rl.experience.on_policy import OnPolicySource
from lightning_rl.functional.returns import lambda_return
from lightning_rl.networks.distributions import make_action_head
from lightning_rl.networks.policies import ActorCritic


class A2C(Algorithm):
    """Advantage actor-critic (Mnih et al., 2016, https://arxiv.org/abs/1602.01783), on vectors."""

    update_epochs = 1

    def __init__(self, env: Any, total_env_steps: int | None = None, num_steps: int = 16) -> None:
        super().__init__(env, total_env_steps, seed=1)
        self.num_steps, self.minibatch_size = num_steps, num_steps * self.env_config.num_envs
        self.head = make_action_head(self.action_space)
        with self.seeded_initialization():
            self.network = ActorCritic(self.observation_space, self.action_space)

    def act(self, observation: Any, deterministic: bool = True) -> Any:
        with torch.no_grad():
            return self.head.mode(self.network.distribution_parameters(observation)).numpy()

    def begin_rollout(self, num_steps: int) -> Any:
        shape, generator = (num_steps, self.env_config.num_envs), self.streams.torch("action")
        noise, policy = self.head.draw_noise(shape, generator), self.network.inference_function()
        return lambda observation, step: self.head.sample(policy(observation), noise[step]).numpy()

    def build_source(self, collector: Any) -> OnPolicySource:
        return OnPolicySource(self, collector, self.num_steps)

    @torch.no_grad()
    def estimate(self, rollout: Any) -> dict[str, Any]:
        columns = (rollout.observation, rollout.action, rollout.reward, rollout.terminated)
        observation, action, reward, terminated = map(torch.from_numpy, columns)
        next_value = torch.stack([self.network.value(rows) for rows in observation[1:]])
        if rollout.final_index:  # where an episode ended, its true final observation counts
            next_value[rollout.final_indices()] = self.network.value(rollout.final_observations())
        end = terminated | torch.from_numpy(rollout.truncated)
        return_ = lambda_return(reward, next_value, terminated, end, 0.99, 0.95)
        rows = {"observation": observation[:-1], "action": action, "return": return_}
        return {name: column.flatten(0, 1) for name, column in rows.items()}

    def training_step(self, minibatches: Any, batch_idx: int) -> dict[str, float]:
        for batch in minibatches:
            distribution, value = self.network(batch["observation"])
            advantage = batch["return"] - value
            log_prob = self.head.log_prob(distribution, batch["action"])
            policy_loss, value_loss = -(log_prob * advantage.detach()).mean(), advantage.square().mean()
            self.network.zero_grad()
            (policy_loss + 0.5 * value_loss).backward()
            clip_grad_norm_(self.network.parameters(), 0.5)
            self.trainer.optimizers[0].step()
        return self.finish_update({"train/value_loss": float(value_loss)})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=3e-3)


def main(total_env_steps: int = 100_000) -> float:
    """Return the mean reward of the trained policy."""
    agent = A2C({"id": "CartPole-v1", "num_envs": 16}, total_env_steps)
    run(agent)
    mean_reward = evaluate_policy(agent, num_episodes=20).mean_reward
    print(f"mean reward {mean_reward:.1f}")
    return mean_reward


if __name__ == "__main__":
    main()
