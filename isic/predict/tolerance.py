"""Tolerances for logits of one network between number formats and devices.

A tolerance is the bound at which scoring in a format is accepted, per unit of the logits' standard
deviation where that is above 1. One H100 measured less (benchmarks/results/image_h100.json); other
GPUs were not measured. docs/training.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: Largest difference of a logit from float32 on a CPU by number format of a GPU; an H100 measured
#: 2.4e-6, 1.4e-3 and 1.5e-2.
GPU_TOLERANCE = {"fp32": 2e-5, "fp16": 2e-2, "bf16": 1e-1}
#: Tolerance of a network scored on CPUs only, in a bundle whose other networks were not.
CPU_LOGITS = 1e-5
#: Part of the name of the measured device.
_MEASURED = "H100"


class Origin(NamedTuple):
    """Number format and device of logits; the default applies to files without them."""

    precision: str = "fp32"
    device: str = "CPU"

    @property
    def tolerance(self) -> float:
        """Largest difference from float32 on a CPU; 0 for that format and device."""
        if self.device == "CPU":
            return 0.0
        return GPU_TOLERANCE.get(self.precision, GPU_TOLERANCE["fp32"])

    def text(self) -> str:
        """Text such as `fp16 on NVIDIA T4 (not measured)`."""
        name = self.device.split(",")[0]
        unknown = self.device != "CPU" and _MEASURED not in self.device
        return f"{self.precision} on {name}{' (not measured)' if unknown else ''}"


def origin_of(attributes: Mapping[str, str]) -> Origin:
    """The origin in the attributes of a file of logits; the default without them."""
    return Origin(attributes.get("precision", "fp32"), attributes.get("device", "CPU"))


def pair_tolerance(stored: Origin, here: Origin) -> float:
    """Tolerance of a logit between two origins."""
    return stored.tolerance + here.tolerance or CPU_LOGITS
