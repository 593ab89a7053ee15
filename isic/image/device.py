"""The machine's side of training: device, number format, memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def pick() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(wanted: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`: `auto` is fp32 on a CPU, bf16 on GPUs that have it (Ampere on), else fp16."""
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which matrix products run in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.amp.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Gradient scaler; passes values through unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory held on the GPU since the last call, in GB; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def describe_devices() -> list[str]:
    """One phrase per GPU, such as `NVIDIA T4, 15.8 GB`; empty without one."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [f"{device.name}, {device.total_memory / 1e9:.1f} GB" for device in found]
