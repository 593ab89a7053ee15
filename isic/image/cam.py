"""Grad-CAM maps over tiles, for convolutional and for token networks.

Gradient-weighted class activation mapping (Selvaraju et al., ICCV 2017) by the grad-cam library. A
map marks the regions of the last layer whose activation raises the logit. It is a hint, not an
explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isic.core.errors import InputError
from isic.data.tiles import TileStore
from isic.image.network.artifact import load_model
from isic.image.network.backbone import LesionNet, Spec
from isic.image.network.lean_imports import lean_imports
from isic.image.network.pixels import normalise, pack, resize

#: Side of the returned images, pixels.
SIDE = 160


class Overlay(NamedTuple):
    """JPEG of a tile under a network's map; `empty` when no region raises the logit."""

    jpeg: bytes
    empty: bool


def class_activation(model: Path, tiles: TileStore, ids: Sequence[str]) -> dict[str, Overlay]:
    """isic_id -> the tile under the network's map, without tiles that cannot be read.

    `model` is a fold's folder; `ids` should be of that fold, whose lesions are not in its training
    data.
    """
    loaded = load_model(model)
    images = {isic_id: image for isic_id in ids if (image := _read(tiles, isic_id)) is not None}
    if not images:
        return {}
    canvas, sizes = pack(list(images.values()))
    pixels = resize(canvas, sizes, loaded.spec.size, loaded.spec.interpolation)
    heat = activation_maps(
        loaded.net, loaded.spec, normalise(pixels, loaded.spec.mean, loaded.spec.std)
    )
    return {
        isic_id: Overlay(_overlay(image, heat[index]), not heat[index].any())
        for index, (isic_id, image) in enumerate(images.items())
    }


def activation_maps(net: LesionNet, spec: Spec, pixels: Tensor) -> NDArray[np.float32]:
    """Maps in [0, 1], (n, size, size), of normalised pixels (n, 3, size, size)."""
    with lean_imports():
        from pytorch_grad_cam import GradCAM

    layer, reshape = target_layer(net.backbone, spec, pixels[:1])
    # Loaded networks are frozen, but the map needs gradients of the activations.
    net.requires_grad_(True)
    with GradCAM(_OneLogit(net), [layer], reshape_transform=reshape) as cam:
        return np.asarray(cam(input_tensor=pixels, targets=None), dtype=np.float32)


def target_layer(
    backbone: nn.Module, spec: Spec, pixels: Tensor
) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    """The last layer with a spatial output, and a function from its output to (n, channels, height,
    width), None where it has that shape.

    One forward pass finds it, because layer names differ between families: the last module with a
    spatial output, or the norm before the last attention of token networks. Raises InputError for a
    network without either.
    """
    blocks = getattr(backbone, "blocks", None)
    if hasattr(backbone, "patch_embed") and blocks is not None:
        return blocks[-1].norm1, _tokens_to_map(backbone)
    modules = _spatial_modules(backbone, pixels)
    if not modules:
        raise InputError(
            f"{spec.model} has no layer with a spatial output: no class-activation map for it"
        )
    module, channels_last = modules[-1]
    return module, _channels_first if channels_last else None


def _spatial_modules(backbone: nn.Module, pixels: Tensor) -> list[tuple[nn.Module, bool]]:
    """Modules with an output (n, c, h, w) or (n, h, w, c) larger than 1 x 1, in order of execution,
    and whether its channels come last.
    """
    modules: list[tuple[nn.Module, bool]] = []

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            _, a, b, c = output.shape
            # Maps are square here, so two equal axes are height and width.
            if b == c > 1:
                modules.append((module, False))
            elif a == b > 1:
                modules.append((module, True))

    hooks = [
        module.register_forward_hook(record)
        for module in backbone.modules()
        if module is not backbone
    ]
    with torch.inference_mode():
        backbone(pixels)
    for hook in hooks:
        hook.remove()
    return modules


def _tokens_to_map(backbone: nn.Module) -> Callable[[Tensor], Tensor]:
    prefix = int(getattr(backbone, "num_prefix_tokens", 0))

    def reshape(tokens: Tensor) -> Tensor:
        patches = tokens[:, prefix:]
        side = int(patches.shape[1] ** 0.5)
        return patches.transpose(1, 2).reshape(len(patches), -1, side, side)

    return reshape


def _channels_first(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


class _OneLogit(nn.Module):
    """The network with its logit as the only class, as grad-cam expects."""

    def __init__(self, net: LesionNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)[0][:, None]


def _read(tiles: TileStore, isic_id: str) -> NDArray[np.uint8] | None:
    try:
        return tiles.image(isic_id)
    except InputError:
        return None


def _overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """JPEG of the tile, grey where the map is low and coloured where it is high."""
    base = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = base.mean(axis=2, keepdims=True).repeat(3, axis=2)
    level = cv2.resize(heat, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    colour = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)[
        :, :, ::-1
    ].astype(np.float32)
    strength = 0.6 * level[:, :, None]
    mixed = (1 - strength) * grey + strength * colour
    ok, data = cv2.imencode(
        ".jpg", mixed[:, :, ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 82]
    )
    assert ok
    return bytes(data)
