"""The completion file of a folder of scores; a loop replaces Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.scale import predict as prediction
from isic.scale import uniqueness
from isic.scale.make_shards import make_shards
from isic.scale.predict import COMPLETION_FILE, predict_shards
from isic.scale.shards import Shard
from isic.scale.store import Store
from isic.scale.worker import Outcome, ScoringTask, pack_scores, read_stamp


class Loop:
    """Scores shard by shard, and stops as by Ctrl-C after `most`."""

    most = 99

    def __call__(
        self, task: ScoringTask, shards: Sequence[Shard], tasks: int, options: dict[str, Any]
    ) -> list[Outcome]:
        scores = pd.Series([0.5], index=pd.Index(["ISIC_1"], name="isic_id"))
        for shard in shards[: self.most]:
            task.target.write(shard.name, pack_scores(scores, task.stamp(shard)))
        if self.most < len(shards):
            raise KeyboardInterrupt
        return [Outcome(shard.name, shard.rows, "here") for shard in shards]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    played = Loop()
    manifest = SimpleNamespace(hash="0" * 64, backbones=("vit",))
    monkeypatch.setattr(prediction, "resolve_model", lambda model: Path(model))
    monkeypatch.setattr(
        prediction, "load_bundle", lambda folder: SimpleNamespace(manifest=manifest)
    )
    monkeypatch.setattr(prediction, "connected", lambda: nullcontext(MagicMock()))
    monkeypatch.setattr(prediction, "driver_node", lambda ray: None)
    monkeypatch.setattr(prediction, "_run", played)
    monkeypatch.setattr(uniqueness, "check_unique", lambda ray, source, shards: None)
    return played


@pytest.fixture(scope="module")
def shards(sample_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("shards"))
    assert (
        len(
            make_shards(
                sample_raw / "train-metadata.csv", sample_raw / "train-image.hdf5", store, rows=300
            ).shards
        )
        >= 2
    )
    return store


def test_scores_made_in_two_ways_are_never_called_complete(
    loop: Loop, shards: Store, tmp_path: Path
) -> None:
    target = Store(tmp_path / "out")
    predict_shards("m", shards, target, "error")
    assert json.loads(target.read(COMPLETION_FILE))["missing_images"] == "error"
    loop.most = 1
    with pytest.raises(KeyboardInterrupt):
        predict_shards("m", shards, target, "impute")
    ways = {
        json.loads(read_stamp(target, name) or "")["missing_images"]
        for name in target.sizes()
        if name != COMPLETION_FILE
    }
    assert ways == {"error", "impute"}
    assert COMPLETION_FILE not in target
    loop.most = 99
    predict_shards("m", shards, target, "impute")
    assert json.loads(target.read(COMPLETION_FILE))["missing_images"] == "impute"


def test_a_run_that_scores_nothing_leaves_the_closing_file(
    loop: Loop, shards: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Store(tmp_path / "out")
    predict_shards("m", shards, target, "error")
    before = target.read(COMPLETION_FILE)

    def refuse(*_: object) -> None:
        raise InputError("a patient is in two shards")

    monkeypatch.setattr(uniqueness, "check_unique", refuse)
    with pytest.raises(InputError, match="two shards"):
        predict_shards("m", shards, target, "impute")
    assert target.read(COMPLETION_FILE) == before
