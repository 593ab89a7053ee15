"""Losses on one logit with soft targets, and mixup, which makes them soft."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

#: Least distance from the target that focal loss weighs: a few steps of float32 below a probability
#: of 1.
_NEAR = 1e-6


def per_tile(logits: Tensor, target: Tensor, loss: str, gamma: float, smoothing: float) -> Tensor:
    """Loss of each tile (n,) float32. `target` in [0, 1] may be soft.

    `focal` weighs the cross entropy by the distance between target and probability to the power
    gamma, which for hard targets is Lin et al. 2017 (arXiv:1708.02002) without its alpha.
    """
    logits, target = logits.float(), target.float()
    target = target * (1 - smoothing) + smoothing / 2
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if loss == "bce":
        return entropy
    # Where the probability meets the target, a power below 1 has no finite slope and the gradient
    # would be NaN.
    return entropy * (target - logits.sigmoid()).abs().clamp_min(_NEAR) ** gamma


def mixing(count: int, alpha: float, random: np.random.Generator) -> tuple[Tensor, float]:
    """(partners (n,) int64, share): every tile keeps `share` of itself and takes the rest of its
    partner.

    Mixup by Zhang et al. 2018 (arXiv:1710.09412), with one share for the whole batch.
    """
    share = float(random.beta(alpha, alpha))
    return torch.from_numpy(random.permutation(count)), share


def blend(values: Tensor, partners: Tensor, share: float) -> Tensor:
    """`values` (n, …) with each row mixed with its partner's."""
    return torch.lerp(values[partners], values, share)


def group_loss(guesses: Tensor, groups: Tensor, partners: Tensor, share: float) -> Tensor:
    """Summed cross entropy of group logits (n, k) with groups (n,), -1 where unknown, and with
    their partners'.
    """
    own, other = (
        functional.cross_entropy(guesses.float(), wanted, ignore_index=-1, reduction="sum")
        for wanted in (groups, partners)
    )
    return share * own + (1 - share) * other
