"""One call at a time beside the training thread, for waiting on disks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one call at a time in a thread that lives as long as the call.

    A process that ends normally waits for the call; what it raises comes out of `wait`.
    """

    def __init__(self) -> None:
        self._future: Future[None] | None = None

    def start(self, call: Callable[[], None]) -> None:
        """Run `call` in the background; the one before must have been waited for."""
        if self._future is not None:
            raise RuntimeError("wait for the call before")
        executor = ThreadPoolExecutor(1, "lightning_rl-disk")
        self._future = executor.submit(call)
        executor.shutdown(wait=False)

    def wait(self) -> None:
        """Wait until nothing runs any more, and raise what the call raised."""
        future, self._future = self._future, None
        if future is not None:
            future.result()
