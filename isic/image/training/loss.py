"""Losses of one logit with soft targets, and mixup."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

#: Least distance between target and probability in focal loss: a few float32 steps below 1.
_NEAR = 1e-6


def per_tile(logits: Tensor, target: Tensor, loss: str, gamma: float, smoothing: float) -> Tensor:
    """Loss of each tile (n,) float32. `target` in [0, 1] may be soft.

    `focal` multiplies the cross entropy by |target - probability| ** gamma: for hard targets that
    of Lin et al. 2017 (arXiv:1708.02002) without its alpha.
    """
    logits, target = logits.float(), target.float()
    target = target * (1 - smoothing) + smoothing / 2
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if loss == "bce":
        return entropy
    # At distance 0 the slope of a power below 1 is infinite and the gradient NaN.
    return entropy * (target - logits.sigmoid()).abs().clamp_min(_NEAR) ** gamma


def mixing(count: int, alpha: float, random: np.random.Generator) -> tuple[Tensor, float]:
    """(partners (n,) int64, share): a mixed tile is `share` of itself and the rest its partner.

    Mixup of Zhang et al. 2018 (arXiv:1710.09412), with one share for the whole batch.
    """
    share = float(random.beta(alpha, alpha))
    return torch.from_numpy(random.permutation(count)), share


def blend(values: Tensor, partners: Tensor, share: float) -> Tensor:
    """`values` (n, …) with each row mixed with its partner's."""
    return torch.lerp(values[partners], values, share)


def group_loss(logits: Tensor, groups: Tensor, partners: Tensor, share: float) -> Tensor:
    """Summed cross entropy of group logits (n, k) with `groups` (n,) and those of the mixup
    `partners`; -1 is unknown and left out.
    """
    own, other = (
        functional.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum")
        for target in (groups, partners)
    )
    return share * own + (1 - share) * other
