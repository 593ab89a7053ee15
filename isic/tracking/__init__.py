"""Log runs to MLflow without delaying or failing the stage.

Only this package and `isic.registry` import mlflow; runs are logged by a process of their own (see
`tracker`).
"""

from isic.tracking.tracker import open_run, parent

__all__ = ["open_run", "parent"]
