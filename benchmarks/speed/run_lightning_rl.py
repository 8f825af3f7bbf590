"""Train one case with lightning_rl, Lightning's Trainer in place."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import deque
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from benchmarks.speed.cases import Case, TabularSettings
from benchmarks.speed.harness import Clock, Outcome, TorchUpdates, import_all, parser, run_case

COMPILE: dict[str, bool | str] = {"true": True, "false": False, "auto": "auto"}


def make_agent(case: Case, compile_: bool | str, seed: int) -> Any:
    """Return the algorithm of a case."""
    import lightning_rl

    common: dict[str, Any] = {"total_env_steps": case.total_env_steps, "seed": seed}
    if not isinstance(case.settings, TabularSettings):
        common["compile"] = compile_
    if case.library_defaults:
        return lightning_rl.make(case.algorithm, env=case.env_id, **common)
    env = lightning_rl.EnvConfig(case.env_id, num_envs=case.num_envs)
    return lightning_rl.make(case.algorithm, env=env, **common, **asdict(case.settings))


class TableUpdates:
    """Counts the entries that a tabular agent updates, by the errors that its `learn` returns."""

    def __init__(self, agent: Any) -> None:
        self.gradient_steps = 0
        self.parameters = agent.table.values.numel()
        learn = agent.learn

        def counted(*arguments: Any) -> Any:
            errors = learn(*arguments)
            self.gradient_steps += len(errors)
            return errors

        agent.learn = counted


def make_trainer(kind: str, callback: Any, precision: str) -> Any:
    """Return a stock Trainer with everything off, or ours with all that it adds by default.

    Evaluation is off in both.
    """
    import lightning.pytorch

    import lightning_rl

    if kind == "default":
        return lightning_rl.Trainer(callbacks=[callback], limit_val_batches=0, precision=precision)
    return lightning.pytorch.Trainer(
        precision=precision,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[callback],
    )


def make_callback(clock: Clock, returns: deque[float]) -> Any:
    """Return the callback that drives the clock and keeps the returns of the last episodes."""
    from lightning_rl.callbacks.base import Callback

    class ClockCallback(Callback):
        """Experience is collected between `on_train_batch_end` and the next batch."""

        def on_train_start(self, trainer: Any, agent: Any) -> None:
            clock.before_step(agent.env_steps)

        def on_train_batch_end(self, trainer: Any, agent: Any, *_: Any) -> None:
            clock.before_step(agent.env_steps)

        def on_episode_end(self, trainer: Any, agent: Any, episode: Any) -> None:
            returns.append(episode.reward)

        def on_train_end(self, trainer: Any, agent: Any) -> None:
            clock.stop(agent.env_steps)

    return ClockCallback()


def train(case: Case, options: argparse.Namespace) -> tuple[Outcome, Clock]:
    """Train the case; see `harness.run_case`."""
    import lightning_rl

    _ = lightning_rl.Algorithm  # imports torch and Lightning, as a user's first name does
    import torch

    torch.set_num_threads(1)
    import_all("lightning.pytorch", "lightning_rl.algorithms")
    if options.trainer == "default":
        import_all("lightning_rl.runs.trainer")
    from lightning_rl.functional.optimizers import FlatAdam, FlatRMSprop

    returns = deque[float](maxlen=100)
    clock = Clock(case.warmup_env_steps)
    agent = make_agent(case, COMPILE[options.compile], options.seed)
    if isinstance(case.settings, TabularSettings):
        updates: TableUpdates | TorchUpdates = TableUpdates(agent)
    else:
        updates = TorchUpdates()
        updates.watch(FlatAdam, "count_step")  # a compiled update has no other call
        updates.watch(FlatRMSprop)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        callback = make_callback(clock, returns)
        make_trainer(options.trainer, callback, options.precision).fit(agent)
        os.chdir("/")
    versions = f"{lightning_rl.__version__} (torch {version('torch')}, compiled: {agent.compiled})"
    outcome = Outcome(
        "lightning_rl", versions, updates.gradient_steps, updates.parameters, list(returns)
    )
    return outcome, clock


def main() -> None:
    """Run from the command line."""
    arguments = parser()
    arguments.add_argument("--compile", choices=tuple(COMPILE), default="auto")
    arguments.add_argument("--trainer", choices=("plain", "default"), default="plain")
    arguments.add_argument("--precision", default="32-true")
    run_case(arguments.parse_args(), train)


if __name__ == "__main__":
    main()
