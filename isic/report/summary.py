"""The closing words of `make demo`: what came out, where it is, and what to type next."""

from __future__ import annotations

from isic.core.io import read_json
from isic.core.paths import Layout

#: pAUC of a random score: half of 0.2 squared (the area under the diagonal in the corner above 80 % sensitivity).
CHANCE = 0.02
#: Until a result is committed, `dvc metrics diff` has nothing to compare with.
BASELINE = 'git add dvc.lock metrics plots data models reports && git commit -m "Baseline"'


def summary(layout: Layout) -> str:
    """Text of several lines from metrics/evaluate.json and the files that exist.

    Raises InputError when nothing was evaluated yet.
    """
    found = read_json(layout.evaluate_metrics)
    lines = [
        "",
        f"  pAUC above 80 % sensitivity  {found['pauc']:.4f}  "
        f"(95 % {found['pauc_low']:.4f} to {found['pauc_high']:.4f}, patient bootstrap; chance {CHANCE}, perfect 0.2)",
        f"  AUC {found['auc']:.4f}, top-15 sensitivity {found['top15_sensitivity']:.3f}, out of fold over "
        f"{found['n']:,} lesions, {found['positives']} malignant, {found['patients']} patients",
        "",
    ]
    places = (
        ("report", layout.report, ""),
        ("submission", layout.submission, ""),
        ("model", layout.bundle, ""),
        ("runs", layout.root / "mlflow.db", "make ui"),
    )
    for name, path, hint in places:
        if path.exists():
            lines.append(f"  {name:<11} {path.relative_to(layout.root)}{f'  ({hint})' if hint else ''}")
    lines += [
        "",
        "  next: source .venv/bin/activate",
        f"        {BASELINE}",
        "        dvc exp run -S stack.params.num_leaves=63, then dvc metrics diff",
        "        make tune N=20 for a better stacker; make data && make preset P=full for the real thing",
        "",
    ]
    return "\n".join(lines)
