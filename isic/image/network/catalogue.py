"""Backbones by short name: timm model and cost. Imports no torch, so that `isic models` starts
fast.

Multiply-adds and values kept for the backward pass were counted by torch's FlopCounterMode and
saved_tensors_hooks on one tile of the native size (timm 1.0.31, torch 2.13.0). Memory and speed are
estimates computed from them; `benchmarks/image.py` measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: bf16 training keeps most values in 2 bytes, norms and losses in 4.
_BYTES = 3.0
#: 16-bit tera-operations a second that training reaches on an A100; its peak is 312.
_GPU_TFLOPS = 100.0
#: Operations per multiply-add of the forward pass: two, and twice as many in the backward pass.
_OPERATIONS = 6
#: Operations in the time of moving a kept value in and out of memory, about 13 times in a step.
#: These transfers bound convolutional networks: by arithmetic alone they would be three to ten
#: times as fast.
MOVED = 2500.0


@dataclass(frozen=True)
class Entry:
    """One backbone: timm tag, native side in px, embedding width; counts per tile of that size."""

    name: str
    tag: str
    size: int
    width: int
    parameters_m: float
    gmacs: float
    kept_m: float
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def memory_mb(self) -> float:
        """Estimated memory per tile of a training batch, MB. Weights and optimiser take 16 bytes a
        parameter more.
        """
        return self.kept_m * _BYTES

    @property
    def images_per_second(self) -> float:
        """Estimated training speed on an A100, tiles a second, if tiles load fast enough."""
        return 1 / self.seconds_per_tile(self.size, _GPU_TFLOPS)

    def seconds_per_tile(self, size: int, effective_tflops: float, moved: float = MOVED) -> float:
        """Estimated training time per tile of `size` px: arithmetic and memory transfers, both
        proportional to the area.
        """
        work = _OPERATIONS * self.gmacs + self.kept_m * moved / 1e3
        return work * (size / self.size) ** 2 / (effective_tflops * 1e3)


_ENTRIES = (
    Entry("vit_tiny", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", 224, 192, 5.5, 1.07, 7.5),
    Entry("vit_small", "vit_small_patch16_224.augreg_in21k_ft_in1k", 224, 384, 21.7, 4.24, 14.8),
    Entry("vit_base", "vit_base_patch16_224.augreg2_in21k_ft_in1k", 224, 768, 85.8, 16.85, 29.4),
    Entry("eva02_small", "eva02_small_patch14_336.mim_in22k_ft_in1k", 336, 384, 21.7, 12.38, 52.8),
    Entry("eva02_base", "eva02_base_patch14_224.mim_in22k", 224, 768, 85.8, 21.94, 53.1),
    # Fine-tuned on labels at 448 px; the network is that of the line above at 224 px.
    Entry(
        "eva02_base_in1k",
        "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k",
        224,
        768,
        85.8,
        21.94,
        53.1,
        {"img_size": 224},
    ),
    Entry("convnextv2_nano", "convnextv2_nano.fcmae_ft_in22k_in1k", 224, 640, 15.0, 2.44, 26.4),
    Entry("convnextv2_tiny", "convnextv2_tiny.fcmae_ft_in22k_in1k", 224, 768, 27.9, 4.45, 42.4),
    Entry("convnext_tiny", "convnext_tiny.in12k_ft_in1k", 224, 768, 27.8, 4.45, 27.3),
    Entry("edgenext_base", "edgenext_base.in21k_ft_in1k", 256, 584, 17.9, 3.83, 31.8),
    Entry("efficientnet_b0", "efficientnet_b0.ra_in1k", 224, 1280, 4.0, 0.38, 22.1),
    Entry("swinv2_tiny", "swinv2_tiny_window8_256.ms_in1k", 256, 768, 27.6, 5.94, 48.7),
    Entry("demo_vit", "test_vit", 48, 64, 0.3, 0.01, 0.2, {"patch_size": 8}),
    Entry("demo_convnext", "test_convnext", 48, 64, 0.2, 0.01, 0.5, {"patch_size": 2}),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def resolve(model: str, model_args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(timm name, timm arguments) for a catalogue name or, unchanged, for any other timm name."""
    entry = CATALOGUE.get(model)
    if entry is None:
        return model, dict(model_args)
    return entry.tag, {**entry.model_args, **model_args}


def table_lines() -> Iterator[str]:
    """The catalogue as lines of a table."""
    yield (
        f"{'name':<17}{'timm model':<45}{'px':>4}{'width':>7}{'M par.':>8}{'MB/tile':>9}{'tiles/s':>9}"
    )
    for entry in CATALOGUE.values():
        # The time of tiny networks is that of launching kernels, not of arithmetic.
        speed = f"{entry.images_per_second:>9,.0f}" if entry.gmacs >= 0.3 else f"{'-':>9}"
        yield (
            f"{entry.name:<17}{entry.tag:<45}{entry.size:>4}{entry.width:>7}{entry.parameters_m:>8.1f}"
            f"{entry.memory_mb:>9.0f}{speed}"
        )
    yield (
        "Estimates: MB per tile of a training batch in bf16, tiles a second on a GPU such as the"
        " A100."
    )
    yield "Any other timm model can be used by its name: timm.list_models()."
