"""Commands that make files of a trained agent: policies to run elsewhere, videos."""

from __future__ import annotations

from typing import Any

from lightning_rl.cli.arguments import Request
from lightning_rl.cli.shared import checkpoint_asked, output, say
from lightning_rl.errors import check_choice

# Here as well as in `runs.export`, whose import costs seconds.
_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def export(request: Request) -> int:
    """Write the policy of a checkpoint for use without this package."""
    chosen: Any = request.own.get("format", "onnx")
    check_choice("--format", chosen, _SUFFIXES)
    checkpoint = checkpoint_asked(request)
    folder, name = output(request, checkpoint, f"policy{_SUFFIXES[chosen]}")

    from lightning_rl.algorithms.base import Algorithm
    from lightning_rl.runs.export import export_policy

    agent = Algorithm.load_from_checkpoint(checkpoint)
    result = export_policy(agent, folder / name, chosen)
    say(f"policy: {result.path}")
    return say(
        f"{', '.join(result.inputs)} -> {', '.join(result.outputs)}; acts as the agent does on "
        f"{result.checked:,} observations"
    )
