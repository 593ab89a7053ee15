"""Shared fixtures: a bundle, a Ray cluster of two nodes on loopback, a folder for servers.

Tests skip where the packages they need are not installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from isic.core.params import load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.predict.bundle import load_bundle
from pipelines.register import bundle_of
from tests.registry.conftest import made, own_store

__all__ = ["made", "own_store"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter, which pytest's own are not when root runs the
    tests.
    """
    path = Path(tempfile.mkdtemp(prefix="isic-servers-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def bundle(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder; read only."""
    folder = tmp_path_factory.mktemp("scale") / "checkout"
    shutil.copytree(made, folder)
    layout = Layout(folder)
    bundle_of(layout, load_params(layout.params))
    return layout.bundle


@pytest.fixture(scope="session")
def plain(bundle: Path, sample_raw: Path) -> pd.Series:
    """Scores of all generated lesions by one machine, by isic_id."""
    rows = read_metadata(sample_raw / "train-metadata.csv", train=True)
    return load_bundle(bundle).predict(rows, TileStore(sample_raw / "train-image.hdf5"))


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that registers the file system `faulty://` (see faulty.py) in every
    process.
    """
    folder = tmp_path_factory.mktemp("faults")
    shutil.copy(Path(__file__).with_name("faulty.py"), folder)
    about = folder / "faulty-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[fsspec.specs]\nfaulty = faulty:Faulty\n")
    return folder


@pytest.fixture(scope="module")
def cluster(faults: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each; RAY_ADDRESS names them. Only the head survives every test."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        two = start_cluster(patch, faults)
        # This process may already have loaded fsspec with the installed file systems.
        fsspec.register_implementation("faulty", "faulty.Faulty", clobber=True)
        yield two
        two.shutdown()


def start_cluster(patch: pytest.MonkeyPatch, *paths: Path) -> Any:
    """A head node of one CPU and a second one, on loopback, `paths` before others on their
    PYTHONPATH.
    """
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own switch for machines without a cluster network: every address is 127.0.0.1.
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # For tests with object storage on loopback: workers inherit the environment of their node.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    # Ray's workers have a low priority; beside other work on two cores a test would never end.
    patch.setenv("RAY_worker_niceness", "0")
    # A node is dead after six seconds without a heartbeat instead of half a minute; a busy machine
    # needs two.
    patch.setenv("RAY_health_check_period_ms", "1000")
    patch.setenv("RAY_health_check_failure_threshold", "6")
    patch.setenv(
        "PYTHONPATH",
        os.pathsep.join([*map(str, paths), str(ROOT), os.environ.get("PYTHONPATH", "")]),
    )
    for path in map(str, paths):
        patch.syspath_prepend(path)
    from ray.cluster_utils import Cluster

    two = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False},
    )
    two.add_node(num_cpus=1, object_store_memory=80 << 20)
    patch.setenv("RAY_ADDRESS", two.address)
    return two


@pytest.fixture
def two_nodes(cluster: Any) -> Any:
    """The cluster with both its nodes alive."""
    if not cluster.worker_nodes:
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    return cluster
