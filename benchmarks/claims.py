"""The table of claims in docs/claims.md: `make docs` fills it from benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_FULL = "generated, 401,059 lesions, 393 malignant"
_REAL_TILES = "real tiles, resamples of tiles"
Measured = Mapping[str, Any]


class Claim(NamedTuple):
    """One row. `value` reads it from the measured numbers of `benchmark` (KeyError: not measured)."""

    text: str
    benchmark: str
    value: Callable[[Measured], str]
    population: str
    seeds: Callable[[Measured], str]


def claims_table(root: Path) -> str:
    """Each claim with its value, population, seeds, command and commit, as Markdown."""
    rows = [
        "| claim | value (95 %) | population | seeds | command | commit |",
        "|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        script = claim.benchmark.split()[0]
        measured, commit = _result(root, claim.benchmark)
        try:
            value, seeds = claim.value(measured), claim.seeds(measured)
        except KeyError:
            value, seeds, commit = "not measured", "", ""
        command = f"`python benchmarks/{claim.benchmark.replace(script, script + '.py', 1)}`"
        cells = (claim.text, value, claim.population, seeds, command, commit[:12])
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _result(root: Path, benchmark: str) -> tuple[Measured, str]:
    """Numbers of a script and the commit of its part (`--only PART`) or whole; of the file of
    another machine if NAME.json has no such part.
    """
    script, *options = benchmark.split()
    part = options[-1].removeprefix("--") if options else ""
    found: tuple[Measured, str] = {}, ""
    for path in sorted((root / "benchmarks" / "results").glob(f"{script}*.json"), reverse=True):
        result = json.loads(path.read_text())
        parts = result.get("parts", {})
        if not part or part in parts:
            found = result["measured"], parts.get(part, result)["commit"]
    return found


def _signed(values: Any, digits: int = 4) -> str:
    value, low, high = values
    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def _interval(values: Any) -> str:
    value, low, high = values
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def _seeds(count: str) -> Callable[[Measured], str]:
    return lambda measured: count


def _row(name: str) -> Callable[[Measured], str]:
    """A network on real tiles: its AUC."""
    return lambda m: _interval([m[name][key] for key in ("auc", "low", "high")])


def _minus(name: str, other: str) -> Callable[[Measured], str]:
    return lambda m: _signed([m[name]["minus"][other][key] for key in ("auc", "low", "high")])


def _stacked(part: str, other: str) -> Callable[[Measured], str]:
    return lambda m: _signed(m[part]["stacked_minus"][other]["pauc"])


def _ladder(rung: int) -> Callable[[Measured], str]:
    def value(measured: Measured) -> str:
        gains = [steps[rung]["gain"] for steps in measured["ladder"]]
        return "; ".join(_signed(gain) for gain in gains)

    return value


def _drawn_seeds(key: str) -> Callable[[Measured], str]:
    return lambda m: ", ".join(str(record["seed"]) for record in m[key])


def _any_patient(key: str) -> Callable[[Measured], str]:
    def value(measured: Measured) -> str:
        return "; ".join(f"{size}: {gain:+.4f}" for size, gain in measured[key].items())

    return value


_PATIENT_SEEDS = _seeds("511, 512, 513")

CLAIMS = (
    Claim(
        "raw columns: pAUC as on the real data (.1573)",
        "sample --only shape",
        lambda m: f"{m['pauc']:.4f}; by seed {', '.join(map(str, m['pauc_by_seed']))}",
        _FULL,
        _seeds("3"),
    ),
    Claim(
        "pAUC of raw columns moves little between seeds (sd)",
        "sample --only between_seeds",
        lambda m: f"{m['pauc_sd_between_seeds']:.4f}",
        _FULL,
        _seeds("10"),
    ),
    Claim(
        "trained on generated rows, blind to the scored half: AUC of real rows",
        "sample --only blind_rows",
        lambda m: f"{m['blind_rows_auc']:.3f}",
        "shared real rows, two halves by patient",
        _seeds("1"),
    ),
    Claim(
        "the same of tiles",
        "sample --only blind_tiles",
        lambda m: f"{m['blind_tiles_auc']:.3f}",
        "shared real tiles, two halves by patient",
        _seeds("1"),
    ),
    Claim(
        "patient-relative features gain over features of the lesion alone (pAUC)",
        "sample --only ladder",
        _ladder(2),
        _FULL,
        _seeds("0; 1; 2"),
    ),
    Claim(
        "default minus raw columns by the number of the patient's lesions (pAUC)",
        "any_patient",
        _any_patient("against_raw"),
        _FULL,
        _PATIENT_SEEDS,
    ),
    Claim(
        "the same without thinned members",
        "any_patient",
        _any_patient("whole_against_raw"),
        _FULL,
        _PATIENT_SEEDS,
    ),
    Claim(
        "default minus raw columns on real rows, out of fold (AUC)",
        "features --only real_rows",
        lambda m: _signed(m["real_rows"]["difference"]),
        "shared real rows",
        lambda m: str(len(m["real_rows"]["seeds"])),
    ),
    Claim(
        "the same, trained on generated rows blind to the scored half (pAUC)",
        "features --only blind",
        lambda m: _signed(m["blind"]["difference"]),
        "shared real rows, two halves by patient",
        lambda m: str(len(m["blind"]["seeds"])),
    ),
    Claim(
        "stacked minus the better of features and images (pAUC)",
        "stack_modes --parts",
        lambda m: (
            f"mean {m['late_minus_best_mean']:+.4f}, lowest"
            f" {min(m['late_minus_best_lowest_of_60'], m['late_minus_best_lowest_of_393']):+.4f}"
        ),
        "12 generated, 60 or 393 malignant, simulated networks",
        lambda m: "841 to 846, 851 to 856",
    ),
    Claim(
        "the demo: stacked minus features alone (pAUC)",
        "end_to_end --only demo",
        lambda m: _signed([m[f"demo_gain_{key}"] for key in ("mean", "low", "high")]),
        "3 generated, 3,000 lesions, 60 malignant each",
        _drawn_seeds("demo"),
    ),
    Claim(
        "the pipeline on real rows with tiles: stacked minus features alone (pAUC)",
        "end_to_end --only real",
        _stacked("real", "features"),
        "shared real rows with tiles, out of fold",
        _seeds("0, 1, 2"),
    ),
    Claim(
        "the same minus five plain LightGBMs on raw columns",
        "end_to_end --only real",
        _stacked("real", "plain"),
        "shared real rows with tiles, out of fold",
        _seeds("0, 1, 2"),
    ),
    Claim(
        "the same minus features alone, scored on the other half of the patients",
        "end_to_end --only real",
        _stacked("half", "features"),
        "shared real rows with tiles, two halves",
        _seeds("0, 1, 2"),
    ),
    Claim(
        "the same minus five plain LightGBMs on raw columns",
        "end_to_end --only real",
        _stacked("half", "plain"),
        "shared real rows with tiles, two halves",
        _seeds("0, 1, 2"),
    ),
    Claim(
        "both demo networks trained on generated tiles only (AUC)",
        "real_tiles --only untouched",
        _row("generated_networks_as_is"),
        _REAL_TILES,
        _seeds("1"),
    ),
    Claim(
        "pre-trained start minus random start, `demo_vit` (AUC)",
        "real_tiles --only generated",
        _minus("generated_vit", "vit"),
        _REAL_TILES,
        _seeds("1"),
    ),
    Claim(
        "full preset's stacker minus the best published recipe (pAUC)",
        "stack --only recipes",
        lambda m: f"{m['best_recipe']}: {_signed(m['ours_minus'][m['best_recipe']])}",
        f"{_FULL}, strong simulated network",
        _seeds("1"),
    ),
    Claim(
        "the gate promotes no challenger without a gain",
        "gate --only simulated",
        lambda m: f"{m['promoted_of_200_without_gain']} of {m['pairs_each']}",
        "simulated scores",
        _seeds("200"),
    ),
    Claim(
        "the gate promotes a gain of .006 pAUC at the first attempt",
        "gate --only simulated",
        lambda m: f"{m['power_at_006']:.3f}",
        "simulated scores",
        _seeds("200"),
    ),
    Claim(
        "archive pictures before training gain (pAUC)",
        "archive --only gain",
        lambda m: _signed([m[f"pretrain_gain{end}"] for end in ("", "_low", "_high")]),
        "generated tiles and pictures",
        lambda m: str(m["gain_seeds"]),
    ),
    Claim(
        "without the patient rule the scored patients gain falsely (pAUC)",
        "archive --only leak",
        lambda m: _signed([m[f"leak{end}"] for end in ("", "_low", "_high")]),
        "generated tiles and pictures, planted overlap",
        lambda m: str(m["leak_seeds"]),
    ),
)
