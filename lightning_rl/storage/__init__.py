"""Files that survive: sealed checkpoints, replay segments, atomic text files.

Nothing here knows of agents or runs.
"""
