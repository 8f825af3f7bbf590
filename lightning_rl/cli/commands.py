"""The commands. Each checks its request first, and imports torch only when that is right."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_rl.cli.arguments import Request, fit_documents
from lightning_rl.cli.checks import check_document, model_class
from lightning_rl.cli.configs import DEFAULTS, configs_folder, find_config
from lightning_rl.cli.listing import listing
from lightning_rl.cli.resume import SavedRun, continue_documents, finished_line
from lightning_rl.cli.yaml_check import Document, parse_scalar, read_document
from lightning_rl.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from lightning_rl.cli.parser import RunCLI

TEST_EPISODES = 100


def fit(request: Request) -> int:
    """Train an agent in a new run directory."""
    _no_positionals(request)
    for name in ("ckpt_path", "init_from"):
        _check_file(request, name)
    fit_documents(request)
    new_version = request.own.get("new_version")
    options = [
        *(o.token for o in request.options),
        *(["--run.new_version=true"] * bool(new_version)),
    ]
    cli = _build(request, options)
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
        return _say(line)
    cli = _build(request, [option.token for option in request.options])
    if cli is None:
        return 0
    forks = any(option.key == "run.name" for option in request.options)
    if forks:
        return _train(cli, saved.checkpoint_file())
    if saved.named is not None:
        cli.trainer.resume_from(saved.directory, saved.named)
    return _train(cli, saved.checkpoint)


def evaluate(request: Request) -> int:
    """Evaluate a checkpoint: `validate` and `test`."""
    cli, checkpoint = _from_checkpoint(request)
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
        folder, name = _output(request, checkpoint, "results.json")
        _say(f"results: {save_execution_results(result, folder, name)}")
    return _say(
        f"mean_reward {result.mean_reward:.2f} +- {result.std_reward:.2f} "
        f"(min {result.min_reward:.2f}, max {result.max_reward:.2f}), "
        f"mean_length {result.mean_length:.1f}, {result.total_episodes} episodes"
    )


def predict(request: Request) -> int:
    """Write episodes of a trained agent as a data set."""
    cli, checkpoint = _from_checkpoint(request)
    if cli is None:
        return 0
    from lightning_rl.cli.dataset import write_episodes
    from lightning_rl.cli.weights import load_weights

    load_weights(cli.model, checkpoint)
    folder, name = _output(request, checkpoint, "episodes.npz")
    steps = write_episodes(cli.model, _episodes(request), folder / name)
    return _say(f"{_episodes(request)} episodes, {steps:,} steps: {folder / name}")


def show_list(request: Request) -> int:
    """Show what there is."""
    if len(request.positionals) != 1:
        raise ConfigError("list: expected one of algorithms, configs, tags, environments")
    return _say(listing(request.positionals[0]))


COMMANDS: dict[str, Callable[[Request], int]] = {
    "fit": fit,
    "resume": resume,
    "validate": evaluate,
    "test": evaluate,
    "predict": predict,
    "list": show_list,
}


def _build(request: Request, options: list[str]) -> RunCLI | None:
    """Parse with the real classes and build agent and trainer; None when only printing."""
    from lightning_rl.cli.parser import RunCLI, resolved_config_yaml

    only_print = bool(request.own.get("print_config"))
    cli = RunCLI(request.documents, options, request.command, build=not only_print)
    text = resolved_config_yaml(cli, request.kept_run)
    if only_print:
        _say(text.rstrip("\n"))
        return None
    cli.trainer.config_text = text
    return cli


def _train(cli: RunCLI, checkpoint: str | None) -> int:
    """Train, then say where the results lie or how to go on."""
    try:
        cli.trainer.fit(cli.model, ckpt_path=checkpoint)
    except Interrupted as stop:
        folder = cli.trainer.run_directory
        if folder is not None and cli.trainer.is_global_zero:
            _say(f"stopped by {stop.signal}; continue with: lightning-rl resume {folder.path}")
        raise
    folder = cli.trainer.run_directory
    if folder is None or not cli.trainer.is_global_zero:
        return 0
    best = folder.checkpoints / "best.ckpt"
    best = best if best.exists() else folder.checkpoints / "last.ckpt"
    _say(f"run directory:   {folder.path}")
    if folder.curves.exists():
        _say(f"curves:          {folder.curves}")
    if best.exists():
        _say(f"best checkpoint: {best}")
        _say(f"test it with:    lightning-rl test --ckpt_path {best}")
    return 0


def _from_checkpoint(request: Request) -> tuple[RunCLI | None, Path]:
    """Build the agent that a checkpoint holds, with the user's options laid over its arguments."""
    _no_positionals(request)
    if "ckpt_path" not in request.own:
        raise ConfigError(
            f"{request.command}: expected --ckpt_path CKPT, "
            f"as in `lightning-rl {request.command} --ckpt_path RUN_DIR/checkpoints/best.ckpt`"
        )
    episodes = _episodes(request) if "episodes" in request.own else None
    path = Path(request.own["ckpt_path"]).expanduser()
    if path.is_dir():
        named = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        path = next((file for file in named if file.exists()), path)
        request.own["ckpt_path"] = str(path)
    _check_file(request, "ckpt_path")
    defaults = read_document(configs_folder() / f"{DEFAULTS}.yaml", "configs/defaults.yaml")
    configs = [read_document(*find_config(name)) for name in request.own.get("config", [])]
    for document in (defaults, *configs):
        check_document(document)

    from lightning_rl.cli.weights import stored_configuration

    model = stored_configuration(path)
    # The agent's own seed decides the test episodes; nothing else in a test draws from a seed.
    stored = Document(str(path), {"seed_everything": 0, "model": model})
    env = model["init_args"].get("env")
    if isinstance(env, dict) and env.pop("factory", None) and not _gives_env(request, configs):
        raise ConfigError(
            f"{path}: was trained on an environment made in Python; "
            "give a registered one by --model.env ID, or use load_from_checkpoint(path, env=...)"
        )
    check_document(stored)
    request.documents = [defaults, stored, *configs]
    request.add_options(model_class(request.documents))
    cli = _build(request, [option.token for option in request.options])
    if cli is not None and episodes is not None:
        cli.trainer.test_episodes = cli.trainer.eval_episodes = episodes
    return cli, path


def _gives_env(request: Request, configs: list[Document]) -> bool:
    in_configs = any("env" in (c.data.get("model") or {}).get("init_args", {}) for c in configs)
    return in_configs or any(key in ("model.env", "model.env.id") for key, _ in request.raw)


def _episodes(request: Request) -> int:
    text = request.own.get("episodes", str(TEST_EPISODES))
    episodes = parse_scalar(text)
    if isinstance(episodes, float) and episodes.is_integer():
        episodes = int(episodes)
    if not isinstance(episodes, int) or isinstance(episodes, bool) or episodes < 1:
        raise ConfigError(f"--episodes: expected a whole number of at least 1, got {text!r}")
    return episodes


def _output(request: Request, checkpoint: Path, name: str) -> tuple[Path, str]:
    """Return folder and file name of a result: `--output`, else the checkpoint's run directory."""
    given = request.own.get("output")
    if given is None:
        folder = checkpoint.parent
        return (folder.parent if folder.name == "checkpoints" else folder), name
    path = Path(given).expanduser()
    suffix = Path(name).suffix
    return (path.parent, path.name) if path.suffix == suffix else (path, name)


def _check_file(request: Request, name: str) -> None:
    """Refuse a checkpoint that does not exist, naming those that are near."""
    value: Any = request.own.get(name)
    if value is None or Path(value).expanduser().is_file():
        return
    folder = Path(value).parent
    known = sorted(file.name for file in folder.glob("*.ckpt")) if folder.is_dir() else []
    hint = f"; {folder} has {', '.join(known[:5])}" if known else ""
    raise ConfigError(f"--{name} {value}: no such checkpoint{hint}")


def _no_positionals(request: Request) -> None:
    if request.positionals:
        word = request.positionals[0]
        raise ConfigError(
            f"unexpected argument {word!r}; a configuration is given by --config, a list as [a, b]"
        )


def _say(text: str) -> int:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return 0
