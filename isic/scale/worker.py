"""Score one shard: read, predict with the bundle, write. Runs in Ray's worker processes.

A process caches its bundle, so that models are read once per worker.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from isic.core.errors import InputError, error_line
from isic.predict.bundle import Bundle
from isic.predict.scoring import MissingImages
from isic.scale.shards import Shard, read_shard
from isic.scale.store import Store

if TYPE_CHECKING:
    from isic.data.tiles import TileStore

#: A shard fails after its worker was lost this many times.
_MAX_LOST_WORKERS = 3
_STAMP = b"isic"


@dataclass(frozen=True)
class ScoringTask:
    """Settings of the run, equal in all workers. `coordinator`: name of the coordinator actor."""

    source: Store
    target: Store
    bundle_hash: str
    missing_images: MissingImages
    coordinator: str

    def stamp(self, shard: Shard) -> str:
        """Hashes and settings that determine a shard's scores, as JSON."""
        content = {
            "bundle": self.bundle_hash,
            "missing_images": self.missing_images,
            "shard": shard.sha256,
        }
        return json.dumps(content, sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a shard: lesions scored, or a one-line error. `lost` names workers lost in earlier
    attempts.

    `seconds` is processor time; `peak_gb` is the peak memory of the worker's process so far.
    """

    shard: str
    rows: int
    worker: str
    error: str = ""
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_gb: float = 0.0


def score_batch(batch: Mapping[str, Any], task: ScoringTask) -> dict[str, Any]:
    """The function that Ray Data maps: shards as JSON in column `shard` to one outcome as JSON
    each.
    """
    outcomes = [_score_shard(Shard(**json.loads(text)), task) for text in batch["shard"]]
    return {
        "outcome": np.array([json.dumps(outcome.__dict__) for outcome in outcomes], dtype=object)
    }


def _score_shard(shard: Shard, task: ScoringTask) -> Outcome:
    """Score one shard into one file, unless it is already scored. Errors a user can fix are
    returned as a line.
    """
    import ray

    worker = (
        f"{ray.util.get_node_ip_address()} node {ray.get_runtime_context().get_node_id()[:8]} pid"
        f" {os.getpid()}"
    )
    coordinator, started = ray.get_actor(task.coordinator), time.process_time()
    lost: list[str] = []
    try:
        if read_stamp(task.target, shard.name) != task.stamp(shard):
            lost = ray.get(coordinator.start.remote(shard.name, worker))
            if len(lost) >= _MAX_LOST_WORKERS:
                return Outcome(shard.name, 0, worker, _crash_error(shard, len(lost)), lost)
            _score(_bundle(task.coordinator), shard, task)
    except MemoryError:
        return Outcome(shard.name, 0, worker, _crash_error(shard, 1), lost)
    except Exception as error:
        line = error_line(error)
        if line is None:
            raise
        return Outcome(shard.name, 0, worker, line, lost)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Outcome(shard.name, shard.rows, worker, "", lost, time.process_time() - started, peak)


@lru_cache(maxsize=1)
def _bundle(coordinator: str) -> Bundle:
    import ray

    from isic.scale.coordinator import receive_bundle

    return receive_bundle(ray, ray.get_actor(coordinator))


def _score(bundle: Bundle, shard: Shard, task: ScoringTask) -> None:
    contents = read_shard(task.source, shard)
    if len(contents.rows) != shard.rows:
        raise InputError(
            f"{task.source.where(shard.name)} has {len(contents.rows)} rows, {shard.rows} in its"
            " manifest"
        )
    try:
        # ShardTiles has the interface of TileStore.
        scores = bundle.predict(
            contents.rows, cast("TileStore | None", contents.tiles), task.missing_images
        )
    except InputError as error:
        raise InputError(f"{shard.name}: {error}") from error
    task.target.write(shard.name, pack_scores(scores, task.stamp(shard)))


def pack_scores(scores: pd.Series, stamp: str) -> bytes:
    """A parquet file of isic_id, target (float64), with the stamp in its metadata."""
    columns = {scores.index.name: scores.index.to_numpy(object), "target": scores.to_numpy()}
    table = pa.table(columns).replace_schema_metadata({_STAMP: stamp.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_stamp(store: Store, name: str) -> str | None:
    """The stamp of a file of scores; None if there is no such file or no stamp in it."""
    if name not in store:
        return None
    try:
        metadata = store.read_with(name, pq.read_metadata).metadata or {}
    except pa.ArrowException:
        return None
    stamp: bytes | None = metadata.get(_STAMP)
    return None if stamp is None else stamp.decode()


def _crash_error(shard: Shard, times: int) -> str:
    return (
        f"{shard.name} ({shard.rows:,} lesions, {shard.bytes / 1e6:.0f} MB) crashed its worker"
        f" {times} times, probably out of memory: raise --memory-gb or make smaller"
        " shards (isic shard --rows)"
    )
