"""How torch and Lightning are imported: with one garbage collection, and without SciPy."""

from __future__ import annotations

import contextlib
import gc
import sys
import types
from collections.abc import Iterator

_SPARED = "scipy.signal"


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Pause garbage collection while torch and Lightning are imported, and spare `scipy.signal`.

    That leaves 400,000 objects, which live as long as the process: collecting meanwhile takes a
    fifth of the time of importing, and walking through them in every later collection takes 0.2 s,
    at exit 1 s. So they are frozen, that is, left out of collections, if torch was not there
    before. (If it was, the process may hold models, which must be collected one day.)
    """
    was_enabled, is_first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        with _spared_scipy():
            yield
    finally:
        if is_first and "torch" in sys.modules:
            gc.collect()  # once, or what importing left behind would be kept for ever
            gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _spared_scipy() -> Iterator[None]:
    """Let torchmetrics' import find an empty `scipy.signal`, unless the real one is there already.

    Where SciPy is installed, torchmetrics imports 64 MB of it, which takes 0.9 s, to give one
    function back an old name that a measure of speech quality asks for. Whoever imports
    `scipy.signal` afterwards gets the real one.
    """
    if _SPARED in sys.modules:
        yield
        return
    stand_in = types.ModuleType(_SPARED)
    stand_in.hamming = None  # type: ignore[attr-defined]
    sys.modules[_SPARED] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_SPARED) is stand_in:
            del sys.modules[_SPARED]
