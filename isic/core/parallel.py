"""Number of cores and of parallel workers. They affect run time only, never a result."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """Tasks to run side by side: `cores()`, or OMP_NUM_THREADS if that is fewer."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores(), int(limit))) if limit.isdigit() and int(limit) else cores()
