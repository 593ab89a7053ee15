"""Whether this machine may have a GPU, without the seconds that importing torch takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Device files of NVIDIA's driver, of AMD's, and of both under Windows.
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")


def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """False where torch finds no GPU, by the device files of Linux; else torch has to be asked."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or sys.platform == "darwin":
        return False
    return sys.platform != "linux" or any(any(devices.glob(name)) for name in _DEVICES)
