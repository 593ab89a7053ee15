"""Connection to Ray: the cluster at RAY_ADDRESS, else one started on this machine for the duration
of the call.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isic.core.errors import InputError, redact
from isic.core.parallel import cores

#: Bytes, for a Ray started here. Few suffice: shards are read from shared storage, and a result is
#: one row.
_OBJECT_STORE_BYTES = 256 << 20


@contextmanager
def connected() -> Iterator[Any]:
    """The ray module, connected, and disconnected afterwards. An existing connection is reused and
    stays open.

    Raises InputError when ray is not installed or no cluster answers at RAY_ADDRESS.
    """
    ray = _import()
    if ray.is_initialized():
        yield ray
        return
    try:
        _connect(ray, os.environ.get("RAY_ADDRESS"))
        yield ray
    finally:
        ray.shutdown()


def _import() -> Any:
    # Disables usage reports; Ray reads the variable at import.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "ray is not installed: `make setup-scale`, or pip install 'isic[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not address:
        ray.init(
            address="local",
            num_cpus=cores(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = redact(" ".join(str(error).split()))[:160]
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS={redact(address)} ({reason}): check it, or"
            " unset it"
        ) from error


def driver_node(ray: Any) -> Any:
    """Scheduling strategy that keeps an actor on the driver's node, so that it lives as long as the
    run.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
