"""Loggers of this package; all others are Lightning's own, by class path."""

from lightning_rl.loggers.csv import CSVMetrics, read_metrics

__all__ = ["CSVMetrics", "read_metrics"]
