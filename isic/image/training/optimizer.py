"""Optimiser, schedule and averaged weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from isic.image.network.backbone import LesionNet, parameter_groups


def make_optimiser(
    net: LesionNet,
    lr: float,
    head_lr: float | None,
    layer_decay: float | None,
    weight_decay: float,
    fused: bool,
) -> torch.optim.AdamW:
    """AdamW with the peak rate of each group in `peak`, for `set_rate`."""
    groups = parameter_groups(net, weight_decay, layer_decay)
    for group in groups:
        base = head_lr if group.pop("head") and head_lr is not None else lr
        group["peak"] = base * group.pop("scale")
        group["lr"] = group["peak"]
    optimiser = torch.optim.AdamW(groups, lr=lr, fused=fused, foreach=not fused)
    _allocate(optimiser, fused)
    return optimiser


def _allocate(optimiser: torch.optim.AdamW, fused: bool) -> None:
    """Allocate both moments, as AdamW does in its first step.

    A first step that runs out of memory would leave some moments allocated and could not be
    repeated. Moments have the strides of their parameter, as fused kernels require (channels last).
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            device = parameter.device if fused else torch.device("cpu")
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def rate(step: int, steps: int, schedule: str, warmup: float, floor: float) -> float:
    """Share of the peak rate at a step: a rise over `warmup * steps`, then a fall to `floor`.

    `cosine` rises linearly and falls by a cosine; `onecycle` does both by a cosine, from 1/25
    (Smith & Topin 2018, arXiv:1708.07120); `constant` does not fall.
    """
    rise = round(warmup * steps)
    if step < rise:
        share = (step + 1) / rise
        return (
            share if schedule != "onecycle" else 0.04 + 0.96 * (1 - math.cos(math.pi * share)) / 2
        )
    if schedule == "constant":
        return 1.0
    share = (step - rise) / max(1, steps - 1 - rise)
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def set_rate(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set every group's rate to `share` of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share


class EMA:
    """Exponential moving average of the weights, in a network of its own.

    The decay grows as (1 + step) / (10 + step) up to `decay`: with some twenty steps an epoch, a
    fixed .999 keeps the random start for many epochs (a published convnextv2_nano with .999 had
    pAUC .146 on one fold, with .995 and warm-up .163, without .156).
    """

    def __init__(self, net: LesionNet, decay: float) -> None:
        self.decay = decay
        self.net = copy.deepcopy(net).requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.net.parameters()), list(net.parameters()), 1 - decay)
        for average, current in zip(self.net.buffers(), net.buffers(), strict=True):
            average.copy_(current)
