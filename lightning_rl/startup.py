"""How torch and Lightning are imported: with one garbage collection and not a thousand."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Pause garbage collection while torch and Lightning are imported.

    That leaves 400,000 objects, which live as long as the process: collecting meanwhile takes a
    fifth of the time of importing, and walking through them in every later collection takes 0.2 s,
    at exit 1 s. So they are frozen, that is, left out of collections, if torch was not there
    before. (If it was, the process may hold models, which must be collected one day.)
    """
    was_enabled, is_first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if is_first and "torch" in sys.modules:
            gc.collect()  # once, or what importing left behind would be kept for ever
            gc.freeze()
        if was_enabled:
            gc.enable()
