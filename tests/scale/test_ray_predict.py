"""Prediction on a two-node Ray: the scores of one machine, also after faults."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from isic.core.errors import InputError
from isic.scale.make_shards import index_shards, make_shards
from isic.scale.predict import COMPLETION_FILE, predict_shards
from isic.scale.store import Store

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(sample_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "in"
    make_shards(
        sample_raw / "train-metadata.csv", sample_raw / "train-image.hdf5", Store(folder), rows=60
    )
    return folder


@pytest.fixture
def own(shards: Path, tmp_path: Path) -> Path:
    """The test's own shards, at faulty://, with the faults of FAULTY_CONTROL."""
    shutil.copytree(shards, tmp_path / "in")
    return tmp_path / "in"


def _scores(folder: Path) -> pd.Series:
    return pd.read_parquet(folder).set_index("isic_id")["target"]


def _equal(folder: Path, plain: pd.Series) -> None:
    scores = _scores(folder)
    assert scores.index.is_unique
    assert len(scores) == len(plain)
    assert np.abs(scores.reindex(plain.index) - plain).max() <= 1e-6


def _ask(own: Path, *lines: str) -> Store:
    (own.parent / "FAULTY_CONTROL").write_text("\n".join(lines))
    return Store(f"faulty://{own}")


def test_scores_are_those_of_one_machine_and_a_rerun_does_only_what_is_missing(
    two_nodes: Any,
    bundle: Path,
    shards: Path,
    plain: pd.Series,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    summary = predict_shards(str(bundle), Store(shards), Store(out))
    assert (summary.rows, summary.retried) == (len(plain), 0)
    assert 0.1 < summary.peak_gb < 4
    _equal(out, plain)
    count = len(list(out.glob("part-*.parquet")))
    assert json.loads((out / COMPLETION_FILE).read_text())["rows"] == len(plain)
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("part-*")}
    gone = sorted(before)[2]
    (out / gone).unlink()
    capsys.readouterr()
    predict_shards(str(bundle), Store(shards), Store(out))
    assert f"{count - 1} already scored, 1 to score" in capsys.readouterr().err
    after = {file.name: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert [name for name in before if before[name] != after[name]] == [gone]
    _equal(out, plain)


def test_a_node_that_dies_is_done_without(
    two_nodes: Any,
    bundle: Path,
    own: Path,
    plain: pd.Series,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    source = _ask(own, "slow 1")

    def kill() -> None:
        # Half-way, and while a worker of this node is within a shard: every reading takes a second.
        node = next(iter(two_nodes.worker_nodes))
        (raylet,) = node.all_processes["raylet"]
        while len(list(out.glob("part-*"))) < 4 or not _reads(own, raylet.process.pid):
            time.sleep(0.05)
        two_nodes.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    predict_shards(str(bundle), source, Store(out))
    killer.join()
    _equal(out, plain)
    assert "retried by" in capsys.readouterr().err


def _reads(own: Path, raylet: int) -> bool:
    """Whether a worker of the node with this raylet is reading a shard now."""
    for marker in own.parent.glob("FAULTY_READING_*"):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(int(marker.name.rpartition("_")[2])).ppid() == raylet:
                return True
    return False


def test_storage_that_fails_every_tenth_request_changes_nothing(
    two_nodes: Any, bundle: Path, own: Path, plain: pd.Series, tmp_path: Path
) -> None:
    source = _ask(own, "every 10")
    (tmp_path / "results").mkdir()
    predict_shards(str(bundle), source, Store(f"faulty://{tmp_path}/results"))
    assert (tmp_path / "FAULTY_HAPPENED").read_text()
    _equal(tmp_path / "results", plain)


def test_a_truncated_shard_is_named_and_the_others_are_scored(
    two_nodes: Any, bundle: Path, own: Path, plain: pd.Series, tmp_path: Path
) -> None:
    out, bad = tmp_path / "out", own / "part-00001.parquet"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        InputError, match=r"1 of \d+ shards are not scored.*part-00001.parquet is truncated"
    ) as caught:
        predict_shards(str(bundle), Store(own), Store(out))
    assert "\n" not in str(caught.value)
    assert not (out / COMPLETION_FILE).exists()
    assert not (out / bad.name).exists()
    bad.write_bytes(whole)
    predict_shards(str(bundle), Store(own), Store(out))
    _equal(out, plain)


def test_a_shard_that_ends_its_workers_is_given_up_and_the_others_are_scored(
    two_nodes: Any, bundle: Path, own: Path, plain: pd.Series, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    source = _ask(own, "kill part-00002.parquet")
    with pytest.raises(
        InputError, match=r"part-00002.parquet .* crashed its worker 3 times.*--memory-gb"
    ):
        predict_shards(str(bundle), source, Store(out))
    assert len(list(out.glob("part-*"))) == len(list(own.glob("part-*"))) - 1
    predict_shards(str(bundle), _ask(own), Store(out))
    _equal(out, plain)


def test_a_patient_in_two_shards_stops_the_run_before_it_begins(
    two_nodes: Any, bundle: Path, own: Path, tmp_path: Path
) -> None:
    shutil.copy(own / "part-00001.parquet", own / "part-99999.parquet")
    index_shards(Store(own))
    with pytest.raises(
        InputError, match=r"patient IP_\d+ is in .*part-00001.parquet and in part-99999.parquet"
    ):
        predict_shards(str(bundle), Store(own), Store(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_lesion_in_two_shards_stops_the_run_too(
    two_nodes: Any, bundle: Path, own: Path, tmp_path: Path
) -> None:
    table = pd.read_parquet(own / "part-00001.parquet")
    table["patient_id"] = "IP_9999999"
    table.to_parquet(own / "part-99999.parquet", index=False)
    index_shards(Store(own))
    with pytest.raises(InputError, match=r"lesion ISIC_\d+ is in .*a lesion may occur once only"):
        predict_shards(str(bundle), Store(own), Store(tmp_path / "out"))


def test_results_of_another_model_or_input_are_not_mixed(
    two_nodes: Any, bundle: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    pd.DataFrame({"isic_id": ["a"], "target": [0.5]}).to_parquet(out / "part-00000.parquet")
    with pytest.raises(InputError, match="holds scores of another model"):
        predict_shards(str(bundle), Store(shards), Store(out))
    (out / "part-00000.parquet").rename(out / "part-77777.parquet")
    with pytest.raises(InputError, match="belongs to no shard"):
        predict_shards(str(bundle), Store(shards), Store(out))
