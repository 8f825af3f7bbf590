"""Environments: description, seeds, spaces, vectors of them, and their state in checkpoints."""
