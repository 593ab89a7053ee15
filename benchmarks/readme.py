"""Write the measured parts of README.md and docs/stacking.md from the files that hold them: `make docs`.

Results come from metrics/evaluate.json and metrics/validate.json, speed from benchmarks/results, the graph from
`dvc dag`. With --check nothing is written and a stale page is an error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isic.report.features import WAYS, gain_in_words

ROOT = Path(__file__).resolve().parent.parent


def result_table(root: Path) -> str:
    """The demo's scores."""
    found = json.loads((root / "metrics" / "evaluate.json").read_text())
    rows = [
        "| out of fold, generated demo data | pAUC (chance 0.02, best 0.2) | 95 % | AUC | top-15 sensitivity |",
        "|---|---|---|---|---|",
        *_ladder_rows(root, found),
    ]
    size = f"{found['n']:,} lesions, {found['positives']} malignant, {found['patients']} patients"
    return "\n".join(rows) + f"\n\n{size}, {len(found['folds'])} folds; from `dvc repro`, then `dvc metrics show`."


def _ladder_rows(root: Path, found: dict[str, Any]) -> Iterator[str]:
    ladder, refits = root / "plots" / "ladder.json", root / "metrics" / "robustness.json"
    steps = json.loads(refits.read_text())["steps"] if refits.is_file() else []
    for step in steps + (json.loads(ladder.read_text()) if ladder.is_file() else []):
        if step["step"] != "stack":
            interval = f"{step['low']:.4f} to {step['high']:.4f}"
            yield f"| {step['step']} | {step['pauc']:.4f} | {interval} | {step['auc']:.4f} | |"
    interval = f"{found['pauc_low']:.4f} to {found['pauc_high']:.4f}"
    yield (
        f"| **features and images, stacked** | **{found['pauc']:.4f}** | {interval} | {found['auc']:.4f} "
        f"| {found['top15_sensitivity']:.3f} |"
    )


def speed_table(root: Path) -> str:
    """One row per target of each committed benchmark."""
    rows = ["| benchmark | measured | target | met | machine |", "|---|---|---|---|---|"]
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        found = json.loads(path.read_text())
        machine = found["machine"]
        where = f"{machine.get('cores', '?')} cores{', ' + machine['gpu'] if machine.get('gpu') else ''}"
        for name, target in found["targets"].items():
            value = found["measured"].get(name)
            met = {True: "yes", False: "no", None: "not measured"}[found["met"].get(name)]
            rows.append(f"| `{path.stem}` {name} | {_number(value)} | {_number(target)} | {met} | {where} |")
    return "\n".join(rows)


def families_table(root: Path) -> str:
    """What each family of the default set gains, and those others whose gain or loss is beyond chance."""
    measured = json.loads((root / "benchmarks" / "results" / "features.json").read_text())["measured"]
    found = measured["families"]
    used = [row for row in found["families"] if row["used"]]
    others = [row for row in found["families"] if not row["used"]]
    clear = [row for row in others if row["put_in_low"] > 0 or row["put_in_high"] < 0]
    rows = [
        "| family | in the default set | added to raw | left out of the set | put into it |",
        "|---|---|---|---|---|",
    ]
    for row in used + clear:
        gains = " | ".join(gain_in_words(row, way) for way in WAYS)
        rows.append(f"| {row['family']} | {'yes' if row['used'] else 'no'} | {gains} |")
    base, whole = (f"{found[name]['pauc']:.4f}" for name in ("base", "used"))
    told = f"{len(others) - len(clear)} of the {len(others)} families outside it move the pAUC by no more than chance."
    size = f"{found['lesions']:,} generated lesions, {found['malignant']} malignant"
    return "\n".join(rows) + f"\n\n{size}: raw columns {base}, the default set {whole}; {told}"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def graph() -> str:
    """The DAG as mermaid, a node per stage family."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "dag", "--collapse-foreach-matrix", "--mermaid"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```mermaid\n{done.stdout.strip()}\n```"


def fill(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers of `name` replaced."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def main() -> None:
    blocks = {
        "README.md": [("graph", graph()), ("speed", speed_table(ROOT))],
        "docs/stacking.md": [("families", families_table(ROOT))],
    }
    # A checkout that has not run the demo keeps the numbers of one that has.
    if (ROOT / "metrics" / "evaluate.json").is_file():
        blocks["README.md"].append(("result", result_table(ROOT)))
    for name, contents in blocks.items():
        path = ROOT / name
        after = before = path.read_text()
        for block, content in contents:
            after = fill(after, block, content)
        if "--check" not in sys.argv:
            path.write_text(after)
        elif after != before:
            sys.exit(f"{name} is stale: make docs")


if __name__ == "__main__":
    main()
