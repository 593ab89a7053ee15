"""Closing text of `make demo`: the metrics, the paths of the results, and the next commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: pAUC of a random score: half of 0.2 squared (the area under the diagonal in the corner above 80 %
#: sensitivity).
CHANCE = 0.02
#: `dvc metrics diff` compares with the last commit, so the first result is committed.
BASELINE = 'git add . && git commit -m "Baseline"'


def result_summary(metrics: Mapping[str, Any], root: Path, outputs: Mapping[str, Path]) -> str:
    """Text of several lines.

    metrics: content of metrics/evaluate.json. outputs: name -> path below `root`; missing ones are
    left out.
    """
    lines = [
        "",
        (
            f"  pAUC above 80 % sensitivity  {metrics['pauc']:.4f}  "
            f"(95 % {metrics['pauc_low']:.4f} to {metrics['pauc_high']:.4f}, patient bootstrap; "
            f"chance {CHANCE}, perfect 0.2)"
        ),
        (
            f"  AUC {metrics['auc']:.4f}, top-15 sensitivity {metrics['top15_sensitivity']:.3f},"
            f" out of fold over {metrics['n']:,} lesions, {metrics['positives']} malignant,"
            f" {metrics['patients']} patients"
        ),
        "",
    ]
    for name, path in outputs.items():
        if path.exists():
            hint = "  (make ui)" if name == "runs" else ""
            lines.append(f"  {name:<11} {path.relative_to(root)}{hint}")
    lines += [
        "",
        "  next: source .venv/bin/activate",
        f"        {BASELINE}",
        "        dvc exp run -S stack.params.num_leaves=63, then dvc metrics diff",
        (
            "        make tune N=20 for a better stacker; make data && make preset P=full for the"
            " official data"
        ),
        "",
    ]
    return "\n".join(lines)
