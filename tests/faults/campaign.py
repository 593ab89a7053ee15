"""`python -m tests.faults.campaign CHECKOUT [NAME]`: run every case (or those whose name holds
NAME) on copies of a finished checkout, print each fault and the counts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Before any numerical library: children of a process with threads would wait for them.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ |= {"NO_ALBUMENTATIONS_UPDATE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
for _name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "OPTUNA_STORAGE", "ISIC_TRACEBACK"):
    os.environ.pop(_name, None)

from tests.faults.cases import all_cases  # noqa: E402
from tests.faults.files import make_files, serve_model, warm_up  # noqa: E402
from tests.faults.harness import Bases, run_cases  # noqa: E402


def main() -> None:
    checkout = Path(sys.argv[1]).resolve()
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    with tempfile.TemporaryDirectory(prefix="isic-faults-") as folder:
        scratch = Path(folder).resolve()
        files = make_files(checkout, scratch / "files")
        bases = Bases(files, checkout, serve_model(checkout))
        warm_up(files, scratch / "warm.csv")
        cases = [case for case in all_cases() if wanted in f"{case.kind} {case.name}"]
        names = [case.name for case in cases]
        assert len(set(names)) == len(names), Counter(names).most_common(3)
        results = run_cases(cases, bases, scratch / "cases")

    for result in results:
        if result.fault:
            text = "".join(c if c.isprintable() or c == "\n" else "?" for c in result.text.strip())
            shown = text if wanted else text[-300:]
            print(f"{result.fault} | {result.case.kind} {result.case.name} | {shown}\n")
        elif wanted:
            print(f"ok | {result.case.name} | {result.text.strip()[-400:]}")
    slow = sorted(results, key=lambda result: -result.seconds)[:3]
    print("slowest:", ", ".join(f"{one.case.name} {one.seconds:.1f} s" for one in slow))
    faults = Counter(result.fault.split(" ")[0] for result in results if result.fault)
    summary = {
        "inputs": len(results),
        "seconds": round(sum(result.seconds for result in results)),
        "tracebacks": faults.pop("traceback", 0),
        "aborts": faults.pop("abort", 0),
        "hangs": faults.pop("hang", 0),
        "wrong_successes": sum(result.fault == "wrong success" for result in results),
        "others": sum(bool(result.fault) for result in results)
        - sum(
            result.fault in ("traceback", "abort", "hang", "wrong success") for result in results
        ),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
