"""Estimated time of scoring tiles by the catalogue's networks, by GPU and number format.

From named constants, not measured on these GPUs. Where an H100 measured both, the constants give
its forward passes to within a factor of two (tested).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from isic.image.network.catalogue import CATALOGUE, MOVED, Entry

#: Assumed size of the hidden test set: more than the training set.
HIDDEN_ROWS = 500_000
#: GPUs of a Kaggle notebook, each a T4.
KAGGLE_GPUS = 2
#: A forward pass takes about a third of a training step (an H100 measured .31 and .27).
FORWARD = 1 / 3
#: Share of the speed of forward passes that embedding reaches with the start of its loaders (an
#: H100 measured .71 in fp16).
EMBEDDED = 0.7
#: Networks below this many GMACs are bound by launching kernels, so that no constant holds.
_LEAST_GMACS = 0.3
#: Forward passes of a tile in each mode of test-time augmentation.
VIEWS = {"none": 1, "flips": 4}


class Speed(NamedTuple):
    """Tera-operations a second that training gets out of a GPU, and operations that it could do
    while it moves a kept value (`catalogue.MOVED`).
    """

    tflops: float
    moved: float = MOVED


def speeds(tflops: float, tflops32: float) -> dict[str, Speed]:
    """Speeds by number format of a GPU with these 16-bit and 32-bit tera-operations a second.

    A value of 32 bits takes twice as long to move, whatever the arithmetic.
    """
    wide = Speed(tflops32, 2 * MOVED * tflops32 / tflops)
    return {"fp16": Speed(tflops), "bf16": Speed(tflops), "fp32": wide}


#: A third of the peaks: 65 and 8.1 tera-operations of a T4, 312 and 19.5 of an A100 (NVIDIA's data
#: sheets). A T4 has no bf16: such networks are scored in fp32 there.
A100 = speeds(100.0, 6.5)
T4 = {name: speed for name, speed in speeds(18.0, 2.7).items() if name != "bf16"}


class ScoredNetwork(NamedTuple):
    """A network that scores tiles: catalogue or timm name, side in px (None: the model's own),
    number format of its scores, test-time augmentation.
    """

    model: str
    size: int | None
    precision: str = "fp16"
    tta: str = "none"


def catalogue_entry(model: str) -> Entry | None:
    """The catalogue's entry of a model by its short or its timm name; None where it has none."""
    return CATALOGUE.get(model) or next(
        (entry for entry in CATALOGUE.values() if entry.tag == model), None
    )


def seconds_per_tile(network: ScoredNetwork, gpu: Mapping[str, Speed]) -> float | None:
    """Estimated seconds to score a tile on one GPU; None without constants for the network."""
    entry = catalogue_entry(network.model)
    if entry is None or entry.gmacs < _LEAST_GMACS:
        return None
    speed = gpu[network.precision if network.precision in gpu else "fp32"]
    step = entry.seconds_per_tile(network.size or entry.size, speed.tflops, speed.moved)
    return step * FORWARD * VIEWS[network.tta] / EMBEDDED


def kaggle_seconds(networks: Sequence[ScoredNetwork]) -> float | None:
    """Estimated seconds to score one lesion by all `networks` on Kaggle's GPUs; None without
    constants for one of them.
    """
    each = [seconds_per_tile(network, T4) for network in networks]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known) / KAGGLE_GPUS if len(known) == len(each) else None
