"""What a worker does with a shard: read, score by the bundle, write. Runs in Ray's worker processes.

A process keeps its bundle, so that models are read once per worker.
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

from isic.core.errors import InputError, explain
from isic.predict.bundle import Bundle
from isic.predict.scoring import MissingImages
from isic.scale.shards import Shard, read_shard
from isic.scale.store import Store

if TYPE_CHECKING:
    from isic.data.tiles import TileStore

#: A shard that ended so many workers is left alone.
MAX_LOST = 3
_STAMP = b"isic"


@dataclass(frozen=True)
class ScoringTask:
    """What the run is asked for: the same in every worker. `desk` is the name of the desk's actor."""

    source: Store
    target: Store
    bundle_hash: str
    missing_images: MissingImages
    desk: str

    def stamp(self, shard: Shard) -> str:
        """What the scores of a shard depend on."""
        content = {"bundle": self.bundle_hash, "missing_images": self.missing_images, "shard": shard.sha256}
        return json.dumps(content, sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """How a shard went: lesions scored, or the line of what is wrong. `lost` names earlier workers that vanished.

    `seconds` are of the processor; `peak_gb` is the most memory that the worker's process has held so far.
    """

    shard: str
    rows: int
    worker: str
    error: str = ""
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_gb: float = 0.0


def score_batch(batch: Mapping[str, Any], order: ScoringTask) -> dict[str, Any]:
    """The function Ray Data maps: shards as JSON in column `shard`, one outcome as JSON for each."""
    outcomes = [score_shard(Shard(**json.loads(text)), order) for text in batch["shard"]]
    return {"outcome": np.array([json.dumps(outcome.__dict__) for outcome in outcomes], dtype=object)}


def score_shard(shard: Shard, order: ScoringTask) -> Outcome:
    """Score one shard into one file, unless that is done already. What a person can mend comes back as a line."""
    import ray

    worker = f"{ray.util.get_node_ip_address()} node {ray.get_runtime_context().get_node_id()[:8]} pid {os.getpid()}"
    desk, started = ray.get_actor(order.desk), time.process_time()
    lost: list[str] = []
    try:
        if read_stamp(order.target, shard.name) != order.stamp(shard):
            lost = ray.get(desk.begin.remote(shard.name, worker))
            if len(lost) >= MAX_LOST:
                return Outcome(shard.name, 0, worker, _deadly(shard, len(lost)), lost)
            _score(_bundle(order.desk), shard, order)
    except MemoryError:
        return Outcome(shard.name, 0, worker, _deadly(shard, 1), lost)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        return Outcome(shard.name, 0, worker, line, lost)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Outcome(shard.name, shard.rows, worker, "", lost, time.process_time() - started, peak)


@lru_cache(maxsize=1)
def _bundle(desk: str) -> Bundle:
    import ray

    from isic.scale.coordinator import receive_bundle

    return receive_bundle(ray, ray.get_actor(desk))


def _score(bundle: Bundle, shard: Shard, order: ScoringTask) -> None:
    contents = read_shard(order.source, shard)
    if len(contents.rows) != shard.rows:
        raise InputError(f"{order.source.where(shard.name)} has {len(contents.rows)} rows, its manifest {shard.rows}")
    try:
        # A ShardTiles does what a TileStore does, without its file.
        scores = bundle.predict(contents.rows, cast("TileStore | None", contents.tiles), order.missing_images)
    except InputError as error:
        raise InputError(f"{shard.name}: {error}") from error
    order.target.write(shard.name, pack_scores(scores, order.stamp(shard)))


def pack_scores(scores: pd.Series, stamp: str) -> bytes:
    """A file of isic_id, target (float64) that knows what it was made from."""
    columns = {scores.index.name: scores.index.to_numpy(object), "target": scores.to_numpy()}
    table = pa.table(columns).replace_schema_metadata({_STAMP: stamp.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_stamp(store: Store, name: str) -> str | None:
    """What the scores in a file were made from; None where there is no such file or it is not one of ours."""
    if name not in store:
        return None
    try:
        metadata = store.read_with(name, pq.read_metadata).metadata or {}
    except pa.ArrowException:
        return None
    stamp: bytes | None = metadata.get(_STAMP)
    return None if stamp is None else stamp.decode()


def _deadly(shard: Shard, times: int) -> str:
    return (
        f"{shard.name} ({shard.rows:,} lesions, {shard.bytes / 1e6:.0f} MB) ended its worker {times} times, for want "
        "of memory most likely: give workers more (--memory-gb) or cut smaller shards (isic shard --rows)"
    )
