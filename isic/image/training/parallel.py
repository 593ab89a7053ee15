"""One model trained by one process or by several (Lightning Fabric); the training loop uses the
same interface, `ProcessGroup`, for both.

One fold per GPU (`make folds GPUS=4`) is faster, because nothing is exchanged. Several processes
are for models or batches that do not fit one GPU. Fabric is imported only here and only for
several.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import Empty
from typing import Any, Protocol

import torch
from torch import Tensor

from isic.core.errors import InputError, error_line
from isic.image.network import device as machine

#: Seconds to wait for the error of a process that died.
_ERROR_SECONDS = 10.0


class ProcessGroup(Protocol):
    """The processes that train one model, as one of them uses them.

    `rank` of this process among `size`; `local_size` of them run on this machine.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device

    def wrap(self, net: Any) -> Any:
        """The network whose backward pass averages gradients over all processes."""

    def no_sync(self, net: Any, enabled: bool) -> AbstractContextManager[Any]:
        """Context in which backward passes of `net` do not exchange gradients if `enabled`."""

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all processes."""

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """The result of `make`, called in the first process only, in every process."""


class SingleProcess:
    """One process."""

    rank = 0
    size = 1
    local_size = 1

    def __init__(self) -> None:
        self.device = machine.pick()

    def wrap(self, net: Any) -> Any:
        return net

    def no_sync(self, net: Any, enabled: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        return values

    def broadcast(self, make: Callable[[], Any]) -> Any:
        return make()


class MultiProcess:
    """One of `size` processes under Fabric, `local_size` of them on this machine."""

    def __init__(self, size: int, local_size: int, nodes: int = 1) -> None:
        from lightning_fabric import Fabric

        # Fabric provides the process group and the average of gradients; number format and loaders
        # are not its own.
        kind = machine.pick().type
        self._fabric = Fabric(
            accelerator=kind, devices=size // nodes, num_nodes=nodes, strategy="ddp"
        )
        self._fabric.launch()
        self.rank = self._fabric.global_rank
        self.size = size
        self.local_size = local_size
        self.device = self._fabric.device
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, torch.get_num_threads() // local_size))

    def wrap(self, net: Any) -> Any:
        return self._fabric.setup_module(net, move_to_device=False)

    def no_sync(self, net: Any, enabled: bool) -> AbstractContextManager[Any]:
        return self._fabric.no_backward_sync(net, enabled=enabled)

    def sum(self, values: Tensor) -> Tensor:
        total = values.to(self.device)
        torch.distributed.all_reduce(total)
        return total.cpu()

    def broadcast(self, make: Callable[[], Any]) -> Any:
        return self._fabric.broadcast(make() if self.rank == 0 else None)


@contextmanager
def process_group(
    size: int, task: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[ProcessGroup]:
    """A group of `size` processes. Starts `task(*arguments)`, which must call `join`, in the
    others.

    The caller is the first process, the only one with a terminal and a tracker. Raises InputError
    if the machine has fewer GPUs than `size` or Fabric is not installed, and with the error of
    another process that failed.
    """
    if size == 1:
        yield SingleProcess()
        return

    _check(size)
    port = _free_port()
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    others = [
        context.Process(target=_start, args=(rank, size, port, errors, task, arguments))
        for rank in range(1, size)
    ]
    for other in others:
        other.start()
    try:
        with _environment(0, size, port):
            yield MultiProcess(size, size)
            torch.distributed.destroy_process_group()
        for other in others:
            other.join()
    except RuntimeError as error:
        # When another process dies, this one gets a closed connection.
        try:
            reason = errors.get(timeout=_ERROR_SECONDS)
        except Empty:
            raise error from None
        raise InputError(reason) from error
    finally:
        # They would wait half an hour for the process that failed.
        for other in others:
            if other.is_alive():
                other.terminate()


def join(size: int) -> ProcessGroup:
    """The group, in one of the other processes."""
    return MultiProcess(size, size)


def join_cluster(rank: int, size: int, local_size: int) -> ProcessGroup:
    """The group of processes started by a cluster's launcher, which sets MASTER_ADDR and
    MASTER_PORT.

    Each process has one device, so Fabric treats each as a node with one process.
    """
    os.environ.update({"WORLD_SIZE": str(size), "NODE_RANK": str(rank), "LOCAL_RANK": "0"})
    return MultiProcess(size, local_size, nodes=size)


def _check(size: int) -> None:
    gpus = torch.cuda.device_count()
    if gpus and gpus < size:
        raise InputError(f"image.devices is {size}, this machine has {gpus} GPUs: lower it")
    try:
        import lightning_fabric  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"image.devices is {size}, which needs lightning-fabric 2.6.1: pip install it, or set 1"
        ) from error


def _start(
    rank: int,
    size: int,
    port: int,
    errors: Any,
    task: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    try:
        with _environment(rank, size, port):
            task(*arguments)
            torch.distributed.destroy_process_group()
    except Exception as error:
        line = error_line(error)
        if line is None:
            traceback.print_exc()
        errors.put(line or f"process {rank} of {size} failed: {error!r}")
        errors.close()
        errors.join_thread()
        sys.exit(1)


@contextmanager
def _environment(rank: int, size: int, port: int) -> Iterator[None]:
    """The variables by which Fabric joins processes that it did not start."""
    wanted: Mapping[str, str] = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
