"""Runs: their directory, record, trainer and results, and the Python front door.

Nothing is imported here: the command line looks at a run directory before anything heavy is loaded.
"""
