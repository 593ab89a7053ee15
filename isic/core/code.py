"""Code that decides results: one list for the deps of dvc.yaml, the resume key and a bundle's code
hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import isic
from isic.core.io import sha256, sha256_json

_NETWORK = ("isic/data/jpeg.py", "isic/data/tiles.py", "isic/image/network")
_STACK = (
    "isic/core/early_stopping.py",
    "isic/core/metric.py",
    "isic/stack",
    "isic/tabular",
)

#: Code that reads pictures of other sources and decides which of them train a network.
_ARCHIVE = tuple(
    f"isic/data/archive/{name}.py" for name in ("duplicates", "forms", "people", "pictures")
)

#: Code that turns rows and tiles into scores: the code hash of a bundle.
SCORING_CODE = (
    "isic/core/schema.py",
    *_STACK,
    *_NETWORK,
    "isic/data/image_files.py",
    "isic/data/patient_chunks.py",
    "isic/data/rules.py",
    "isic/core/csv_files.py",
    "isic/data/tables.py",
    "isic/predict",
)
#: Beside `SCORING_CODE`, for the cards and the licence of a bundle.
_LICENCES = "isic/data/archive/licences.py"

_STAGES: dict[str, tuple[str, ...]] = {
    "data": (
        "isic/core/csv_files.py",
        "isic/data/forms",
        "isic/data/image_files.py",
        "isic/data/jpeg.py",
        "isic/data/sample",
        "isic/data/source.py",
        "isic/data/tile_file.py",
        "isic/data/tiles.py",
    ),
    "validate": (
        "isic/core/csv_files.py",
        "isic/data/tables.py",
        "isic/data/jpeg.py",
        "isic/data/tiles.py",
        "isic/data/rules.py",
        "isic/data/validate.py",
    ),
    "archive": (
        "isic/core/csv_files.py",
        *_ARCHIVE,
        "isic/data/archive/build.py",
        "isic/data/jpeg.py",
        "isic/data/tables.py",
        "isic/data/tile_file.py",
        "isic/data/tiles.py",
    ),
    "folds": ("isic/core/folds.py", "isic/core/csv_files.py", "isic/data/tables.py"),
    "features": ("isic/core/csv_files.py", "isic/data/tables.py", "isic/tabular"),
    "train_image": (
        "isic/core/early_stopping.py",
        "isic/core/metric.py",
        "isic/core/csv_files.py",
        "isic/data/tables.py",
        *_NETWORK,
        *_ARCHIVE,
        "isic/image/training",
    ),
    "embed": ("isic/data/anchors", *_NETWORK),
    "stack": (*_STACK, "isic/core/folds.py"),
    "evaluate": (
        "isic/core/calibration.py",
        "isic/core/metric.py",
        "isic/core/csv_files.py",
        "isic/data/tables.py",
        "isic/evaluate",
    ),
    "robustness": (
        *_STACK,
        "isic/core/folds.py",
        *_NETWORK,
        "isic/core/csv_files.py",
        "isic/data/tables.py",
        "isic/evaluate",
        "isic/robustness",
    ),
    "report": (
        *SCORING_CODE,
        _LICENCES,
        "isic/core/folds.py",
        "isic/evaluate",
        "isic/image/cam.py",
        "isic/registry",
        "isic/report",
    ),
    "register": (*SCORING_CODE, _LICENCES, "isic/data/anchors", "isic/registry"),
}

#: Folders and files by stage; an edit of one of them reruns the stage. `dvc.yaml` repeats them as
#: deps.
STAGE_CODE = {
    stage: tuple(sorted({"isic/core/schema.py", *paths})) for stage, paths in _STAGES.items()
}

#: Modules that only print, search, start, log, draw or parse: no stage that trains or fits depends
#: on them. A package's `__init__.py` with only a docstring needs no entry.
NOT_DEPENDENCIES = (
    "isic/__init__.py",
    "isic/core/code.py",
    "isic/core/errors.py",
    "isic/core/io.py",
    "isic/core/locks.py",
    "isic/core/parallel.py",
    "isic/core/params.py",
    "isic/core/paths.py",
    "isic/core/progress.py",
    "isic/core/tracker.py",
    "isic/core/yaml_files.py",
    "isic/image/clock.py",
    "isic/image/console.py",
    "isic/image/scoring_time.py",
    # `stack` only prints its warning; `robustness`, where it chooses columns, depends on it.
    "isic/robustness/leaks.py",
    "isic/scale/estimate.py",
    "isic/tracking",
    "pipelines/__init__.py",
)


def code_files(paths: Iterable[str]) -> list[Path]:
    """The Python files of these folders and files of the installed package, sorted."""
    root = Path(isic.__file__).parent.parent
    files: set[Path] = set()
    for path in paths:
        source = root / path
        files.update(source.rglob("*.py") if source.is_dir() else [source])
    return sorted(files)


def hash_code(paths: Iterable[str]) -> str:
    """SHA-256 over names and contents of `code_files(paths)`."""
    root = Path(isic.__file__).parent.parent
    return sha256_json(
        {file.relative_to(root).as_posix(): sha256(file) for file in code_files(paths)}
    )
