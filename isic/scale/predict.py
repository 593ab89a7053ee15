"""Score millions of lesions: Ray Data maps the one-machine prediction over shards of whole
patients.

Ray Data distributes whole shards, not rows: its own parquet reader splits files into blocks by
memory, which can split a patient. Each shard's scores are a file of their own, so an interrupted
run resumes with the missing shards.
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

from isic.core.errors import InputError, redact
from isic.core.io import sha256_json
from isic.predict.bundle import load_bundle
from isic.predict.scoring import MissingImages
from isic.registry.versions import resolve_model
from isic.scale import uniqueness
from isic.scale.cluster import connected, driver_node
from isic.scale.coordinator import Coordinator, put_files
from isic.scale.resources import Resources
from isic.scale.shards import Shard, ShardManifest, read_shard_manifest
from isic.scale.store import Store
from isic.scale.worker import Outcome, ScoringTask, read_stamp, score_batch

#: Seconds between progress lines.
_PROGRESS_SECONDS = 20.0
#: For shards without images, which take a second each: tasks per processor and maximum shards per
#: task.
_TASKS_PER_PROCESSOR, _SHARDS_PER_TASK = 16, 8
#: Written last, removed before any score changes. Where it exists, all scores exist and come from
#: one run.
COMPLETION_FILE = "_scores.json"


@dataclass(frozen=True)
class PredictionSummary:
    """A finished run: lesions in total, shards scored by this run, how many of them were retried,
    processor seconds of all workers, peak memory of one worker in GB.
    """

    rows: int
    scored: int
    retried: int
    processor_seconds: float
    peak_gb: float


def predict_shards(
    model: str,
    source: Store,
    target: Store,
    missing_images: MissingImages = "error",
    resources: Resources | None = None,
) -> PredictionSummary:
    """Score every shard of `source` that is not in `target`: one parquet file of isic_id, target
    for each.

    The scores equal those of one machine. Raises InputError when a patient or lesion is in two
    shards (then nothing is scored), when `target` holds scores of another run, and, after all
    others are scored, for shards that failed.
    """
    folder = resolve_model(model)
    bundle = load_bundle(folder).manifest
    manifest = read_shard_manifest(source)
    if missing_images == "error" and bundle.backbones and not manifest.images:
        raise InputError(
            f"{redact(source.uri)} holds no images: use --missing-images impute to score by the"
            " features alone"
        )
    task = ScoringTask(source, target, bundle.hash, missing_images, f"isic-{uuid.uuid4().hex}")
    missing = _missing(task, manifest)
    done = len(manifest.shards) - len(missing)
    _log(
        f"{len(manifest.shards):,} shards, {manifest.rows:,} lesions; "
        f"{done:,} already scored, {len(missing):,} to score"
    )
    options = (resources or Resources()).as_options()
    with connected() as ray:
        uniqueness.check_unique(ray, source, manifest.shards)
        if missing and COMPLETION_FILE in target:
            target.remove(COMPLETION_FILE)
        actor = ray.remote(num_cpus=0)(Coordinator).options(
            name=task.coordinator, scheduling_strategy=driver_node(ray)
        )
        coordinator = actor.remote(put_files(ray, folder), bundle.hash)
        tasks = (
            len(missing)
            if manifest.images
            else _tasks(len(missing), ray.cluster_resources().get("CPU", 1))
        )
        outcomes = _run(task, missing, tasks, options) if missing else []
        ray.kill(coordinator)
    _finish(task, manifest, missing, outcomes)
    peak = max((outcome.peak_gb for outcome in outcomes), default=0.0)
    retried = sum(bool(outcome.lost) for outcome in outcomes)
    return PredictionSummary(
        manifest.rows, len(outcomes), retried, sum(outcome.seconds for outcome in outcomes), peak
    )


def _missing(task: ScoringTask, manifest: ShardManifest) -> list[Shard]:
    """Shards whose scores are not in the target. Raises InputError for scores of other shards or of
    another model.
    """
    existing = {
        name
        for name in task.target.sizes()
        if name.endswith(".parquet") and not name.startswith((".", "_"))
    }
    if unknown := sorted(existing - {shard.name for shard in manifest.shards}):
        raise InputError(
            f"{task.target.where(unknown[0])} belongs to no shard of {redact(task.source.uri)}: "
            "name another folder for --out"
        )
    scored = [shard for shard in manifest.shards if shard.name in existing]
    with ThreadPoolExecutor(16) as pool:
        stamps = dict(
            zip(
                (shard.name for shard in scored),
                pool.map(lambda shard: read_stamp(task.target, shard.name), scored),
                strict=True,
            )
        )
    for name, stamp in stamps.items():
        if stamp is None or json.loads(stamp)["bundle"] != task.bundle_hash:
            raise InputError(
                f"{task.target.where(name)} holds scores of another model: name another folder for"
                " --out, or remove that file"
            )
    return [shard for shard in manifest.shards if stamps.get(shard.name) != task.stamp(shard)]


def _tasks(shards: int, processors: float) -> int:
    """Number of Ray tasks for quick shards: starting a task leaves its worker idle for a tenth of a
    second.

    Enough tasks for an even load, and few enough shards in each for regular progress lines.
    """
    return min(
        shards,
        max(math.ceil(shards / _SHARDS_PER_TASK), math.ceil(_TASKS_PER_PROCESSOR * processors)),
    )


def _run(
    task: ScoringTask, shards: Sequence[Shard], tasks: int, options: dict[str, Any]
) -> list[Outcome]:
    from ray import data

    _silence_ray_data()
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    # An outcome is one line; Ray Data's default reserves 128 MB for a block and starts fewer
    # workers.
    context.target_max_block_size = 1 << 20
    items = [{"shard": json.dumps(asdict(shard))} for shard in shards]
    dataset = data.from_items(items, override_num_blocks=tasks).map_batches(
        score_batch, batch_size=1, batch_format="numpy", fn_kwargs={"task": task}, **options
    )
    progress = ShardProgress(len(shards), sum(shard.rows for shard in shards))
    outcomes: dict[str, Outcome] = {}
    for row in dataset.iter_rows():
        outcome = Outcome(**json.loads(row["outcome"]))
        progress.add(outcome)
        outcomes[outcome.shard] = outcome
    return list(outcomes.values())


def _silence_ray_data() -> None:
    """Log Ray Data's execution plans to its files only, not to the terminal."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.get_name() == "console":
            handler.setLevel(logging.ERROR)


class ShardProgress:
    """Prints the progress of the run and the shards that were retried."""

    def __init__(self, shards: int, rows: int) -> None:
        self.shards, self.rows = shards, rows
        self.shards_done = self.rows_done = 0
        self.started = self.printed = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.shards_done += 1
        self.rows_done += outcome.rows
        if outcome.lost and not outcome.error:
            _log(
                f"{outcome.shard} was lost with {', '.join(outcome.lost)} and retried by"
                f" {outcome.worker}"
            )
        now = time.monotonic()
        if now - self.printed >= _PROGRESS_SECONDS:
            self.printed = now
            left = (self.rows - self.rows_done) * (now - self.started) / max(self.rows_done, 1)
            share = self.rows_done / self.rows
            _log(
                f"{self.shards_done:,} of {self.shards:,} shards, {self.rows_done:,} of"
                f" {self.rows:,} lesions ({share:.0%}), {left / 60:.0f} min left"
            )


def _finish(
    task: ScoringTask,
    manifest: ShardManifest,
    missing: Sequence[Shard],
    outcomes: Sequence[Outcome],
) -> None:
    """Raise InputError for failed shards; else check that no shard is missing and write the
    completion file.
    """
    failed = [outcome for outcome in outcomes if outcome.error]
    lost = {shard.name for shard in missing} - {outcome.shard for outcome in outcomes}
    if failed or lost:
        # Report identical errors once.
        lines = list(
            dict.fromkeys(
                [outcome.error for outcome in failed] + [f"{name}: no result" for name in lost]
            )
        )
        more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
        count = len(failed) + len(lost)
        raise InputError(
            f"{count} of {len(manifest.shards)} shards are not scored, all others are:"
            f" {'; '.join(lines[:3])}{more}; then run the same command again, which scores only"
            " these"
        )
    if left := _missing(task, manifest):
        raise InputError(
            f"{task.target.where(left[0].name)} was written but is missing: check the storage"
        )
    done = {
        "bundle": task.bundle_hash,
        "missing_images": task.missing_images,
        "rows": manifest.rows,
        "shards": len(manifest.shards),
        "input": sha256_json([asdict(shard) for shard in manifest.shards]),
    }
    task.target.write(COMPLETION_FILE, json.dumps(done, indent=1).encode())


def _log(text: str) -> None:
    sys.stderr.write(f"isic: {text}\n")
