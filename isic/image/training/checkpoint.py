"""Resume state: one safetensors file with every tensor and, in its header, every number. Written
atomically.

It lies in `.resume/STAGE/NAME/KEY-PRECISION`, where KEY is a hash of all else that decides the
result, so that a change of any of it starts afresh and changing back goes on (for a month: see
`discard`). DVC deletes outputs before a stage runs, hence a place of its own (its #9221).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from isic.core import locks
from isic.core.code import STAGE_CODE, hash_code
from isic.core.errors import InputError
from isic.core.io import atomic_file, sha256, sha256_json

_STATE = "state.safetensors"
#: Packages that decide the weights beside the code of the stage: they train, build networks,
#: decode, resize, augment.
_PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "albumentations")
#: Seconds after which a state that is not written any more counts as given up.
_GIVEN_UP = 30 * 24 * 3600


@dataclass
class Progress:
    """Where training stands, at an optimiser step's end."""

    epoch: int = 0
    micro: int = 0  # micro-batches done of this epoch
    step: int = 0  # optimiser steps done in all
    chunks: int = 1  # parts a micro-batch is cut into since memory ran out
    skipped: int = 0  # last steps in a row whose loss was not finite
    seconds: float = 0.0  # spent over all processes
    epoch_sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def resume_key(recipe: Mapping[str, Any], rows: Any, tiles: Path, processes: int) -> str:
    """Hash of all that decides the weights but the number format: recipe, rows (JSON-able), tiles,
    code, packages, processes. Of a file of weights its content counts, not its path.
    """
    start = Path(recipe["weights"])
    return sha256_json(
        {
            "recipe": {
                **recipe,
                "weights": sha256(start) if start.is_file() else recipe["weights"],
            },
            "rows": rows,
            "tiles": sha256(tiles),
            "code": hash_code(STAGE_CODE["train_image"]),
            "versions": [_version(name) for name in _PACKAGES],
            "processes": processes,
        }
    )[:16]


def _version(package: str) -> str:
    """Empty where it is not installed: some presets of augmentation do without albumentations."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the resume folder against a second process: a killed `dvc` leaves its child running."""
    with locks.locked(folder / "lock", patience=0) as mine:
        if not mine:
            raise InputError(
                f"another process is training this model ({folder}): wait for it, or end it and run"
                " `dvc repro` again"
            )
        yield


def save(folder: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write the state; the previous one stays until the new one is complete."""
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_file(folder / _STATE) as temporary:
        save_file(own, temporary, metadata={"progress": json.dumps(asdict(progress))})


def exists(folder: Path) -> bool:
    """Whether the folder holds a state, usable or not."""
    return (folder / _STATE).is_file()


def load(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """The saved state, or None where there is none or it is damaged (then training starts afresh)."""
    path = folder / _STATE
    if not exists(folder):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            return progress, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, TypeError, ValueError):
        path.unlink()
        return None


def discard(folder: Path) -> None:
    """Remove the state after the result is on disk, and with it states of other keys that were
    given up.

    Given up is what nobody holds and nobody has gone on from for a month: a younger one may be
    wanted again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for state in list(folder.parent.glob(f"*/{_STATE}")):
        # A run that ends meanwhile removes its own; whatever else is in the way, this run's result
        # is not worth less.
        with suppress(OSError, InputError):
            if time.time() - state.stat().st_mtime > _GIVEN_UP:
                with locked(state.parent):
                    shutil.rmtree(state.parent)


def pack_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by `optimiser.PARAMETER.NAME`; rates follow from the step and are not
    kept.
    """
    return {
        f"optimiser.{number}.{name}": torch.as_tensor(value)
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def unpack_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `pack_optimiser`, into the tensors that the optimiser has already.

    Copied, not replaced: files hold values without strides, and fused kernels pair parameter,
    gradient and moments by their place in memory. Under channels last a contiguous moment is an
    error on a GPU and a wrong update on a CPU.
    """
    own = [optimiser.state[one] for group in optimiser.param_groups for one in group["params"]]
    with torch.no_grad():
        for number, state in enumerate(own):
            for name, value in state.items():
                value.copy_(tensors[f"optimiser.{number}.{name}"])
