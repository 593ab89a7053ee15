"""Backbones by a short name: which timm model, what it costs. Read without torch, so that `isic models` is quick.

Memory and speed are estimates, not measurements: from parameter counts and the multiply-adds of one forward pass at
the native size, for bf16 training on a GPU of about 100 effective TFLOP/s. `benchmarks/image.py` measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Multiply-adds count two operations, a backward pass costs two forward passes; effective, not peak.
_EFFECTIVE_TFLOPS = 100.0


@dataclass(frozen=True)
class Entry:
    """One backbone: timm tag, native side in px, embedding width, forward multiply-adds and activations per tile."""

    name: str
    tag: str
    size: int
    width: int
    parameters_m: float
    gmacs: float
    activations_m: float
    model_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def memory_mb(self) -> float:
        """Estimated training memory per tile in MB: activations kept in bf16, about 2.5 tensors per counted one."""
        return self.activations_m * 2 * 2.5

    @property
    def images_per_second(self) -> float:
        """Estimated training speed on such a GPU."""
        return _EFFECTIVE_TFLOPS * 1e3 / (6 * self.gmacs)


_ENTRIES = (
    Entry("demo_vit", "test_vit", 64, 64, 0.27, 0.017, 0.3, {"patch_size": 8}),
    Entry("demo_convnext", "test_convnext", 64, 64, 0.21, 0.01, 0.2),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def resolve(model: str, model_args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(timm name, timm arguments) for a catalogue name or, unchanged, for any other timm name."""
    entry = CATALOGUE.get(model)
    if entry is None:
        return model, dict(model_args)
    return entry.tag, {**entry.model_args, **model_args}
