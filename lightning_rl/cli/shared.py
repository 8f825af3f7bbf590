"""What several commands need: an agent from documents or from a checkpoint, outputs, messages."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lightning_rl.cli.arguments import Request
from lightning_rl.cli.checks import check_document, model_class
from lightning_rl.cli.configs import DEFAULTS, configs_folder, find_config
from lightning_rl.cli.yaml_check import Document, parse_scalar, read_document
from lightning_rl.errors import ConfigError
from lightning_rl.startup import heavy_imports

if TYPE_CHECKING:
    from lightning_rl.cli.parser import RunCLI

TEST_EPISODES = 100


def build(request: Request, options: list[str]) -> RunCLI | None:
    """Parse with the real classes and build agent and trainer; None when only printing."""
    with heavy_imports():
        from lightning_rl.cli.parser import RunCLI, resolved_config_yaml

    only_print = bool(request.own.get("print_config"))
    cli = RunCLI(request.documents, options, request.command, build=not only_print)
    text = resolved_config_yaml(cli, request.kept_run)
    if only_print:
        say(text.rstrip("\n"))
        return None
    cli.trainer.config_text = text
    return cli


def checkpoint_asked(request: Request) -> Path:
    """Return the file that `--ckpt_path` names; of a run directory, its best or last checkpoint.

    Raises:
        ConfigError: If there is none.
    """
    no_positionals(request)
    if "ckpt_path" not in request.own:
        raise ConfigError(
            f"{request.command}: expected --ckpt_path CKPT, "
            f"as in `lightning-rl {request.command} --ckpt_path RUN_DIR/checkpoints/best.ckpt`"
        )
    path = Path(request.own["ckpt_path"]).expanduser()
    if path.is_dir():
        named = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        path = next((file for file in named if file.exists()), path)
        request.own["ckpt_path"] = str(path)
    check_file(request, "ckpt_path")
    return path


def from_checkpoint(request: Request) -> tuple[RunCLI | None, Path]:
    """Build the agent that a checkpoint holds, with the user's options laid over its arguments."""
    episodes = episodes_asked(request) if "episodes" in request.own else None
    path = checkpoint_asked(request)
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
    cli = build(request, [option.token for option in request.options])
    if cli is not None and cli.model.class_path != model["class_path"]:
        stored_name = model["class_path"].rsplit(".", 1)[-1]
        raise ConfigError(
            f"--model {type(cli.model).__name__}: {path} is one of {stored_name}; leave --model out"
        )
    if cli is not None and episodes is not None:
        cli.trainer.test_episodes = cli.trainer.eval_episodes = episodes
    return cli, path


def _gives_env(request: Request, configs: list[Document]) -> bool:
    in_configs = any("env" in (c.data.get("model") or {}).get("init_args", {}) for c in configs)
    return in_configs or any(key in ("model.env", "model.env.id") for key, _ in request.raw)


def episodes_asked(request: Request, default: int = TEST_EPISODES) -> int:
    """Return what `--episodes` says.

    Raises:
        ConfigError: If that is no whole number above 0.
    """
    text = request.own.get("episodes", str(default))
    episodes = parse_scalar(text)
    if isinstance(episodes, float) and episodes.is_integer():
        episodes = int(episodes)
    if not isinstance(episodes, int) or isinstance(episodes, bool) or episodes < 1:
        raise ConfigError(f"--episodes: expected a whole number of at least 1, got {text!r}")
    return episodes


def output(request: Request, checkpoint: Path, name: str) -> tuple[Path, str]:
    """Return folder and file name of a result: `--output`, else the checkpoint's run directory."""
    given = request.own.get("output")
    if given is None:
        folder = checkpoint.parent
        return (folder.parent if folder.name == "checkpoints" else folder), name
    path = Path(given).expanduser()
    suffix = Path(name).suffix
    return (path.parent, path.name) if path.suffix == suffix else (path, name)


def check_file(request: Request, name: str) -> None:
    """Refuse a checkpoint that does not exist, naming those that are near."""
    value: Any = request.own.get(name)
    if value is None or Path(value).expanduser().is_file():
        return
    folder = Path(value).parent
    known = sorted(file.name for file in folder.glob("*.ckpt")) if folder.is_dir() else []
    hint = f"; {folder} has {', '.join(known[:5])}" if known else ""
    raise ConfigError(f"--{name} {value}: no such checkpoint{hint}")


def no_positionals(request: Request) -> None:
    """Refuse words that belong to no option."""
    if request.positionals:
        word = request.positionals[0]
        raise ConfigError(
            f"unexpected argument {word!r}; a configuration is given by --config, a list as [a, b]"
        )


class _Lasting(io.TextIOBase):
    """A standard output that takes everything, also when nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's, by which tables choose their lines."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        with self._without_reader():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what waits, or drop it."""
        with self._without_reader():
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor, which stays the same."""
        return self._stream.fileno()

    @contextmanager
    def _without_reader(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def outliving_the_reader() -> Iterator[None]:
    """Go on when the reader of standard output has gone: hours of training are no `list | head`."""
    with redirect_stdout(_Lasting(sys.stdout)):
        yield


def make_folder(path: Path) -> None:
    """Make the folder of several runs.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to {path}: {error.strerror}; choose another folder"
        ) from error


def say(text: str) -> int:
    """Print a line at once; return the exit code of success."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return 0
