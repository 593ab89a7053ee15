"""An image fold on disk: model.safetensors, config.json, history.csv. No pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save_file

from isic.core.errors import InputError, faulty_key
from isic.core.io import atomic_dir, read_json, require, typed, write_json
from isic.image.network.backbone import LesionNet, Spec, rebuild

WEIGHTS, CONFIG, HISTORY = "model.safetensors", "config.json", "history.csv"


class _Prediction(BaseModel):
    """Keys of config.json for prediction, beside the network's Spec."""

    tta: Literal["none", "flips"]
    #: Older models have no such key: they were scored in fp32.
    scoring_precision: Literal["fp32", "fp16", "bf16"] = "fp32"


class Model(NamedTuple):
    """A trained network in evaluation mode, with its settings for prediction."""

    net: LesionNet
    spec: Spec
    tta: str
    precision: str = "fp32"  # number format for its scores


def save_model(
    folder: Path,
    net: LesionNet,
    spec: Spec,
    extra: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write a fold's folder atomically; `extra` is added to config.json (at least `tta`)."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with atomic_dir(folder) as temporary:
        save_file(state, temporary / WEIGHTS)
        write_json(temporary / CONFIG, {**spec.as_dict(), **extra})
        pd.DataFrame(list(history)).to_csv(temporary / HISTORY, index=False)


def load_model(folder: Path) -> Model:
    """Load a fold's network on the CPU; InputError when a file is missing or invalid."""
    folder = Path(folder)
    config = read_json(
        require(
            folder / CONFIG,
            "image model",
            "run `dvc repro`, or `dvc pull` if it was made elsewhere",
        )
    )
    weights = require(
        folder / WEIGHTS, "image weights", "run `dvc repro`, or `dvc pull` if it was made elsewhere"
    )
    try:
        spec, prediction = typed(Spec, config), typed(_Prediction, config)
        net = rebuild(spec)
        net.load_state_dict(load_file(weights))
    except (InputError, MemoryError, OSError):
        raise
    except ValidationError as error:
        raise InputError(
            f"{folder / CONFIG} has no usable `{faulty_key(error)}`: rerun its training stage"
        ) from error
    except Exception as error:
        # timm's models raise different exceptions for wrong arguments.
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{folder} does not hold a complete image model ({reason}): rerun its training stage"
        ) from error
    return Model(
        net.eval().requires_grad_(False), spec, prediction.tta, prediction.scoring_precision
    )
