"""Device, number format and memory of this machine."""

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
    """The GPU if there is one, else the CPU. Raises InputError for a GPU without kernels in this
    torch.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    fault = missing_kernels(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
    if fault:
        raise InputError(f"{torch.cuda.get_device_name()}: {fault}")
    return torch.device("cuda")


def missing_kernels(capability: tuple[int, int], compiled: Sequence[str]) -> str:
    """Error and remedy if none of torch's kernels, such as `sm_80` or `compute_90`, runs on a GPU
    of this capability; else "".

    Machine code (sm) runs on GPUs of the same major and the same or a later minor capability,
    intermediate code (compute) on all later GPUs.
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
    names = ", ".join(compiled) or "no GPU"
    return (
        f"this torch has kernels for {names} and not for sm_{capability[0]}{capability[1]}: choose"
        " another GPU, install a torch built for it, or hide it (CUDA_VISIBLE_DEVICES=) to use"
        " the CPU"
    )


def unseen_gpu(devices: Path = Path("/dev")) -> str:
    """Error and remedy if the machine has an NVIDIA GPU that torch cannot use; else ""."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if hidden or torch.cuda.is_available() or not list(devices.glob("nvidia[0-9]*")):
        return ""
    if torch.version.cuda is None:
        return "there is a GPU, but this torch is built for CPUs: install a build for CUDA"
    return (
        "there is a GPU that torch cannot use: its driver may be too old for CUDA"
        f" {torch.version.cuda} (nvidia-smi prints the newest it supports): update the driver, or"
        " install a torch for an older CUDA"
    )


def pick_precision(wanted: str, device: torch.device) -> str:
    """`wanted`, or for `auto`: fp32 on a CPU, bf16 on GPUs from Ampere on, else fp16."""
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def has_precision(precision: str, device: torch.device) -> bool:
    """Whether the device trains in `precision` at full speed: GPUs before Ampere emulate bf16."""
    return (
        precision != "bf16"
        or device.type == "cpu"
        or torch.cuda.get_device_capability(device)[0] >= 8
    )


def scoring_precision(wanted: str, device: torch.device) -> str:
    """Number format for scores on this device by a model in format `wanted`: fp32 on a CPU, which
    is slow in the others.
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
    """Gradient scaler, without effect unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy `values` from the CPU to the device, without a wait for the GPU's queued work.

    The copy is asynchronous from page-locked memory only.
    """
    if device.type == "cuda" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Fetched:
    """An asynchronous copy of values from the device to the CPU.

    `Tensor.cpu` also waits for work queued before the call; this waits for the values only.
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
        """The values, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.numpy()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed. The type of the error shows it on a GPU, the text on a CPU and
    in NVIDIA's libraries.
    """
    texts = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def split_until_it_fits(
    forward: Callable[[int, int], _T], count: int, most: int
) -> tuple[list[_T], int]:
    """Call `forward(start, most)` for consecutive parts of `count` rows, with half of `most` when
    memory runs out.

    Returns the results and the number of rows that fit. Raises InputError when one row does not.
    """
    results: list[_T] = []
    start = 0
    while start < count:
        try:
            results.append(forward(start, most))
            start += most
            continue
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if most == 1:
                raise InputError(
                    "one tile at a time does not fit in GPU memory: end other programs on this GPU"
                ) from error
        # Outside the handler, because the exception's traceback keeps tensors alive.
        most = -(-most // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results, most


@contextmanager
def exact_products() -> Iterator[None]:
    """Context without TF32: float32 products of a GPU keep all their bits.

    TF32 keeps ten of them, which changes a logit by up to 2e-3. No effect on a CPU.
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
#: Desktop and inference chips, with half the rate of their generation's data-centre chip.
_SMALLER = {(8, 6): 512, (8, 7): 512, (8, 9): 512, (12, 0): 512}
#: Typical clock, Hz, and share of the peak that training reaches.
_CLOCK, _USED = 1.4e9, 0.32


def effective_tflops(multiprocessors: int, capability: tuple[int, int]) -> float:
    """Estimated 16-bit tera-operations per second in training: 100 on an A100, 18 on a T4."""
    per_clock = _SMALLER.get(capability, _PER_CLOCK.get(capability[0], 2048))
    return multiprocessors * per_clock * 2 * _CLOCK * _USED / 1e12


def gpu_tflops() -> float | None:
    """`effective_tflops` of this machine's GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(0)
    return effective_tflops(gpu.multi_processor_count, (gpu.major, gpu.minor))


def describe_devices() -> list[str]:
    """Name and memory of each GPU, such as `NVIDIA T4, 15.8 GB`; empty without one."""
    if not torch.cuda.is_available():
        return []
    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{gpu.name}, {gpu.total_memory / 1e9:.1f} GB" for gpu in gpus]
