"""The entry point: picks the command, turns deliberate errors into one line and an exit code.

0 done, 1 the run failed, 2 a mistake in the command or configuration, 130 and 143 stopped by SIGINT
and SIGTERM after saving. `LIGHTNING_RL_DEBUG=1` shows tracebacks.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

import lightning_rl
from lightning_rl.cli.arguments import OWN_OPTIONS, Request, read_request
from lightning_rl.cli.checks import resolve_algorithm
from lightning_rl.cli.help import COMMANDS, command_help, main_help
from lightning_rl.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    TrainingFailed,
    did_you_mean,
)

_SIGINT_CODE = 128 + signal.SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words behind the program's name; default: those of the process.

    Returns:
        The exit code.
    """
    code = _exit_code(list(sys.argv[1:] if argv is None else argv))
    couriers = sys.modules.get("lightning_rl.loggers.courier")
    if argv is None and couriers is not None and couriers.left_behind():
        # The run has waited for its trackers; at exit their libraries would begin to wait again.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _exit_code(tokens: list[str]) -> int:
    """Run the command; return the exit code."""
    try:
        return _dispatch(tokens)
    except (ConfigError, CheckpointError, TrainingFailed) as error:
        _report(str(error))
        return error.exit_code
    except Interrupted as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        training = tokens[:1] in (["fit"], ["resume"])
        _report("interrupted" + " before training began; nothing was changed" * training)
        return _SIGINT_CODE
    except BrokenPipeError:
        # The reader of `lightning-rl list ... | head` has gone; nothing may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        text = " ".join(str(error).split())
        # Lightning's word for a mistake in the trainer's options.
        if type(error).__name__ == "MisconfigurationException":
            _report(text)
            return ConfigError.exit_code
        _report(f"{type(error).__name__}: {text}")
        return 1


def _dispatch(tokens: list[str]) -> int:
    command = tokens[0] if tokens else "--help"
    if command in ("--help", "-h", "help"):
        sys.stdout.write(main_help() + "\n")
        return 0
    if command == "--version":
        sys.stdout.write(f"lightning-rl {lightning_rl.__version__}\n")
        return 0
    if command not in COMMANDS:
        near = did_you_mean(command, COMMANDS)
        known = f"; expected one of {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {command!r}{near or known}")
    request = read_request(command, tokens[1:])
    if request.own.get("help"):
        sys.stdout.write(command_help(command, OWN_OPTIONS[command], _named(request)) + "\n")
        return 0
    from lightning_rl.cli import commands  # what it imports in turn depends on the command

    return commands.COMMANDS[command](request)


def _named(request: Request) -> str | None:
    """Return the algorithm whose hyperparameters the help is to show."""
    names = [text for key, text in request.raw if key == "model" and text]
    return resolve_algorithm(names[-1]) if names else None


def _report(message: str) -> None:
    sys.stderr.write(f"lightning-rl: error: {message}\n")
    if os.environ.get("LIGHTNING_RL_DEBUG") == "1":
        traceback.print_exc()
