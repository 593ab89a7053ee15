"""The machine's side of training: device, number format, memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from isic.core.errors import InputError

_T = TypeVar("_T")

#: Number formats of training.
PRECISIONS = ("bf16", "fp16", "fp32")


def pick() -> torch.device:
    """The GPU where there is one, else the CPU. Raises InputError for a GPU that this torch has no
    kernels for.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    fault = missing_kernels(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
    if fault:
        raise InputError(f"{torch.cuda.get_device_name()}: {fault}")
    return torch.device("cuda")


def missing_kernels(capability: tuple[int, int], compiled: Sequence[str]) -> str:
    """What to do where torch's kernels, such as `sm_80` or `compute_90`, do not run on a GPU; ""
    where some do.

    Machine code runs on its own major capability from its minor one on, intermediate code on any
    later GPU.
    """
    for name in compiled:
        kind, _, digits = name.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        major, minor = divmod(int(number[0]), 10)
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return ""
        if kind == "compute" and (major, minor) <= capability:
            return ""
    lowest = ", ".join(compiled) or "no GPU"
    return (
        f"this torch has kernels for {lowest} and not for sm_{capability[0]}{capability[1]}: choose"
        " another GPU, install a torch built for it, or hide it (CUDA_VISIBLE_DEVICES=) to use"
        " the CPU"
    )


def unseen_gpu(devices: Path = Path("/dev")) -> str:
    """What to do where the machine has an NVIDIA GPU that torch does not see; "" where all is well."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if hidden or torch.cuda.is_available() or not list(devices.glob("nvidia[0-9]*")):
        return ""
    if torch.version.cuda is None:
        return "there is a GPU, and this torch is built for CPUs: install a build for CUDA"
    return (
        "there is a GPU that torch does not see: its driver may be too old for CUDA"
        f" {torch.version.cuda} (nvidia-smi names its newest): renew the driver, or install a torch"
        " for an older CUDA"
    )


def pick_precision(wanted: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`: `auto` is fp32 on a CPU, bf16 on GPUs that have it (Ampere on),
    else fp16.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def has_precision(precision: str, device: torch.device) -> bool:
    """Whether the device trains in `precision` at a useful pace: GPUs before Ampere only emulate
    bf16.
    """
    return (
        precision != "bf16"
        or device.type == "cpu"
        or torch.cuda.get_device_capability(device)[0] >= 8
    )


def scoring_precision(wanted: str, device: torch.device) -> str:
    """Number format in which a model that wants `wanted` is scored here: a CPU has fp32 alone, at a
    useful pace.
    """
    return wanted if device.type != "cpu" and has_precision(wanted, device) else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which matrix products run in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.amp.autocast(
        device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16
    )


def scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Gradient scaler; passes values through unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` (on the CPU) on the device, without waiting for a GPU's earlier work.

    A GPU copies on its own from page-locked memory alone; for anything else the CPU waits.
    """
    if device.type == "cuda" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Fetched:
    """Values on their way from the device to the CPU, so that the CPU can wait for them alone.

    `Tensor.cpu` would wait for everything that was queued after them as well.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._values = values
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def numpy(self) -> NDArray[Any]:
        """The values, waiting for them if need be."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.numpy()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: torch says so by type on a GPU, by words on a CPU and inside
    NVIDIA's libraries.
    """
    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def split_until_it_fits(
    forward: Callable[[int, int], _T], count: int, most: int
) -> tuple[list[_T], int]:
    """`forward(start, most)` of consecutive parts of `count` rows, smaller ones where memory runs
    out.

    Returns the results and the number of rows that fits. Raises InputError when one row does not.
    """
    done: list[_T] = []
    start = 0
    while start < count:
        try:
            done.append(forward(start, most))
            start += most
            continue
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if most == 1:
                raise InputError(
                    "one tile at a time does not fit in GPU memory: end what else runs on this GPU"
                ) from error
        # Outside the handler: the exception's traceback holds the tensors that have to go.
        most = -(-most // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return done, most


@contextmanager
def exact_products() -> Iterator[None]:
    """Context in which float32 products of a GPU keep all their bits.

    TF32 keeps ten of them, which moves a logit by up to 2e-3. On a CPU nothing changes.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def configure_backends(device: torch.device) -> None:
    """Settings of training on a GPU: TF32 for products in float32, the fastest kernel of each
    convolution.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory held on the GPU since the last call, in GB; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return peak


#: Fused multiply-adds in 16 bits per multiprocessor and clock of NVIDIA's generations (its white
#: papers).
_PER_CLOCK = {6: 128, 7: 512, 8: 1024, 9: 2048}
#: Desktop and inference chips of a generation have half of what its data-centre chip has.
_SMALLER = {(8, 6): 512, (8, 7): 512, (8, 9): 512, (12, 0): 512}
#: Typical clock, Hz, and what training gets out of the peak.
_CLOCK, _USED = 1.4e9, 0.32


def effective_tflops(multiprocessors: int, capability: tuple[int, int]) -> float:
    """Estimated 16-bit tera-operations a second that training gets out of a GPU: 100 on an A100, 18
    on a T4.
    """
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
    found = [
        torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())
    ]
    return [f"{device.name}, {device.total_memory / 1e9:.1f} GB" for device in found]
