"""Resources that a worker requests from a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isic.core.errors import InputError


@dataclass(frozen=True)
class Resources:
    """CPU cores, GPUs, and gigabytes of memory (None: no request) of one worker."""

    cpus: float = 1
    gpus: float = 0
    memory_gb: float | None = None

    def as_options(self) -> dict[str, Any]:
        """As options of a Ray task. Raises InputError for zero CPUs and negative amounts."""
        if self.cpus <= 0 or self.gpus < 0 or (self.memory_gb is not None and self.memory_gb <= 0):
            raise InputError(
                "a worker needs CPUs above 0, GPUs of 0 or more, and memory above 0: check --cpus,"
                " --gpus, --memory-gb"
            )
        memory = {} if self.memory_gb is None else {"memory": int(self.memory_gb * 1e9)}
        return {"num_cpus": self.cpus, **({"num_gpus": self.gpus} if self.gpus else {}), **memory}
