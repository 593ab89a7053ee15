"""Runs: what a stage did, told to MLflow without ever standing in the stage's way.

The only room besides `isic.registry` that may import mlflow, and it does so in a process of its own (see `tracker`).
"""

from isic.tracking.tracker import open_run, parent

__all__ = ["open_run", "parent"]
