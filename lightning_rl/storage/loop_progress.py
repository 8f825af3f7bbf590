"""The one place that edits Lightning's private loop progress inside a checkpoint, and why.

Lightning counts a batch as ready, started, processed and completed. A checkpoint taken inside a
batch must say that the batch was never asked for, so that the source yields its stored unit again;
one taken inside a validation must say that the validation has not begun; one taken at any other
moment must say that no validation is under way.
"""

from __future__ import annotations

from typing import Any

_STAGES = ("ready", "started", "processed")


def rewind_unit(loops: dict[str, Any]) -> None:
    """Make a unit that has begun look as if it had not, in place: only completed ones count."""
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        for stage in _STAGES:
            counts[stage] = counts["completed"]
    progress["is_last_batch"] = False


def settle_validation(loops: dict[str, Any]) -> None:
    """Make the last validation look completed, in place.

    One that was stopped and repeated leaves more episodes begun than completed in the totals, and
    Lightning would go back to it at every later resume.
    """
    progress = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        for stage in _STAGES:
            counts[stage] = counts["completed"]


def rewind_validation(loops: dict[str, Any]) -> None:
    """Make a validation that is under way look as if it stopped before its first episode, in place.

    Lightning then runs it from the start as the first thing after a resume.
    """
    progress = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    for stage in (*_STAGES, "completed"):
        progress["current"][stage] = 0
    total = progress["total"]
    total["ready"] = total["started"] = total["completed"] + 1
    total["processed"] = total["completed"]
    progress["is_last_batch"] = False
