"""Estimate time, cores and money for a number of lesions from measured results.

Reads benchmarks/results/scale.json (Ray, with and without images), else predict.json (one machine),
and multiplies. Prices are given by options. `--write` puts the table into docs/scale.md.

The estimate for many cores is a range, because only two nodes were measured. The lower bound
assumes the efficiency of two nodes for any number, since shards are independent. The upper bound is
Amdahl's law with the serial share that explains the speedup of two nodes.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

import harness

from isic.core.errors import InputError, run
from isic.core.io import atomic_file, read_json

SIZES = (10**5, 10**6, 10**7, 10**8, 10**9)
#: Of the official training file: 1.2 GB for 401,059 tiles; decoded tiles are never stored.
BYTES_PER_TILE = 1.2e9 / 401_059
#: Core-hours below which a row is left out: it would show 0.00.
NEGLIGIBLE = 0.005
_PAGE = harness.ROOT / "docs" / "scale.md"
_MARKS = ("<!-- capacity -->", "<!-- /capacity -->")


@dataclass(frozen=True)
class Pace:
    """Core-seconds per lesion, speedup of two nodes over one, and the source of both."""

    name: str
    core_seconds: float
    speedup: float | None
    source: str
    images: bool = True

    def hours(self, lesions: float, cores: int) -> tuple[float, float]:
        """Lower and upper bound of the hours on `cores` cores."""
        work = lesions * self.core_seconds / 3600
        if self.speedup is None or cores == 1:
            return work / cores, work / cores
        serial = min(1.0, max(0.0, 2 / self.speedup - 1))
        best = work / cores / min(1.0, self.speedup / 2)
        return best, max(best, work * (serial + (1 - serial) / cores))


def paces() -> list[Pace]:
    """Measured paces: with images, and by the features alone."""
    entries, scale, predict = [], _result("scale"), _result("predict")
    speedup = scale["measured"].get("two_nodes_speedup") if scale else None
    if scale and "one_node_ray_seconds" in scale["measured"]:
        measured, cores = scale["measured"], scale["machine"]["cores"]
        each = measured["one_node_ray_seconds"] * cores / measured["one_node_lesions"]
        entries.append(Pace("with images, on Ray", each, speedup, _source(scale)))
    elif predict and "end_to_end_seconds" in predict["measured"]:
        measured, cores = predict["measured"], predict["machine"]["cores"]
        each = measured["end_to_end_seconds"] * cores / measured["lesions"]
        entries.append(Pace("with images, one machine", each, speedup, _source(predict)))
    if scale and "single_node_seconds" in scale["measured"]:
        each = scale["measured"]["single_node_seconds"] / scale["measured"]["nodes_lesions"]
        entries.append(Pace("features alone, on Ray", each, speedup, _source(scale), images=False))
    return entries


def table(options: argparse.Namespace) -> str:
    """The estimate as a Markdown table, with its sources."""
    priced = options.price_core_hour is not None
    head = ["lesions", "work", "core-hours", f"on {options.cores} cores", "tiles"] + [
        "price"
    ] * priced
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    if not (known := paces()):
        return "Not measured yet: run `benchmarks/predict.py` or `benchmarks/scale.py`."
    for lesions in SIZES:
        for pace in known:
            core_hours = lesions * pace.core_seconds / 3600
            if core_hours < NEGLIGIBLE:
                continue
            best, worst = pace.hours(lesions, options.cores)
            time = span(best) if worst < 1.05 * best else f"{span(best)} to {span(worst)}"
            size = lesions * options.bytes_per_tile / 1e9 if pace.images else 0.0
            cells = [
                f"{lesions:,}",
                pace.name,
                f"{core_hours:,.2f}" if core_hours < 10 else f"{core_hours:,.0f}",
                time,
            ]
            cells.append(
                f"{size:,.1f} GB" if 0 < size < 1000 else f"{size / 1000:,.1f} TB" if size else "–"
            )
            if priced:
                kept = size * (options.price_gb_month or 0) * options.months
                cells.append(f"{best * options.cores * options.price_core_hour + kept:,.0f}")
            lines.append(" | ".join(cells))
    rest = [
        f"- {pace.name}: {1000 * pace.core_seconds:.2f} core-ms a lesion"
        + (f", two nodes {pace.speedup:.2f} times one" if pace.speedup else ", no cluster measured")
        + f"; {pace.source}"
        for pace in known
    ]
    return "\n".join([*(f"| {line} |" for line in lines), "", *rest])


def span(hours: float) -> str:
    """Bounds of a time in a suitable unit."""
    for unit, size in (("d", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * size or (unit == "min" and hours >= size):
            return (
                f"{hours / size:,.0f} {unit}"
                if hours >= 10 * size
                else f"{hours / size:.1f} {unit}"
            )
    return f"{3600 * hours:.0f} s"


def write(text: str) -> None:
    """Put the table between its marks in docs/scale.md."""
    page = _PAGE.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(_MARKS[0]) + ".*?" + re.escape(_MARKS[1]), re.DOTALL)
    if not pattern.search(page):
        raise InputError(f"{_PAGE.name} lacks the marks {_MARKS[0]} and {_MARKS[1]}")
    with atomic_file(_PAGE) as temporary:
        temporary.write_text(
            pattern.sub(lambda _: f"{_MARKS[0]}\n{text}\n{_MARKS[1]}", page), encoding="utf-8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=64, help="number of cores")
    parser.add_argument(
        "--bytes-per-tile", type=float, default=BYTES_PER_TILE, help="JPEG bytes (official: 2,992)"
    )
    parser.add_argument(
        "--price-core-hour", type=float, help="price of a core-hour, in your currency"
    )
    parser.add_argument("--price-gb-month", type=float, help="price of a stored GB per month")
    parser.add_argument("--months", type=float, default=1.0, help="months of storage of the tiles")
    parser.add_argument("--write", action="store_true", help="write the table into docs/scale.md")
    options = parser.parse_args()
    if options.cores < 1:
        raise InputError("--cores is a number of at least 1")
    text = table(options)
    print(text)
    if options.write:
        write(text)


def _result(name: str) -> dict[str, Any] | None:
    path = harness.RESULTS / f"{name}.json"
    return read_json(path) if path.is_file() else None


def _source(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"{result['name']}.json of {result['date'][:10]}, {machine['cores']} cores of"
        f" {machine['processor']}"
    )


if __name__ == "__main__":
    run(main)
