"""Scores for millions of lesions: Ray Data maps the one-machine prediction over shards of whole patients.

Whole shards, not rows, are what Ray Data hands out: its own parquet reader cuts files into blocks as memory allows,
through the middle of a patient. A shard's scores are a file of their own: a run that ends early goes on where it was.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from isic.core.errors import InputError, shown
from isic.core.io import sha256_json
from isic.predict.bundle import load_bundle
from isic.predict.scoring import MissingImages
from isic.registry.versions import resolve
from isic.scale import uniqueness
from isic.scale.cluster import connected, here
from isic.scale.coordinator import Coordinator, put_files
from isic.scale.resources import Resources
from isic.scale.shards import Manifest, Shard, read_manifest
from isic.scale.store import Store
from isic.scale.worker import Outcome, ScoringTask, read_stamp, score_batch

#: Seconds between progress lines.
REPORT = 20.0
#: Of shards without images, which take a second each: tasks for each processor, and shards in one at most.
TASKS_PER_PROCESSOR, MOST_SHARDS = 16, 8
#: Written last and taken away before any score changes: whoever finds it finds all scores, made one way.
DONE = "_scores.json"


@dataclass(frozen=True)
class Summary:
    """A finished run: lesions in all, shards scored by it, how many of them twice; processor seconds of all workers,
    peak memory of one in GB.
    """

    rows: int
    scored: int
    retried: int
    processor_seconds: float
    peak_gb: float


def predict(
    model: str,
    source: Store,
    target: Store,
    missing_images: MissingImages = "error",
    resources: Resources | None = None,
) -> Summary:
    """Score every shard of `source` that `target` lacks, one file of isic_id, target each.

    `model` is as for one machine, and so are the scores. Raises InputError when a patient or lesion is in two shards
    (then nothing is scored), when `target` holds scores of something else, and, after all others are scored, for
    shards that cannot be.
    """
    folder = resolve(model)
    bundle = load_bundle(folder).manifest
    manifest = read_manifest(source)
    if missing_images == "error" and bundle.backbones and not manifest.images:
        raise InputError(
            f"{shown(source.uri)} holds no images: use --missing-images impute to score by the features alone"
        )
    order = ScoringTask(source, target, bundle.hash, missing_images, f"isic-{uuid.uuid4().hex}")
    missing = _missing(order, manifest)
    done = len(manifest.shards) - len(missing)
    _say(f"{len(manifest.shards):,} shards, {manifest.rows:,} lesions; {done:,} done before, {len(missing):,} to score")
    options = (resources or Resources()).as_options()
    with connected() as ray:
        uniqueness.check(ray, source, manifest.shards)
        if missing and DONE in target:
            target.remove(DONE)
        desk = ray.remote(num_cpus=0)(Coordinator).options(name=order.desk, scheduling_strategy=here(ray))
        keep = desk.remote(put_files(ray, folder), bundle.hash)
        tasks = len(missing) if manifest.images else _tasks(len(missing), ray.cluster_resources().get("CPU", 1))
        outcomes = _run(order, missing, tasks, options) if missing else []
        ray.kill(keep)
    _close(order, manifest, missing, outcomes)
    peak = max((outcome.peak_gb for outcome in outcomes), default=0.0)
    retried = sum(bool(outcome.lost) for outcome in outcomes)
    return Summary(manifest.rows, len(outcomes), retried, sum(outcome.seconds for outcome in outcomes), peak)


def _missing(order: ScoringTask, manifest: Manifest) -> list[Shard]:
    """Shards whose scores are not in the target. Raises InputError for results that do not belong to this run."""
    there = {name for name in order.target.sizes() if name.endswith(".parquet") and not name.startswith((".", "_"))}
    if strange := sorted(there - {shard.name for shard in manifest.shards}):
        raise InputError(
            f"{order.target.where(strange[0])} belongs to no shard of {shown(order.source.uri)}: "
            "name another folder for --out"
        )
    found = [shard for shard in manifest.shards if shard.name in there]
    with ThreadPoolExecutor(16) as pool:
        stamps = dict(
            zip(
                (one.name for one in found),
                pool.map(lambda one: read_stamp(order.target, one.name), found),
                strict=True,
            )
        )
    for name, stamp in stamps.items():
        if stamp is None or json.loads(stamp)["bundle"] != order.bundle_hash:
            raise InputError(
                f"{order.target.where(name)} is not of this model: name another folder for --out, or remove that one"
            )
    return [shard for shard in manifest.shards if stamps.get(shard.name) != order.stamp(shard)]


def _tasks(shards: int, processors: float) -> int:
    """Ray tasks to spread quick shards over: handing one out takes a tenth of a second that its worker stands idle.

    Enough of them that no worker waits long for the last, and few enough shards in each that progress is seen.
    """
    return min(shards, max(math.ceil(shards / MOST_SHARDS), math.ceil(TASKS_PER_PROCESSOR * processors)))


def _run(order: ScoringTask, shards: Sequence[Shard], tasks: int, options: dict[str, Any]) -> list[Outcome]:
    from ray import data

    _hush()
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    # An outcome is a line: Ray Data would keep room for blocks of 128 MB and start fewer workers for it.
    context.target_max_block_size = 1 << 20
    items = [{"shard": json.dumps(asdict(shard))} for shard in shards]
    dataset = data.from_items(items, override_num_blocks=tasks).map_batches(
        score_batch, batch_size=1, batch_format="numpy", fn_kwargs={"order": order}, **options
    )
    progress = Progress(len(shards), sum(shard.rows for shard in shards))
    outcomes: dict[str, Outcome] = {}
    for row in dataset.iter_rows():
        outcome = Outcome(**json.loads(row["outcome"]))
        progress.add(outcome)
        outcomes[outcome.shard] = outcome
    return list(outcomes.values())


def _hush() -> None:
    """Leave Ray Data's account of its plans to its log files: what concerns a person is said here."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":
            handler.setLevel(logging.ERROR)


class Progress:
    """Says how far the run is, and what was lost and done again."""

    def __init__(self, shards: int, rows: int) -> None:
        self.shards, self.rows = shards, rows
        self.shards_done = self.rows_done = 0
        self.begun = self.told = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.shards_done += 1
        self.rows_done += outcome.rows
        if outcome.lost and not outcome.error:
            _say(f"{outcome.shard} was lost with {', '.join(outcome.lost)} and done again by {outcome.worker}")
        now = time.monotonic()
        if now - self.told >= REPORT:
            self.told = now
            left = (self.rows - self.rows_done) * (now - self.begun) / max(self.rows_done, 1)
            share = self.rows_done / self.rows
            _say(
                f"{self.shards_done:,} of {self.shards:,} shards, {self.rows_done:,} of {self.rows:,} lesions "
                f"({share:.0%}), {left / 60:.0f} min left"
            )


def _close(order: ScoringTask, manifest: Manifest, missing: Sequence[Shard], outcomes: Sequence[Outcome]) -> None:
    """Say what failed, or make sure that nothing is missing and write the closing file."""
    failed = [outcome for outcome in outcomes if outcome.error]
    vanished = {shard.name for shard in missing} - {outcome.shard for outcome in outcomes}
    if failed or vanished:
        # The same line of many shards is said once.
        lines = list(dict.fromkeys([outcome.error for outcome in failed] + [f"{name}: no result" for name in vanished]))
        more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
        count = len(failed) + len(vanished)
        raise InputError(
            f"{count} of {len(manifest.shards)} shards are not scored, all others are: {'; '.join(lines[:3])}{more}; "
            "then run the same command again, which does only these"
        )
    if left := _missing(order, manifest):
        raise InputError(f"{order.target.where(left[0].name)} is not there although it was written: check the storage")
    done = {
        "bundle": order.bundle_hash,
        "missing_images": order.missing_images,
        "rows": manifest.rows,
        "shards": len(manifest.shards),
        "input": sha256_json([asdict(shard) for shard in manifest.shards]),
    }
    order.target.write(DONE, json.dumps(done, indent=1).encode())


def _say(text: str) -> None:
    sys.stderr.write(f"isic: {text}\n")
