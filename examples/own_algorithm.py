"""Write an algorithm of your own: A2C (Mnih et al., 2016, https://arxiv.org/abs/1602.01783)."""

import torch

from lightning_rl import Algorithm, run
from lightning_rl.experience.on_policy import OnPolicySource
from lightning_rl.functional.returns import lambda_return
from lightning_rl.networks import distributions, policies


class A2C(Algorithm):
    num_steps, update_epochs, minibatch_size = 16, 1, 1_000_000  # one step on all rows
    unit_env_steps = property(lambda self: self.num_steps * self.env_config.num_envs)

    def __init__(self, env, total_env_steps: int | None = None):
        super().__init__(env, total_env_steps, seed=1)
        self.head = distributions.make_action_head(self.action_space)
        with self.seeded_initialization():
            self.network = policies.ActorCritic(self.observation_space, self.action_space)

    def act(self, observation, deterministic=True):
        return self.head.mode(self.network.distribution_parameters(observation)).numpy(force=True)

    def begin_rollout(self, num_steps):  # all noise of a rollout is drawn at once
        shape, policy = (num_steps, self.env_config.num_envs), self.network.inference_function()
        noise = self.head.draw_noise(shape, self.streams.torch("action"))
        return lambda observation, step: self.head.sample(policy(observation), noise[step]).numpy()

    def build_source(self, collector):
        return OnPolicySource(self, collector, self.num_steps)

    def estimate(self, rollout):  # from a rollout (T, N) to the rows that training_step gets
        columns = [rollout.observation[:-1], rollout.next_observation(), rollout.action]
        columns += [rollout.reward, rollout.terminated, rollout.terminated | rollout.truncated]
        observation, following, action, *rest = [torch.from_numpy(column) for column in columns]
        next_value = self.network.value(following.flatten(0, 1)).detach().view_as(rest[0])
        return_ = lambda_return(rest[0], next_value, *rest[1:], gamma=0.99, gae_lambda=0.95)
        rows = {"observation": observation, "action": action, "return": return_}
        return {name: column.flatten(0, 1) for name, column in rows.items()}

    def training_step(self, minibatches, batch_idx):
        batch = minibatches.experience
        policy, value = self.network(batch["observation"])
        delta = batch["return"] - value
        loss = (delta**2 / 2 - delta.detach() * self.head.log_prob(policy, batch["action"])).mean()
        self.network.zero_grad()
        loss.backward()
        self.trainer.optimizers[0].step()
        return self.finish_update({"train/loss": loss.item()})

    def configure_optimizers(self):
        return torch.optim.Adam(self.network.parameters(), lr=1e-3)


def main(total_env_steps: int = 200_000):
    print(run(A2C({"id": "CartPole-v1", "num_envs": 16}, total_env_steps)).metrics)


if __name__ == "__main__":
    main()
