"""Callbacks: what watches, records, saves and ends a run; the hooks stand in `base.py`."""

from lightning_rl.callbacks.base import Callback, EventCallback, listeners
from lightning_rl.callbacks.checkpoint import Checkpoint
from lightning_rl.callbacks.curves import TrainingCurves
from lightning_rl.callbacks.defaults import monitoring_callbacks
from lightning_rl.callbacks.early_stopping import EvaluationEarlyStopping, StopOnReward
from lightning_rl.callbacks.episode_statistics import EpisodeStatistics
from lightning_rl.callbacks.failure_guard import FailureGuard
from lightning_rl.callbacks.interruption import GracefulStop
from lightning_rl.callbacks.progress_bar import ProgressBar
from lightning_rl.callbacks.replays import EpisodeReplays
from lightning_rl.callbacks.reward_components import RewardComponents
from lightning_rl.callbacks.throughput import Throughput
from lightning_rl.callbacks.video import VideoRecorder

__all__ = [
    "Callback",
    "Checkpoint",
    "EpisodeReplays",
    "EpisodeStatistics",
    "EvaluationEarlyStopping",
    "EventCallback",
    "FailureGuard",
    "GracefulStop",
    "ProgressBar",
    "RewardComponents",
    "StopOnReward",
    "Throughput",
    "TrainingCurves",
    "VideoRecorder",
    "listeners",
    "monitoring_callbacks",
]
