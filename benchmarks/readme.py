"""Write the measured numbers into README.md and docs: `make docs`.

Results come from metrics/evaluate.json, metrics/robustness.json and plots/ladder.json, speed from
benchmarks/results, the graph from `dvc dag`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from claims import claims_table

from isic.evaluate.ablation import WAYS, format_gain
from isic.report.cards import pretraining_sentences

ROOT = Path(__file__).resolve().parent.parent

#: Kind of seconds of a row: wall, or processor seconds of all threads.
SECONDS = {
    "features": {
        "default_seconds": "processor",
        "everything_seconds": "processor",
        "twice_the_rows": "processor",
        "whole_times_faster_by_processor": "processor",
        "outlier_factor_times_faster": "processor",
    },
    "image": dict.fromkeys(
        ("a_loader", "b_input_path", "c_plain", "d_embedding", "e_validation"), "processor"
    ),
    "predict": dict.fromkeys(
        ("end_to_end_to_parts", "load_seconds", "three_rows_seconds", "gate_seconds"), "clock"
    ),
    "report": {"seconds_beyond_bootstrap": "clock"},
    "sample": {"rows_seconds": "processor", "tiles_seconds_on_two_cores": "processor"},
    "scale": {"one_node_to_plain": "clock", "two_nodes_speedup": "clock"},
    "stack": {
        "interval_seconds": "clock",
        "trial_speedup": "clock",
        "pruned_speedup": "clock",
        "cost_share_of_best_recipe": "processor",
    },
}


class Other(NamedTuple):
    """The same ratio in processor seconds, shown below the one in wall seconds with the same
    target.
    """

    name: str
    at_least: bool


OTHERS = {
    "end_to_end_to_parts": Other("end_to_end_to_parts_processor", True),
    "one_node_to_plain": Other("one_node_to_plain_by_processor", False),
    "pruned_speedup": Other("pruned_speedup_cpu", True),
}


def result_table(root: Path) -> str:
    """The demo's scores."""
    metrics = json.loads((root / "metrics" / "evaluate.json").read_text())
    rows = [
        (
            "| out of fold, generated demo data | pAUC (chance 0.02, best 0.2) | 95 % | AUC |"
            " top-15 sensitivity |"
        ),
        "|---|---|---|---|---|",
        *_ladder_rows(root, metrics),
    ]
    size = (
        f"{metrics['n']:,} lesions, {metrics['positives']} malignant,"
        f" {metrics['patients']} patients"
    )
    source = f"{size}, {len(metrics['folds'])} folds; from `dvc repro`, then `isic summary`."
    params = yaml.safe_load((root / "params.yaml").read_text())
    notes = [*pretraining_sentences(params), *features_ahead(_steps(root), metrics)]
    return "\n".join([*rows, "", source, *notes])


def features_ahead(steps: list[dict[str, Any]], metrics: dict[str, Any]) -> list[str]:
    """Explanation in one sentence when the features alone score higher than the stack."""
    alone = next((step for step in steps if step["step"] == "features alone"), None)
    if alone is None or alone["pauc"] <= metrics["pauc"]:
        return []
    overlap = ", though the intervals overlap" if alone["low"] <= metrics["pauc_high"] else ""
    return [
        f"Here the features alone score higher than with the images{overlap}: the demo has"
        f" {metrics['positives']} malignant lesions, its images are generated and its networks of"
        " toy size."
    ]


def _steps(root: Path) -> list[dict[str, Any]]:
    ladder = root / "plots" / "ladder.json"
    steps: list[dict[str, Any]] = json.loads(ladder.read_text()) if ladder.is_file() else []
    return steps


def _ladder_rows(root: Path, metrics: dict[str, Any]) -> Iterator[str]:
    for step in _steps(root):
        if step["step"] != "stack":
            interval = f"{step['low']:.4f} to {step['high']:.4f}"
            yield f"| {step['step']} | {step['pauc']:.4f} | {interval} | {step['auc']:.4f} | |"
    interval = f"{metrics['pauc_low']:.4f} to {metrics['pauc_high']:.4f}"
    yield (
        f"| **features and images, stacked** | **{metrics['pauc']:.4f}** | {interval} |"
        f" {metrics['auc']:.4f} | {metrics['top15_sensitivity']:.3f} |"
    )


def speed_table(root: Path) -> str:
    """One row per target of each committed benchmark, and one more for a ratio also measured in
    processor seconds.
    """
    rows = [
        "| benchmark | measured | target | met | seconds | machine |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text())
        machine = result["machine"]
        where = (
            f"{machine.get('cores', '?')}"
            f" cores{', ' + machine['gpu'] if machine.get('gpu') else ''}"
        )
        for name, target, value, met, seconds in _speed_rows(result):
            verdict = {True: "yes", False: "no", None: "not measured"}[met]
            rows.append(
                f"| `{path.stem}` {name} | {_number(value)} | {_number(target)} | {verdict} |"
                f" {seconds} | {where} |"
            )
    return "\n".join(rows)


def _speed_rows(result: dict[str, Any]) -> Iterator[tuple[str, Any, Any, bool | None, str]]:
    measured = result["measured"]
    for name, target in result["targets"].items():
        value = measured.get(name)
        seconds = SECONDS.get(result["name"], {}).get(name, "")
        # On a GPU the image benchmark measures wall seconds.
        if result["name"] == "image" and seconds and measured.get("device", "CPU") != "CPU":
            seconds = "clock"
        yield name, target, value, result["met"].get(name), seconds if value is not None else ""
        other = OTHERS.get(name)
        if other is not None and other.name in measured:
            value, bound = measured[other.name], float(re.findall(r"[\d.]+", str(target))[0])
            yield (
                other.name,
                target,
                value,
                value >= bound if other.at_least else value <= bound,
                "processor",
            )


def families_table(root: Path) -> str:
    """The gain of each family of the default set, and of the others with a gain or loss beyond
    chance.
    """
    result = json.loads((root / "benchmarks" / "results" / "features.json").read_text())
    ablation, date = result["measured"]["families"], result["parts"]["families"]["date"][:10]
    used = [row for row in ablation["families"] if row["used"]]
    others = [row for row in ablation["families"] if not row["used"]]
    clear = [row for row in others if row["put_in_low"] > 0 or row["put_in_high"] < 0]
    rows = [
        "| family | in the default set | added to raw | left out of the set | put into it |",
        "|---|---|---|---|---|",
    ]
    for row in used + clear:
        gains = " | ".join(format_gain(row, way) for way in WAYS)
        rows.append(f"| {row['family']} | {'yes' if row['used'] else 'no'} | {gains} |")
    base, default = (f"{ablation[name]['pauc']:.4f}" for name in ("base", "used"))
    rest = (
        f"{len(others) - len(clear)} of the {len(others)} families outside it move the pAUC by no"
        " more than chance."
    )
    size = f"{ablation['lesions']:,} generated lesions, {ablation['malignant']} malignant, {date}"
    return "\n".join(rows) + f"\n\n{size}: raw columns {base}, the default set {default}; {rest}"


def patients_table(root: Path) -> str:
    """pAUC by the number of lesions of a patient, mean of the seeds."""
    path = root / "benchmarks" / "results" / "any_patient.json"
    if not path.is_file():
        return "not measured"
    result = json.loads(path.read_text())
    seeds = [value for name, value in result["measured"].items() if name.startswith("seed_")]
    classes = list(seeds[0]["raw"])
    names = {
        "raw": "raw columns only",
        "whole": "default features, `thinned: false`",
        "thinned": "default features, `thinned: true`",
    }
    rows = [
        "| | " + " | ".join({"all": "whole patients"}.get(name, name) for name in classes) + " |",
        "|---|" + "---|" * len(classes),
    ]
    for way, text in names.items():
        means = [sum(seed[way][name] for seed in seeds) / len(seeds) for name in classes]
        rows.append(f"| {text} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    kept = result["measured"]["share_of_gain_kept"]
    return "\n".join(rows) + (
        f"\n\npAUC out of fold, patients cut down after training, mean of {len(seeds)} populations of"
        f" 401,059 lesions, 393 malignant; {kept:.0%} of the gain on whole patients is kept."
    )


def combination_table(root: Path) -> str:
    """Late combination against its parts in each generated population."""
    result = json.loads((root / "benchmarks" / "results" / "stack_modes.json").read_text())
    parts = result["measured"]["parts"]
    rows = [
        "| malignant | network | features | images | `columns` | `late` | `late` − better part (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in parts["populations"]:
        scores = " | ".join(
            f"{record[name]:.4f}" for name in ("features", "images", "columns", "late")
        )
        value, low, high = record["late_minus_best"]
        rows.append(
            f"| {record['malignant']} | {record['network']} | {scores} |"
            f" {value:+.4f} ({low:+.4f} to {high:+.4f}) |"
        )
    figures = parts["figures"]
    return "\n".join(rows) + (
        f"\n\nMean of `late` − better part {figures['late_minus_best_mean']:+.4f}; `late` is ahead of"
        " `columns`, which shares all but the combination, in"
        f" {figures['late_ahead_of_columns']} of"
        f" {len(parts['populations'])}."
    )


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
    """`text` with the part between the markers of `name` replaced."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; a stale page is an error"
    )
    check = parser.parse_args().check
    blocks: dict[str, list[tuple[str, str]]] = {
        "README.md": [],
        "docs/pipeline.md": [("graph", graph())],
        "docs/claims.md": [("claims", claims_table(ROOT))],
        "docs/speed.md": [("speed", speed_table(ROOT))],
        "docs/stacking.md": [
            ("families", families_table(ROOT)),
            ("patients", patients_table(ROOT)),
            ("combination", combination_table(ROOT)),
        ],
    }
    # Without a demo run in this checkout, the numbers of the page are kept.
    if (ROOT / "metrics" / "evaluate.json").is_file():
        blocks["README.md"].append(("result", result_table(ROOT)))
    for name, contents in blocks.items():
        path = ROOT / name
        after = before = path.read_text()
        for block, content in contents:
            after = fill(after, block, content)
        if not check:
            path.write_text(after)
        elif after != before:
            sys.exit(f"{name} is stale: make docs")


if __name__ == "__main__":
    main()
