"""Prediction on Ray against one machine: one node, two nodes, a worker's memory, and a node killed
half-way.

Uses models/bundle of this checkout (`dvc repro` makes it), all on this machine: nodes are Ray's own
local cluster of one CPU each. Parts: `one_node` (100,000 lesions with images, whole commands with
their start), `nodes` (by the features alone, on a running cluster; 3,000,000 lesions are 100,000
repeated thirty times under other ids), `killed` (200,000 by the features alone) and `killed_images`
(fewer, with images). Tiles repeat from a few thousand drawn ones. Inputs stay in the temporary
folder for the next part. `ISIC_SCALE_LESS=10` takes a tenth of the lesions; targets of speed and
memory are then not measured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq

from isic.core.io import atomic_dir
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT
from isic.scale.make_shards import make_shards
from isic.scale.predict import PredictionSummary, predict_shards
from isic.scale.shards import JPEG, ShardManifest, pack_shard, read_shard_manifest, shard_entry
from isic.scale.store import Store

PARTS = ("one_node", "nodes", "killed", "killed_images")
TARGETS = {
    "one_node_to_plain": 1.10,
    "two_nodes_speedup": 1.8,
    "worker_memory_growth": 1.15,
    "killed_largest_difference": 1e-6,
}
#: Lesions of a shard: a few dozen shards in every part.
ROWS = 10_000


def main() -> int:
    options = harness.arguments(__doc__ or "", PARTS)
    folder = Layout.find(harness.ROOT).bundle
    # Ray's switch for machines without a cluster network: every address is 127.0.0.1.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    os.environ.update(RAY_health_check_period_ms="1000", RAY_health_check_failure_threshold="5")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(harness.ROOT), os.environ.get("PYTHONPATH", "")]
    )
    less = 50 if options.quick else int(os.environ.get("ISIC_SCALE_LESS", "1"))

    def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
        met: dict[str, bool | None] = dict.fromkeys(TARGETS)
        for name, limit in TARGETS.items():
            if name in measured and (name.startswith("killed") or less == 1):
                met[name] = (
                    measured[name] >= limit
                    if name == "two_nodes_speedup"
                    else measured[name] <= limit
                )
        return met

    parts = {name: partial(measure, name, folder, less) for name in PARTS}
    return harness.run_parts("scale", parts, TARGETS, judge, options.quick, options.only)


def measure(part: str, bundle: Path, less: int) -> dict[str, Any]:
    """The numbers of one part. Raises NotMeasured without a bundle or Ray."""
    if not bundle.is_dir():
        raise harness.NotMeasured("no models/bundle: run `dvc repro` first")
    if importlib.util.find_spec("ray") is None:
        raise harness.NotMeasured("no Ray: run `make setup-scale` first")
    numbers: dict[str, Any] = globals()[f"measure_{part}"](bundle, less)
    return numbers


def measure_one_node(bundle: Path, less: int) -> dict[str, Any]:
    """Complete commands, one after the other, on all cores of this machine; Ray's includes all its
    servers.
    """
    lesions = 100_000 // less
    raw, shards = harness.official(lesions, images=True), shards_of(lesions, images=True)
    files = [
        "--metadata",
        str(raw / "train-metadata.csv"),
        "--images",
        str(raw / "train-image.hdf5"),
    ]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        plain = command(bundle, *files, "--out", str(out / "plain.csv"))
        ray = command(bundle, "--on", "ray", "--input", str(shards), "--out", str(out / "ray"))
        difference = largest_difference(out / "plain.csv", out / "ray")
    return {
        "one_node_lesions": lesions,
        "one_node_plain_seconds": plain.wall,
        "one_node_ray_seconds": ray.wall,
        "one_node_to_plain": ray.wall / plain.wall,
        "one_node_plain_processor_seconds": plain.processor,
        "one_node_ray_processor_seconds": ray.processor,
        "one_node_to_plain_by_processor": ray.processor / plain.processor,
        "one_node_largest_difference": difference,
    }


def measure_nodes(bundle: Path, less: int) -> dict[str, Any]:
    """By the features alone: one and two nodes of one CPU, and the memory of their workers."""
    few = shards_of(100_000 // less, images=False)
    million, many = (multiplied(100_000 // less, times) for times in (10, 30))
    results: dict[str, Any] = {"nodes_lesions": 3_000_000 // less}
    with tempfile.TemporaryDirectory() as name:
        # Fresh workers for each run, so that the peak is of this run only.
        with cluster(2):
            results["worker_gb_at_100000"] = timed(bundle, few, Path(name) / "few")[1].peak_gb
        with cluster(2):
            results["two_nodes_seconds_for_a_million"], summary = timed(
                bundle, million, Path(name) / "million"
            )
            results["worker_gb"] = summary.peak_gb
        with cluster(2):
            results["two_nodes_seconds"], summary = timed(bundle, many, Path(name) / "two")
            results["two_nodes_processor_seconds"] = summary.processor_seconds
        with cluster(1):
            results["single_node_seconds"], summary = timed(bundle, many, Path(name) / "one")
            results["single_node_processor_seconds"] = summary.processor_seconds
    results["two_nodes_speedup"] = results["single_node_seconds"] / results["two_nodes_seconds"]
    results["worker_memory_growth"] = results["worker_gb"] / results["worker_gb_at_100000"]
    return results


def measure_killed(bundle: Path, less: int) -> dict[str, Any]:
    """By the features alone, a node killed half-way."""
    return killed(bundle, 200_000 // less, images=False, prefix="killed")


def measure_killed_images(bundle: Path, less: int) -> dict[str, Any]:
    """With images, a node killed half-way."""
    return killed(bundle, 20_000 // less, images=True, prefix="killed_images")


def killed(bundle: Path, lesions: int, images: bool, prefix: str) -> dict[str, Any]:
    """Predict on two nodes, kill one when half of the shards are done, and compare with the plain
    path.
    """
    raw, shards = (
        harness.official(lesions, images),
        shards_of(lesions, images, rows=max(50, lesions // 40)),
    )
    with tempfile.TemporaryDirectory() as name:
        out, plain = Path(name) / "ray", Path(name) / "plain.csv"
        files = ["--metadata", str(raw / "train-metadata.csv"), "--missing-images", "impute"]
        command(
            bundle,
            *files,
            *(["--images", str(raw / "train-image.hdf5")] if images else []),
            "--out",
            str(plain),
        )
        with cluster(2) as two:
            killer = threading.Thread(target=kill_half_way, args=(two, shards, out), daemon=True)
            killer.start()
            seconds, summary = timed(bundle, shards, out)
            alive = len(two.worker_nodes)
        return {
            f"{prefix}_lesions": summary.rows,
            f"{prefix}_shards": summary.scored,
            f"{prefix}_seconds": seconds,
            f"{prefix}_nodes_lost": 1 - alive,
            f"{prefix}_shards_redone": summary.retried,
            f"{prefix}_largest_difference": largest_difference(plain, out),
        }


def kill_half_way(two: Any, shards: Path, out: Path) -> None:
    """Kill the second node when half of the results are written."""
    half = len(read_shard_manifest(Store(shards)).shards) // 2
    while len(list(out.glob("part-*.parquet"))) < half:
        time.sleep(0.02)
    two.remove_node(next(iter(two.worker_nodes)), allow_graceful=False)


def timed(bundle: Path, shards: Path, out: Path) -> tuple[float, PredictionSummary]:
    """Seconds of a run on the running cluster, and its summary."""
    started = time.perf_counter()
    summary = predict_shards(str(bundle), Store(shards), Store(out), "impute")
    return time.perf_counter() - started, summary


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """Ray nodes of one CPU each; the first is the driver's."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    standing = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes - 1):
        standing.add_node(num_cpus=1, object_store_memory=100 << 20)
    os.environ["RAY_ADDRESS"] = standing.address
    try:
        yield standing
    finally:
        del os.environ["RAY_ADDRESS"]
        standing.shutdown()


class Seconds(NamedTuple):
    """Wall seconds, and processor seconds of all processes."""

    wall: float
    processor: float


def command(bundle: Path, *words: str) -> Seconds:
    """`isic predict` in a process of its own; the processor seconds of its processes are read as
    they run.
    """
    started = time.perf_counter()
    process = psutil.Popen(
        [sys.executable, "-m", "isic.cli", "predict", "--model", str(bundle), *words]
    )
    used: dict[tuple[int, float], float] = {}
    while process.poll() is None:
        for one in [process, *_below(process)]:
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                used[one.pid, one.create_time()] = times.user + times.system
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"isic predict {' '.join(words)} ended with status {process.returncode}")
    return Seconds(time.perf_counter() - started, sum(used.values()))


def _below(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def largest_difference(plain: Path, out: Path) -> float:
    """Largest difference between the scores of the two paths; both hold every lesion once."""
    one = pd.read_csv(plain).set_index("isic_id").iloc[:, 0]
    other = pd.read_parquet(out).set_index("isic_id")["target"]
    if len(one) != len(other) or not other.index.is_unique or set(one.index) != set(other.index):
        raise AssertionError(f"{len(one)} lesions by the plain path, {len(other)} on Ray")
    return float(np.abs(one - other.reindex(one.index)).max())


def shards_of(lesions: int, images: bool, rows: int = ROWS) -> Path:
    """Shards of these files, written once."""
    raw = harness.official(lesions, images)
    home = raw.with_name(f"{raw.name}-shards-{rows}")
    if not home.is_dir():
        with atomic_dir(home) as folder:
            tiles = raw / "train-image.hdf5" if images else None
            make_shards(
                raw / "train-metadata.csv",
                tiles,
                Store(folder),
                rows=min(rows, max(50, lesions // 10)),
            )
    return home


def multiplied(lesions: int, times: int) -> Path:
    """Shards without images, repeated `times` times under other names of lesions and patients."""
    source = shards_of(lesions, images=False)
    home = source.with_name(f"{source.name}-times-{times}")
    if home.is_dir():
        return home
    with atomic_dir(home) as folder:
        store, shards = Store(folder), []
        for number in range(times):
            for shard in read_shard_manifest(Store(source)).shards:
                rows = pq.read_table(source / shard.name).to_pandas().drop(columns=JPEG)
                for name in (ID, PATIENT):
                    rows[name] = rows[name] + f"_{number}"
                data = pack_shard(rows, [None] * len(rows))
                shards.append(
                    shard_entry(f"part-{len(shards):05d}.parquet", data, len(rows), shard.patients)
                )
                store.write(shards[-1].name, data)
        store.write("_manifest.json", ShardManifest(tuple(shards), False).to_json())
    return home


if __name__ == "__main__":
    sys.exit(main())
