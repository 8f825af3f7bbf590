"""Runs that must not leave anything in the process of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_a_child(work: Callable[[], None]) -> int:
    """Run in a forked process, which has imported everything already; return its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)
