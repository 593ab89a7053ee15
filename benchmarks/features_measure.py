"""One side of the features benchmark in a process of its own, for its time and peak memory.

`python benchmarks/features_measure.py SIDE CSV FAMILY,FAMILY…` prints one JSON line; imports are
not counted. Sides: `isic`, `pandas`, and `pandas-grouped-once`, which groups once per family and
not once per column.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import features_pandas
import pandas as pd

from isic.data.tables import read_metadata
from isic.tabular import build_features, feature_families


def main() -> None:
    side, csv, families = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
    # Loading the compiled kernels is an import, like numpy's; they are compiled once per machine.
    feature_families()
    start, busy = time.perf_counter(), time.process_time()
    if side == "isic":
        frame = read_metadata(csv, train=True)
        read = time.perf_counter()
        columns = build_features(frame, families).shape[1] - 1
        middle = time.perf_counter()
    else:
        frame = pd.read_csv(csv, low_memory=False)
        read = time.perf_counter()
        columns = features_pandas.build(frame, families, regroup=side == "pandas").shape[1] - 1
        middle = time.perf_counter()
        features_pandas.outlier_factor(frame)
    end = time.perf_counter()
    peak = _peak_gb()
    print(
        json.dumps(
            {
                "read": read - start,
                "build": middle - read,
                "lof": end - middle,
                "total": end - start,
                "peak_gb": peak,
                "processor_seconds": time.process_time() - busy,
                "columns": columns,
            }
        )
    )


def _peak_gb() -> float:
    """Peak resident memory of this program; `getrusage` would include the parent's."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
