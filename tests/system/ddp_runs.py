"""A script for two processes: trains, stops, resumes, and writes down what each one saw."""

from __future__ import annotations

import copy
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lightning_rl import DQN, PPO, Trainer
from lightning_rl.callbacks import Callback, Checkpoint

ENV = {"id": "CartPole-v1", "normalize_observation": True, "normalize_reward": True}
NUM_STEPS, NUM_UPDATES = 32, 20


class Witness(Callback):
    """Keep the first rollout, the weights around the first update, and all episode seeds.

    Args:
        signal_at: Iteration in which the second process, and no other, gets a SIGTERM.
    """

    def __init__(self, signal_at: int = -1) -> None:
        self.seen: dict[str, Any] = {"seeds": [], "saves": []}
        self.signal_at = signal_at

    def on_save_checkpoint(self, trainer: Any, agent: Any, checkpoint: Any) -> None:
        self.seen["saves"].append((agent.env_steps, agent.source.has_unfinished_unit))

    def on_update_start(self, trainer: Any, agent: Any) -> None:
        if agent.iteration == self.signal_at and agent.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
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


def make_dqn(num_updates: int) -> DQN:
    """An agent whose buffer overflows."""
    return DQN(
        {**ENV, "num_envs": 1},
        total_env_steps=2 * NUM_STEPS * num_updates,
        schedule_env_steps=2 * NUM_STEPS * 12,
        seed=5,
        capacity=200,
        batch_size=16,
        learning_starts=32,
        train_frequency=8,
        env_steps_per_iteration=NUM_STEPS,
        target_update_interval=50,
        compile=False,
    )


def fit(
    root: Path, name: str, agent: Any, ckpt_path: str | None = None, signal_at: int = -1
) -> dict[str, Any]:
    witness = Witness(signal_at)
    if isinstance(agent, PPO):
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
    code = 0
    try:
        trainer.fit(agent, ckpt_path=ckpt_path)
    except SystemExit as stop:
        code = int(stop.code or 0)
    replay = agent.state.replay
    return {
        **witness.seen,
        "end": weights(agent),
        "env_steps": agent.env_steps,
        "evaluation": agent.evaluation,
        "rank": agent.global_rank,
        "code": code,
        "replay": replay and {k: column.clone() for k, column in replay.columns.items()},
    }


def slow_disk() -> None:
    """Make the first process wait for its disk, as on a busy machine: the others must not run on.

    What it writes is resumed by all of them.
    """
    sync = os.fsync

    def slow_sync(descriptor: int) -> None:
        time.sleep(0.05)
        sync(descriptor)

    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.fsync = slow_sync


def main(root: Path) -> None:
    # Says in which lines two processes wait for each other, before the test gives up.
    faulthandler.dump_traceback_later(240, exit=True)
    slow_disk()
    seen = {"whole": fit(root, "whole", make_agent())}
    fit(root, "stopped", make_agent(num_updates=NUM_UPDATES // 2))
    seen["resumed"] = fit(root, "stopped", make_agent(), "last")
    seen["signalled"] = fit(root, "signalled", make_agent(), signal_at=7)
    seen["continued"] = fit(root, "signalled", make_agent(), "last")
    seen["dqn"] = fit(root, "dqn", make_dqn(12))
    fit(root, "dqn-stopped", make_dqn(6))
    seen["dqn-resumed"] = fit(root, "dqn-stopped", make_dqn(12), "last")
    torch.save(seen, root / f"rank{seen['whole']['rank']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
