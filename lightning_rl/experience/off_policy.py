"""Off-policy experience: collect a few env steps, draw a few minibatches, again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_rl.buffers.frames import make_replay
from lightning_rl.buffers.hindsight import wrap_replay
from lightning_rl.buffers.prioritized import PrioritizedReplay
from lightning_rl.buffers.replay import Replay, Transitions
from lightning_rl.buffers.rollout import Rollout
from lightning_rl.experience.agent_state import Agent
from lightning_rl.experience.budget import Budget
from lightning_rl.experience.collector import Collector
from lightning_rl.experience.source import ExperienceSource, Learner
from lightning_rl.functional.weighting import split_errors
from lightning_rl.types import Statistics

logger = logging.getLogger(__name__)


class OffPolicyLearner(Learner, Protocol):
    """What the off-policy source needs from an algorithm."""

    batch_size: int
    learning_starts: int
    gradient_steps_per_update: int


class OffPolicySource(ExperienceSource):
    """Yields units of some env steps.

    Iterating a unit collects, and yields one minibatch per gradient step.

    Args:
        learner: The algorithm.
        collector: Its environments.
        replay: Where transitions go: a `ReplayBuffer`, or anything with its methods.
        train_frequency: Env steps between two updates, over this rank's environments.
        env_steps_per_iteration: Env steps of one unit, of this rank.
    """

    def __init__(
        self,
        learner: OffPolicyLearner,
        collector: Collector,
        replay: Replay,
        train_frequency: int,
        env_steps_per_iteration: int,
    ) -> None:
        env = collector.env
        size = unit_env_steps(env.num_envs, train_frequency, env_steps_per_iteration)
        super().__init__(learner, collector, size)
        self.learner: OffPolicyLearner = learner
        self.replay: Replay = replay
        steps = steps_per_round(env.num_envs, train_frequency)
        if steps * env.num_envs != train_frequency:
            logger.warning(
                "%d environments step together: updates follow every %d env steps, not every %d "
                "(make train_frequency a multiple of env.num_envs)",
                *(env.num_envs, steps * env.num_envs, train_frequency),
            )
        budget = learner.budget.env_steps
        if budget is not None and budget <= learner.learning_starts:
            logger.warning(
                "nothing will be learned: learning_starts is %d, the budget %d env steps",
                *(learner.learning_starts, budget),
            )
        self.rounds_per_unit = size // (steps * env.num_envs)
        self.rollout = Rollout(steps, env.num_envs, env.observation_space, env.action_space)
        self._rounds_done = 0
        self._transitions = 0
        self._gradient_steps_left = 0
        self._unfinished = False
        self._reward_sum = 0.0
        self._collect_s = 0.0

    @property
    def has_unfinished_unit(self) -> bool:  # noqa: D102
        return self._unfinished

    def next_unit(self) -> Iterator[Transitions]:  # noqa: D102
        if not self._unfinished:
            self.learner.announce_unit()
            self._rounds_done, self._gradient_steps_left = 0, 0
            self._transitions, self._reward_sum = 0, 0.0
            self._unfinished = True
            self.learner.emit("on_iteration_start")
            self.learner.emit("on_rollout_start")
        return self._minibatches()

    def recent_transitions(self) -> Transitions:
        """Return what the present unit has collected, as far as the buffer still holds it."""
        return self.replay.recent(self._transitions)

    def learn_errors(self, minibatch: Transitions, statistics: Tensor) -> Tensor:
        """Return an update's statistics; if the replay is prioritised, their errors go back to it.

        Args:
            minibatch: As it was sampled.
            statistics: Those of `functional.weighting.weighted_loss`, then the gradient's norm.
        """
        if not isinstance(self.replay, PrioritizedReplay):
            return statistics
        rows: Any = minibatch["row"]
        statistics, errors = split_errors(statistics, len(rows))
        self.replay.update_priorities(rows, errors)
        return statistics

    def finish_unit(self) -> Statistics:  # noqa: D102
        self._unfinished = False
        self.learner.count_collecting(self._collect_s)
        self._collect_s = 0.0
        statistics = {"rollout/mean_reward": self._reward_sum / max(1, self._transitions)}
        log = self.collector.take_log()
        if log:
            self.learner.emit("on_env_log", log)
        self.learner.emit("on_rollout_end", statistics)
        return statistics

    def _minibatches(self) -> Iterator[Transitions]:
        learner, generator = self.learner, self.learner.streams.torch("replay")
        while True:
            while self._gradient_steps_left > 0:
                learner.poll()
                minibatch = self.replay.sample(learner.batch_size, generator)
                self._gradient_steps_left -= 1
                yield minibatch
            if self._rounds_done == self.rounds_per_unit or self._budget_is_spent():
                return
            learner.poll()
            self._collect()
            self._rounds_done += 1
            if learner.env_steps >= learner.learning_starts:
                self._gradient_steps_left = learner.gradient_steps_per_update

    def _collect(self) -> None:
        started = time.perf_counter()
        with torch.inference_mode(), self.learner.precision_context():
            self.rollout.clear()
            self.collector.collect(self.rollout, self.learner.begin_rollout(self.rollout.num_steps))
        self._transitions += self.rollout.num_transitions
        self._reward_sum += float(self.rollout.reward.sum())
        self.replay.add(self.rollout)
        self._collect_s += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {
            **super().state_dict(),
            "replay": self.replay.state_dict(),
            "unfinished": self._unfinished,
            "rounds_done": self._rounds_done if self._unfinished else 0,
            "transitions": self._transitions if self._unfinished else 0,
            "gradient_steps_left": self._gradient_steps_left if self._unfinished else 0,
            "reward_sum": self._reward_sum if self._unfinished else 0.0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        super().load_state_dict(state)
        self._unfinished = state["unfinished"]
        self._rounds_done = state["rounds_done"]
        self._transitions = state["transitions"]
        self._gradient_steps_left = state["gradient_steps_left"]
        self._reward_sum = state["reward_sum"]
        if state["collector"]["level"] == "boundary":
            # The open episodes are gone: nothing may be read across to the ones begun instead.
            self.replay.cut(self.collector.env.num_envs)


def make_source(agent: Agent, collector: Collector) -> OffPolicySource:
    """Return the source of an agent, whose `replay_spec` names what stands around its replay."""
    spaces, config = (agent.observation_space, agent.action_space), agent.env_config
    replay = wrap_replay(agent.replay_spec, make_replay(config, agent.capacity, *spaces), config)
    return OffPolicySource(
        agent, collector, replay, agent.train_frequency, agent.env_steps_per_iteration
    )


def value_step(agent: Agent, minibatch: Transitions, tags: Sequence[str]) -> None:
    """Make one gradient step of a value network on a sample, and let its target follow.

    Args:
        agent: With a `gradient`, `flat` parameters, `network`, `target_network`, `target_update`.
        minibatch: As sampled; errors go back to the replay if it is prioritised.
        tags: What the loss's statistics and the gradient's norm are called.
    """
    gradient, statistics = agent.gradient(prepare_minibatch(agent, minibatch))
    agent.apply_gradient(agent.flat, gradient, agent.max_grad_norm)
    agent.statistics.add(tags, agent.source.learn_errors(minibatch, statistics))
    agent.target_update.follow(agent.env_steps, agent.target_network, agent.network)


def prepare_minibatch(agent: Agent, minibatch: Transitions) -> dict[str, Any]:
    """Return a minibatch on the agent's device, its rewards normalised if the run does that.

    Args:
        agent: With a `reward_normalizer`, or None there.
        minibatch: As sampled; changed in place on a CPU.
    """
    if agent.device.type != "cpu":
        minibatch = {name: agent.to_device(leaf) for name, leaf in minibatch.items()}
    if agent.reward_normalizer is not None:
        minibatch["reward"] = agent.reward_normalizer(minibatch["reward"])
    return minibatch


def gradient_steps_in(budget: Budget, train_frequency: int, gradient_steps: int) -> int | None:
    """Return about how many gradient steps a budget holds; None for one in episodes."""
    return budget.env_steps and budget.env_steps // train_frequency * gradient_steps


def steps_per_round(num_envs: int, train_frequency: int) -> int:
    """Return the steps of each environment between two updates."""
    return max(1, train_frequency // num_envs)


def unit_env_steps(num_envs: int, train_frequency: int, env_steps_per_iteration: int) -> int:
    """Return the env steps of one unit: a whole number of rounds of collecting and updating."""
    round_env_steps = steps_per_round(num_envs, train_frequency) * num_envs
    return max(1, env_steps_per_iteration // round_env_steps) * round_env_steps


def agent_unit(agent: Agent) -> int:
    """Return `unit_env_steps` of an agent's own settings."""
    num_envs = agent.env_config.num_envs
    return unit_env_steps(num_envs, agent.train_frequency, agent.env_steps_per_iteration)
