"""One fold per GPU: every job once, never two on one GPU, each with cores of its own."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from isic.core.errors import InputError
from isic.scale import local
from isic.scale.local import DeviceSlot, run_jobs, share_machine

TWO = share_machine(2, gpus=2, visible=None, cores=range(8))


def test_every_job_runs_once_and_a_gpu_has_one_job_at_a_time() -> None:
    busy: set[str] = set()
    ran: list[str] = []
    lock = threading.Lock()

    def start(job: str, slot: DeviceSlot) -> int:
        with lock:
            assert slot.gpu not in busy
            busy.add(slot.gpu)
            ran.append(job)
        time.sleep(0.01)
        with lock:
            busy.discard(slot.gpu)
        return 1 if job == "train_image@vit-3" else 0

    jobs = [f"train_image@vit-{fold}" for fold in range(7)]
    assert run_jobs(jobs, TWO, start) == ["train_image@vit-3"]
    assert sorted(ran) == jobs


def test_processes_run_side_by_side() -> None:
    """Two jobs that wait for each other end only if both run."""
    gate = threading.Barrier(2, timeout=20)
    assert run_jobs(["a", "b"], TWO, lambda *_: 0 if gate.wait() >= 0 else 1) == []


def test_gpus_keep_the_names_a_scheduler_gave_and_cores_are_not_shared() -> None:
    slots = share_machine(3, gpus=3, visible="4,GPU-abc,7", cores=range(10, 22))
    assert [slot.gpu for slot in slots] == ["4", "GPU-abc", "7"]
    assert sorted(core for slot in slots for core in slot.cores) == list(range(10, 22))


def test_without_gpus_processes_share_the_cores() -> None:
    slots = share_machine(3, gpus=0, visible=None, cores=[0, 1])
    assert [slot.gpu for slot in slots] == ["", "", ""]
    assert all(len(slot.cores) == 1 for slot in slots)
    assert {core for slot in slots for core in slot.cores} == {0, 1}


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(InputError, match="GPUS=2"):
        share_machine(4, gpus=2, visible=None, cores=range(8))


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_gpus_is_one_line(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["local", "--gpus", count])
    with pytest.raises(InputError, match="give 1 or more"):
        local.main()
