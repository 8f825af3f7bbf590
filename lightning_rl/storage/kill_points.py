"""Named points at which a test can kill the process."""

from __future__ import annotations

import os
import signal

_passes: dict[str, int] = {}


def kill_point(name: str) -> None:
    """SIGKILL this process if `LIGHTNING_RL_KILL_POINT` is `name` or `name:count`.

    For tests of crash safety; `count` is the pass at which to die, counted from 1. Points:
    `save:before_write`, `save:mid_write`, `save:after_write`, `save:after_fsync`,
    `save:after_rename`, `sqlite:mid_rewind`, `sqlite:before_commit`, `sqlite:after_commit`.
    """
    wanted = os.environ.get("LIGHTNING_RL_KILL_POINT")
    if not wanted or not wanted.startswith(name):
        return
    count = wanted[len(name) :].removeprefix(":") or "1"
    if not count.isdigit():
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
