"""What a run was made with: versions, machine, commit and command, without anybody's secrets."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

import lightning_rl

HIDDEN = "***"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 6
"""Shorter values are words like `true`: hiding them would only spoil the text. So would paths."""


def redact(text: str) -> str:
    """Return `text` with the values of secret environment variables hidden.

    Secret is a variable whose name contains KEY, TOKEN, SECRET, PASSWORD or CREDENTIAL.
    """
    # By name: a tracker's own threads set and remove variables meanwhile, on which `items` fails.
    secrets = {
        value
        for name in list(os.environ)
        if _SECRET_NAME.search(name)
        and len(value := os.environ.get(name, "")) >= _SHORTEST_SECRET
        and not os.path.exists(value)
    }
    for secret in sorted(secrets, key=len, reverse=True):  # one may contain another
        text = text.replace(secret, HIDDEN)
    return text


def redact_tree(tree: Any) -> Any:
    """Return dictionaries and lists of values with `redact` applied to every text in them."""
    if isinstance(tree, str):
        return redact(tree)
    if isinstance(tree, dict):
        return {key: redact_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [redact_tree(value) for value in tree]
    return tree


def redacted_command(arguments: Iterable[str]) -> list[str]:
    """Return a command line without secrets: those of `redact`, and values of options named so."""
    result: list[str] = []
    hide_next = False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        is_option = argument.startswith("-")
        names_secret = is_option and _SECRET_NAME.search(option.rpartition(".")[2]) is not None
        if hide_next and not is_option:
            result.append(HIDDEN)
        elif names_secret and equals:
            result.append(f"{option}={HIDDEN}")
        else:
            result.append(redact(argument))
        hide_next = names_secret and not equals
    return result


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    found = {"lightning_rl": str(getattr(lightning_rl, "__version__", "unknown"))}
    found["python"] = platform.python_version()
    found["torch"] = torch.__version__  # it tells the build, which the package's metadata may not
    packages = ["lightning", "gymnasium", "numpy"]
    packages += [name for name in ("mujoco", "ale_py") if name in sys.modules]
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def hardware(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the machine: processor, cores, memory in bytes, torch threads, and the GPU in use."""
    on_gpu = torch.device(device).type == "cuda"  # asking for a name otherwise starts a driver
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit checked out in `folder` or a parent of it; None outside a checkout.

    Reads git's files: starting `git` would fork a process that holds environments and a GPU.

    Args:
        folder: Default: the current directory.
    """
    try:
        start = (folder or Path.cwd()).resolve()
        for parent in (start, *start.parents):
            if (parent / ".git").exists():
                return _head(parent / ".git")
    except (OSError, UnicodeDecodeError):
        pass
    return None


def _head(git: Path) -> str | None:
    """Return the commit that HEAD of a git directory, or of a worktree's `.git` file, points to."""
    if git.is_file():
        git = git.parent / git.read_text().partition("gitdir:")[2].strip()
    common = git / "commondir"
    shared = git / common.read_text().strip() if common.is_file() else git
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return _checked(head)
    reference = head.partition(":")[2].strip()
    for place in (git, shared):
        if (place / reference).is_file():
            return _checked((place / reference).read_text().strip())
    packed = shared / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    matches = (line.split()[0] for line in lines if line.endswith(f" {reference}"))
    return _checked(next(matches, ""))


def _checked(commit: str) -> str | None:
    return commit if re.fullmatch(r"[0-9a-f]{40,64}", commit) else None
