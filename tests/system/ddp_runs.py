"""A script for two processes: trains, stops, resumes, and writes down what each one saw."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch

from lightning_rl import PPO, Trainer
from lightning_rl.callbacks import Callback, Checkpoint

ENV = {"id": "CartPole-v1", "normalize_observation": True, "normalize_reward": True}
NUM_STEPS, NUM_UPDATES = 32, 20


class Witness(Callback):
    """Keep the first rollout, the weights around the first update, and all episode seeds."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"seeds": []}

    def on_update_start(self, trainer: Any, agent: Any) -> None:
        if agent.iteration == 0:
            self.seen["before"] = weights(agent)

    def on_update_end(self, trainer: Any, agent: Any, statistics: Any) -> None:
        if agent.iteration == 1:
            self.seen["after"] = weights(agent)

    def on_episode_end(self, trainer: Any, agent: Any, episode: Any) -> None:
        self.seen["seeds"].append(episode.seed)


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in agent.state_dict().items()}


def make_agent(num_envs: int = 1, num_updates: int = NUM_UPDATES, num_ranks: int = 2) -> PPO:
    """An agent whose update is one step on all rows."""
    return PPO(
        {**ENV, "num_envs": num_envs},
        total_env_steps=NUM_STEPS * num_envs * num_ranks * num_updates,
        seed=5,
        num_steps=NUM_STEPS,
        minibatch_size=10_000,
        update_epochs=1,
        learning_rate=1e-2,
        compile=False,
    )


def fit(root: Path, name: str, updates: int, ckpt_path: str | None = None) -> dict[str, Any]:
    agent, witness = make_agent(num_updates=updates), Witness()
    estimate = agent.estimate

    def remember(rollout: Any) -> Any:
        witness.seen.setdefault("rollout", copy.deepcopy(vars(rollout)))
        return estimate(rollout)

    agent.estimate = remember  # type: ignore[method-assign]
    trainer = Trainer(
        run={"root": str(root), "experiment": "e", "name": name},
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[witness, Checkpoint(every_env_steps=NUM_STEPS * 4)],
        logger=False,
        enable_progress_bar=False,
        eval_every_env_steps=NUM_STEPS * 2 * 5,
        eval_episodes=3,
    )
    trainer.fit(agent, ckpt_path=ckpt_path)
    return {
        **witness.seen,
        "end": weights(agent),
        "env_steps": agent.env_steps,
        "evaluation": agent.evaluation,
        "rank": agent.global_rank,
    }


def main(root: Path) -> None:
    whole = fit(root, "whole", NUM_UPDATES)
    fit(root, "stopped", NUM_UPDATES // 2)
    resumed = fit(root, "stopped", NUM_UPDATES, "last")
    torch.save({"whole": whole, "resumed": resumed}, root / f"rank{whole['rank']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
