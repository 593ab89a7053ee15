"""Losses on one logit with soft targets, and mixup, which makes them soft."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def per_tile(logits: Tensor, target: Tensor, loss: str, gamma: float, smoothing: float) -> Tensor:
    """Loss of each tile (n,) float32. `target` in [0, 1] may be soft.

    `focal` weighs the cross entropy by the distance between target and probability to the power gamma, which for hard
    targets is Lin et al. 2017 (arXiv:1708.02002) without its alpha.
    """
    logits, target = logits.float(), target.float()
    target = target * (1 - smoothing) + smoothing / 2
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if loss == "bce":
        return entropy
    return entropy * (target - logits.sigmoid()).abs() ** gamma


def mixup(pixels: Tensor, target: Tensor, alpha: float, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend every tile with another of the batch, both pixels and target (Zhang et al. 2018, arXiv:1710.09412)."""
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(pixels))).to(pixels.device)
    return torch.lerp(pixels[other], pixels, share), torch.lerp(target[other], target, share)
