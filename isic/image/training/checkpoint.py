"""Resume state: a safetensors file of all tensors, with all numbers in its header. Written
atomically.

Its path is `.resume/STAGE/NAME/KEY-PRECISION`, where KEY is a hash of all other inputs of the
result. So a changed input starts training anew, and the former input resumes its own state (for a
month: see `discard`). DVC deletes outputs before a stage runs, so states are no outputs (its
#9221).
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
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from isic.core import locks
from isic.core.code import STAGE_CODE, hash_code
from isic.core.errors import InputError
from isic.core.io import atomic_file, sha256, sha256_json, typed
from isic.image.training.start import starting_weights

_STATE = "state.safetensors"
#: Packages that decide the weights: they train, build networks, decode, resize, augment.
_PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "albumentations")
#: Seconds after its last save when a state is abandoned.
_ABANDONED = 30 * 24 * 3600


_Count = Annotated[int, Field(ge=0)]


@dataclass
class Progress:
    """Position of a run after an optimiser step, and its measurements so far."""

    epoch: _Count = 0
    micro: _Count = 0  # micro-batches done of this epoch
    step: _Count = 0  # optimiser steps done in all
    chunks: Annotated[int, Field(ge=1)] = 1  # parts of a micro-batch
    skipped: _Count = 0  # last consecutive steps without a finite loss
    seconds: Annotated[float, Field(ge=0)] = 0.0  # of all processes so far
    epoch_sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def resume_key(recipe: Mapping[str, Any], rows: Any, tiles: Path, processes: int) -> str:
    """Hash of all that decides the weights except the number format: recipe, rows (JSON-able),
    tiles, code, packages, processes. A file of weights is hashed by content, not by path.
    """
    start = Path(starting_weights(recipe["model"], recipe["weights"]))
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
    """Empty if not installed: some augmentation presets do not need albumentations."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the resume folder. Raises InputError if another process has it: a killed `dvc` leaves
    its child running.
    """
    with locks.locked(folder / "lock", patience=0) as acquired:
        if not acquired:
            raise InputError(
                f"another process is training this model ({folder}): wait for it, or end it and run"
                " `dvc repro` again"
            )
        yield


def save(folder: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write the state; the previous one is kept until the new one is complete."""
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_file(folder / _STATE) as temporary:
        save_file(own, temporary, metadata={"progress": json.dumps(asdict(progress))})


def exists(folder: Path) -> bool:
    """Whether the folder holds a state, usable or not."""
    return (folder / _STATE).is_file()


def load(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """The saved state; None if there is none or it is damaged (it is deleted then)."""
    path = folder / _STATE
    if not exists(folder):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = typed(Progress, json.loads(file.metadata()["progress"]))
            return progress, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, OSError):
        # Each process of a run reads it; the first state that is saved takes its place.
        return None


def discard(folder: Path) -> None:
    """Remove the state of a finished run, and abandoned states of other keys.

    A state is abandoned when no process has locked it and it was not saved for a month.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for state in list(folder.parent.glob(f"*/{_STATE}")):
        # Another run may remove its own state meanwhile, and no error here may fail this run.
        with suppress(OSError, InputError):
            if time.time() - state.stat().st_mtime > _ABANDONED:
                with locked(state.parent):
                    shutil.rmtree(state.parent)


def pack_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by `optimiser.PARAMETER.NAME`, without rates, which follow from the
    step.
    """
    return {
        f"optimiser.{index}.{name}": torch.as_tensor(value)
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def unpack_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `pack_optimiser`, into the existing tensors of the optimiser.

    Copied, not replaced: files store values without strides, and fused kernels match the elements
    of parameter, gradient and moments by memory order. Under channels last a contiguous moment
    raises an error on a GPU and gives a wrong update on a CPU.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            for name, value in optimiser.state[parameter].items():
                value.copy_(tensors[f"optimiser.{index}.{name}"])
