"""The machine's side of training: device, number format, memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

#: Number formats of training.
PRECISIONS = ("bf16", "fp16", "fp32")


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


def has_precision(precision: str, device: torch.device) -> bool:
    """Whether the device trains in `precision` at a useful pace: GPUs before Ampere only emulate bf16."""
    return precision != "bf16" or device.type == "cpu" or torch.cuda.get_device_capability(device)[0] >= 8


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which matrix products run in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.amp.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Gradient scaler; passes values through unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: torch says so by type on a GPU, by words on a CPU and inside NVIDIA's libraries."""
    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory held on the GPU since the last call, in GB; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return peak


#: Fused multiply-adds in 16 bits per multiprocessor and clock of NVIDIA's generations (its white papers).
_PER_CLOCK = {6: 128, 7: 512, 8: 1024, 9: 2048}
#: Desktop and inference chips of a generation have half of what its data-centre chip has.
_SMALLER = {(8, 6): 512, (8, 7): 512, (8, 9): 512, (12, 0): 512}
#: Typical clock, Hz, and what training gets out of the peak.
_CLOCK, _USED = 1.4e9, 0.32


def effective_tflops(multiprocessors: int, capability: tuple[int, int]) -> float:
    """Estimated 16-bit tera-operations a second that training gets out of a GPU: 100 on an A100, 18 on a T4."""
    per_clock = _SMALLER.get(capability, _PER_CLOCK.get(capability[0], 2048))
    return multiprocessors * per_clock * 2 * _CLOCK * _USED / 1e12


def gpu_tflops() -> float | None:
    """`effective_tflops` of this machine's GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return effective_tflops(found.multi_processor_count, (found.major, found.minor))


def describe_devices() -> list[str]:
    """One phrase per GPU, such as `NVIDIA T4, 15.8 GB`; empty without one."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [f"{device.name}, {device.total_memory / 1e9:.1f} GB" for device in found]
