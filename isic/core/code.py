"""Code that decides results: one list for the deps of dvc.yaml, the resume key and a bundle's code hash."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import isic
from isic.core.io import sha256, sha256_json

_NETWORK = ("isic/data/tiles.py", "isic/image/network")
_STACK = ("isic/core/early_stopping.py", "isic/core/folds.py", "isic/core/metric.py", "isic/stack", "isic/tabular")
_PREDICT = ("isic/data/patient_chunks.py", "isic/data/tables.py", "isic/predict")

_STAGES: dict[str, tuple[str, ...]] = {
    "data": ("isic/data/sample", "isic/data/source.py"),
    "validate": ("isic/data/tables.py", "isic/data/tiles.py", "isic/data/validate.py"),
    "folds": ("isic/core/folds.py", "isic/data/tables.py"),
    "features": ("isic/data/tables.py", "isic/tabular"),
    "train_image": (
        "isic/core/early_stopping.py",
        "isic/core/metric.py",
        "isic/data/tables.py",
        *_NETWORK,
        "isic/image/training",
    ),
    "embed": (
        "isic/data/anchors.py",
        "isic/data/sample",
        "isic/data/tables.py",
        *_NETWORK,
        "isic/image/training/augment.py",
        "isic/image/training/rng.py",
        "isic/image/training/sampler.py",
    ),
    "stack": _STACK,
    "evaluate": ("isic/core/calibration.py", "isic/core/metric.py", "isic/data/tables.py", "isic/evaluate"),
    "robustness": (
        *_STACK,
        "isic/data/tables.py",
        *_NETWORK,
        "isic/evaluate",
        "isic/image/training/augment.py",
        "isic/image/training/rng.py",
        "isic/image/training/sampler.py",
        "isic/robustness",
    ),
    "report": (
        *_STACK,
        *_NETWORK,
        *_PREDICT,
        "isic/evaluate",
        "isic/image/cam.py",
        "isic/image/training/augment.py",
        "isic/image/training/rng.py",
        "isic/image/training/sampler.py",
        "isic/registry",
        "isic/report",
    ),
    "register": (
        *_STACK,
        *_NETWORK,
        *_PREDICT,
        "isic/image/training/augment.py",
        "isic/image/training/rng.py",
        "isic/image/training/sampler.py",
        "isic/registry",
    ),
}

#: Folders and files by stage: an edit of one of them reruns the stage. `dvc.yaml` repeats them as deps.
STAGE_CODE = {stage: ("isic/core/schema.py", *places) for stage, places in _STAGES.items()}

#: What turns rows and tiles into scores: the code hash of a bundle.
SCORING_CODE = ("isic/data/tiles.py", "isic/image/network", "isic/predict", "isic/stack", "isic/tabular")

#: Modules that only print, search, start, log, draw or parse: no stage depends on them.
NOT_DEPENDENCIES = (
    "isic/__init__.py",
    "isic/core/__init__.py",
    "isic/core/code.py",
    "isic/core/errors.py",
    "isic/core/io.py",
    "isic/core/locks.py",
    "isic/core/params.py",
    "isic/core/paths.py",
    "isic/core/presets.py",
    "isic/core/tracker.py",
    "isic/data/__init__.py",
    "isic/image/__init__.py",
    "isic/image/clock.py",
    "isic/image/console.py",
    "isic/image/training/__init__.py",
    "isic/robustness/__init__.py",
    "isic/robustness/leaks.py",
    "isic/scale/__init__.py",
    "isic/scale/estimate.py",
    "isic/tracking",
    "pipelines/__init__.py",
)


def code_files(places: Iterable[str]) -> list[Path]:
    """The Python files of these folders and files of the installed package, sorted."""
    root = Path(isic.__file__).parent.parent
    files: set[Path] = set()
    for place in places:
        path = root / place
        files.update(path.rglob("*.py") if path.is_dir() else [path])
    return sorted(files)


def hash_code(places: Iterable[str]) -> str:
    """SHA-256 over names and contents of `code_files(places)`."""
    root = Path(isic.__file__).parent.parent
    return sha256_json({file.relative_to(root).as_posix(): sha256(file) for file in code_files(places)})
