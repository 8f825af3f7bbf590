"""Commands that make files of a trained agent: policies to run elsewhere, videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_rl.cli.arguments import Request
from lightning_rl.cli.shared import (
    checkpoint_asked,
    episodes_asked,
    from_checkpoint,
    no_positionals,
    output,
    say,
)
from lightning_rl.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from lightning_rl.runs.recording import Recording

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


def record(request: Request) -> int:
    """Film a trained agent, or an episode from its replay file."""
    if "replay" in request.own:
        return _record_replay(request)
    if "ckpt_path" not in request.own:
        raise ConfigError("record: expected --ckpt_path CKPT or --replay FILE")
    episodes = episodes_asked(request, 1)
    request.own["episodes"] = str(episodes)
    cli, checkpoint = from_checkpoint(request)
    if cli is None:
        return 0
    from lightning_rl.cli.weights import load_weights
    from lightning_rl.runs.recording import record_video

    load_weights(cli.model, checkpoint)
    path = _video_path(request, checkpoint, f"{checkpoint.resolve().stem}.mp4")
    recording = record_video(cli.model, path, episodes)
    rewards = ", ".join(f"{reward:g}" for reward in recording.episode_rewards[:10])
    more = ", ..." if len(recording.episode_rewards) > 10 else ""
    say(f"{episodes} episode{'s' if episodes > 1 else ''}, reward {rewards}{more}")
    return _say_video(recording)


def _record_replay(request: Request) -> int:
    no_positionals(request)
    for name in ("ckpt_path", "episodes", "config"):
        if name in request.own:
            raise ConfigError(f"--{name} belongs to a checkpoint; --replay FILE needs nothing else")
    if request.raw:
        raise ConfigError(f"unknown option --{request.raw[0][0]}; a replay holds its environment")
    from lightning_rl.runs.recording import record_replay

    file = Path(request.own["replay"]).expanduser()
    path = _video_path(request, file, f"{file.stem}.mp4")
    recording = record_replay(file, path)
    reward, length = recording.episode_rewards[0], recording.episode_lengths[0]
    say(f"1 episode of {length:,} env steps, reward {reward:g}")
    _say_video(recording)
    if recording.difference is None:
        return say("played exactly as stored")
    say(f"NOT as stored: {recording.difference}")
    return 1


def _video_path(request: Request, source: Path, name: str) -> Path:
    """Return `--output`, else the file `name` in the run's folder of videos."""
    given = request.own.get("output")
    if given is not None:
        path = Path(given).expanduser()
        return path / name if path.is_dir() else path
    folder = source.absolute().parent
    run = folder.parent if folder.name in ("checkpoints", "replays") else folder
    return run / "videos" / name


def _say_video(recording: Recording) -> int:
    seconds = recording.frames / recording.fps
    return say(f"video: {recording.path} ({recording.frames:,} frames, {seconds:.1f} s)")
