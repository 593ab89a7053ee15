"""One fold per GPU: every job once, never two on one GPU."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence

import pytest

from isic.image.launch import spread


def test_every_job_runs_once_and_a_gpu_has_one_job_at_a_time() -> None:
    busy: set[str] = set()
    ran: list[str] = []
    lock = threading.Lock()

    def start(job: Sequence[str], environment: dict[str, str]) -> int:
        gpu = environment["CUDA_VISIBLE_DEVICES"]
        with lock:
            assert gpu not in busy
            busy.add(gpu)
            ran.append(job[0])
        time.sleep(0.01)
        with lock:
            busy.discard(gpu)
        return 1 if job[0] == "train_image@vit-3" else 0

    jobs = [f"train_image@vit-{fold}" for fold in range(7)]
    assert spread(jobs, 2, start) == ["train_image@vit-3"]
    assert sorted(ran) == jobs


def test_processes_run_side_by_side() -> None:
    """Two jobs that wait for each other can only end together."""
    gate = threading.Barrier(2, timeout=20)
    assert spread(["a", "b"], 2, lambda *_: 0 if gate.wait() >= 0 else 1) == []


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_gpus_is_one_line(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from isic.core.errors import InputError
    from isic.image import launch

    monkeypatch.setattr(sys, "argv", ["launch", "--gpus", count])
    with pytest.raises(InputError, match="at least 1"):
        launch.main()
