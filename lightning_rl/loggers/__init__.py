"""Loggers of this package; all others are Lightning's own, by class path."""

from lightning_rl.loggers.csv import CSVMetrics, read_metrics
from lightning_rl.loggers.database import metric_names, query_metrics
from lightning_rl.loggers.sqlite import SQLiteLogger

__all__ = ["CSVMetrics", "SQLiteLogger", "metric_names", "query_metrics", "read_metrics"]
