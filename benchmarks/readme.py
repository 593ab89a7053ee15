"""Write the measured parts of README.md from the files that hold them: `make docs`.

Results come from metrics/evaluate.json and metrics/validate.json, speed from benchmarks/results, the graph from
`dvc dag`. With --check nothing is written and a stale README is an error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def result_table(root: Path) -> str:
    """The demo's scores, or what to run for them."""
    path = root / "metrics" / "evaluate.json"
    if not path.is_file():
        return "`make demo` prints the result here."
    found = json.loads(path.read_text())
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
    path = ROOT / "README.md"
    before = path.read_text()
    after = before
    for name, content in (("result", result_table(ROOT)), ("graph", graph()), ("speed", speed_table(ROOT))):
        after = fill(after, name, content)
    if "--check" in sys.argv:
        if after != before:
            sys.exit("README.md is stale: make docs")
    else:
        path.write_text(after)


if __name__ == "__main__":
    main()
