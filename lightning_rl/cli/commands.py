"""The commands. Each checks its request first, and imports torch only when that is right."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_rl.cli.arguments import Request, fit_documents, several_seeds
from lightning_rl.cli.artifacts import export, record
from lightning_rl.cli.doctor import doctor
from lightning_rl.cli.listing import listing
from lightning_rl.cli.resume import SavedRun, continue_documents, finished_line
from lightning_rl.cli.shared import (
    build,
    check_file,
    episodes_asked,
    from_checkpoint,
    no_positionals,
    output,
    say,
)
from lightning_rl.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from lightning_rl.cli.parser import RunCLI


def fit(request: Request) -> int:
    """Train an agent in a new run directory."""
    no_positionals(request)
    for name in ("ckpt_path", "init_from"):
        check_file(request, name)
    fit_documents(request)
    if several_seeds(request):
        from lightning_rl.cli.seeds import fit_seeds

        return fit_seeds(request)
    cli = build(request, _tokens(request))
    if cli is None:
        return 0
    if request.own.get("init_from"):
        from lightning_rl.cli.weights import load_weights

        load_weights(cli.model, Path(request.own["init_from"]))
    return _train(cli, request.own.get("ckpt_path"))


def resume(request: Request) -> int:
    """Continue a run in place, or with `--run.name` in a new directory."""
    if len(request.positionals) != 1:
        raise ConfigError(
            "resume: expected one run directory or checkpoint, as in `resume logs/a/b`"
        )
    saved = SavedRun.find(request.positionals[0])
    continue_documents(request, saved)
    line = finished_line(request, saved)
    if line:
        return say(line)
    cli = build(request, _tokens(request))
    if cli is None:
        return 0
    forks = any(option.key == "run.name" for option in request.options)
    if forks:
        return _train(cli, saved.checkpoint_file())
    if saved.named is not None:
        cli.trainer.resume_from(saved.directory, saved.named)
    return _train(cli, saved.checkpoint)


def _tokens(request: Request) -> list[str]:
    """Return the options for the parser, with those that are short for others of `run`."""
    flags = [name for name in ("new_version", "require_exact") if request.own.get(name)]
    return [*(o.token for o in request.options), *(f"--run.{name}=true" for name in flags)]


def evaluate(request: Request) -> int:
    """Evaluate a checkpoint: `validate` and `test`."""
    cli, checkpoint = from_checkpoint(request)
    if cli is None:
        return 0
    from lightning_rl.runs.results import ExecutionResult, save_execution_results

    agent, trainer = cli.model, cli.trainer
    run = trainer.test if request.command == "test" else trainer.validate
    with warnings.catch_warnings():
        # The training's own callbacks are not needed here, and nothing is loaded by workers.
        warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint")
        warnings.filterwarnings("ignore", ".*`IterableDataset` has `__len__` defined")
        run(agent, ckpt_path=str(checkpoint), verbose=False)
    result = ExecutionResult(agent.evaluation["rewards"], agent.evaluation["lengths"])
    if request.command == "test":
        folder, name = output(request, checkpoint, "results.json")
        say(f"results: {save_execution_results(result, folder, name)}")
    return say(
        f"mean_reward {result.mean_reward:.2f} +- {result.std_reward:.2f} "
        f"(min {result.min_reward:.2f}, max {result.max_reward:.2f}), "
        f"mean_length {result.mean_length:.1f}, {result.total_episodes} episodes"
    )


def predict(request: Request) -> int:
    """Write episodes of a trained agent as a data set."""
    cli, checkpoint = from_checkpoint(request)
    if cli is None:
        return 0
    from lightning_rl.cli.dataset import write_episodes
    from lightning_rl.cli.weights import load_weights

    load_weights(cli.model, checkpoint)
    folder, name = output(request, checkpoint, "episodes.npz")
    steps = write_episodes(cli.model, episodes_asked(request), folder / name)
    return say(f"{episodes_asked(request)} episodes, {steps:,} steps: {folder / name}")


def study(request: Request) -> int:
    """Run a study."""
    from lightning_rl.cli.study import study as run_study  # and with it NumPy

    return run_study(request)


def sweep(request: Request) -> int:
    """Search for hyperparameters."""
    from lightning_rl.cli.sweep import sweep as run_sweep

    return run_sweep(request)


def show_list(request: Request) -> int:
    """Show what there is."""
    if len(request.positionals) != 1:
        raise ConfigError("list: expected one of algorithms, configs, tags, environments")
    return say(listing(request.positionals[0]))


def runs(request: Request) -> int:
    """Show, compare and remove runs."""
    from lightning_rl.cli.runs import runs as do_runs  # and with it rich

    return do_runs(request)


COMMANDS: dict[str, Callable[[Request], int]] = {
    "fit": fit,
    "resume": resume,
    "validate": evaluate,
    "test": evaluate,
    "predict": predict,
    "record": record,
    "export": export,
    "study": study,
    "runs": runs,
    "doctor": doctor,
    "sweep": sweep,
    "list": show_list,
}


def _train(cli: RunCLI, checkpoint: str | None) -> int:
    """Train, then say where the results lie or how to go on."""
    try:
        cli.trainer.fit(cli.model, ckpt_path=checkpoint)
    except Interrupted as stop:
        folder = cli.trainer.run_directory
        if folder is not None and cli.trainer.is_global_zero:
            path = shlex.quote(str(folder.path))
            say(f"stopped by {stop.signal}; continue with: lightning-rl resume {path}")
        raise
    folder = cli.trainer.run_directory
    if folder is None or not cli.trainer.is_global_zero:
        return 0
    say(f"run directory:   {folder.path}")
    agent = cli.model
    is_spent = agent.budget.is_spent(agent.env_steps, agent.episodes)
    if not is_spent and any(folder.checkpoints.glob("*.ckpt")):
        say(f"continue with:   lightning-rl resume {shlex.quote(str(folder.path))}")
    if folder.curves.exists():
        say(f"curves:          {folder.curves}")
    for name in ("best", "last"):  # no evaluation, no best
        file = folder.checkpoints / f"{name}.ckpt"
        if file.exists():
            say(f"{name} checkpoint: {file}")
            say(f"test it with:    lightning-rl test --ckpt_path {shlex.quote(str(file))}")
            break
    return 0
