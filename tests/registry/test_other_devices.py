"""A bundle trained on one device is checked on another: real 16-bit scores, emulated on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from isic.core.io import read_parquet, write_parquet
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.data.tiles import TileStore
from isic.image.network import device
from isic.image.network.embed import embed
from isic.predict.reproduce import Reload, reload_here
from isic.predict.tolerance import GPU_TOLERANCE, Origin, pair_tolerance
from isic.registry.gate import _reproduced as reload_check
from pipelines.register import bundle_of
from tests.registry.conftest import fit_stacker


@pytest.fixture
def params(layout: Layout) -> Params:
    """A stacker with little beside the images, so that its trees split by them."""
    params = load_params(layout.params)
    dropped = tuple(name for name in params.features.families if name != "age")
    stack = params.stack.model_copy(update={"rounds": 60, "drop": dropped})
    return params.model_copy(update={"stack": stack})


def train_elsewhere(
    layout: Layout,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    name: str,
    scale: float = 1.0,
) -> None:
    """Out-of-fold logits in 16-bit arithmetic, times `scale`, as if of GPU `name`, and a stacker of
    them.
    """
    tiles = TileStore(layout.train_images)
    with monkeypatch.context() as patch:
        patch.setattr(device, "scoring_precision", lambda *_: precision)
        for backbone in params.image.backbones:
            for fold in params.folds:
                path = layout.embedding(backbone, fold)
                frame = read_parquet(path)
                logits = embed(layout.image_model(backbone, fold), tiles, frame["isic_id"].tolist())
                frame = pd.DataFrame(
                    {"isic_id": frame["isic_id"], "logit": logits.logits * np.float32(scale)}
                )
                path.unlink()
                write_parquet(path, frame, {"precision": precision, "device": name})
    fit_stacker(layout, params)


def reload(layout: Layout, params: Params) -> Reload:
    bundle = bundle_of(layout, params)
    return reload_here(bundle.folder, layout.train_metadata, layout.train_images, 64)


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        pytest.param("fp16", "NVIDIA T4, 15.8 GB", marks=pytest.mark.slow),
        ("bf16", "NVIDIA L40S, 47.7 GB"),
    ],
)
def test_a_bundle_scored_in_16_bits_elsewhere_is_promotable_here(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch, precision: str, name: str
) -> None:
    train_elsewhere(layout, params, monkeypatch, precision, name)
    found = reload(layout, params)
    assert found.largest > params.gate.reload_tolerance, "the bits make no difference to forgive"
    assert found.stacker is not None
    assert found.stacker <= params.gate.reload_tolerance
    assert 0 < found.share < 1
    check = reload_check(params.gate, found)
    assert check.passed
    assert f"{precision} on {name.split(',')[0]} (not measured), here fp32 on CPU" in check.found


def test_without_a_gpu_nothing_is_forgiven(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same 16-bit scores, in files whose origin is fp32 on a CPU."""
    train_elsewhere(layout, params, monkeypatch, "fp16", "CPU")
    found = reload(layout, params)
    assert found.stacker is None
    assert not reload_check(params.gate, found).passed


@pytest.mark.parametrize(
    "change",
    [
        "weights",
        *(pytest.param(part, marks=pytest.mark.slow) for part in ("logits", "scores", "stack")),
    ],
)
def test_a_different_bundle_is_refused(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Each part is changed by about three percent, in a bundle whose hashes are right."""
    name = "NVIDIA H100 80GB HBM3, 85.0 GB"
    scale = 1.03 if change == "logits" else 1.0
    train_elsewhere(layout, params, monkeypatch, "fp16", name, scale)
    if change == "weights":
        path = layout.image_model("convnext", 1) / "model.safetensors"
        state = load_file(path)
        path.unlink()
        save_file({key: value * 1.03 for key, value in state.items()}, path)
    if change == "scores":
        oof = read_parquet(layout.oof)
        layout.oof.unlink()
        write_parquet(layout.oof, oof.assign(score=oof["score"] * 0.97))
    if change == "stack":
        own = read_parquet(layout.oof)
        other = params.stack.model_copy(update={"rounds": params.stack.rounds + 1})
        fit_stacker(layout, params.model_copy(update={"stack": other}))
        layout.oof.unlink()
        write_parquet(layout.oof, own)
    found = reload(layout, params)
    check = reload_check(params.gate, found)
    assert not check.passed
    assert "NVIDIA H100 80GB HBM3, here fp32 on CPU" in check.found


def test_pairs_add_what_each_side_differs_from_a_cpu() -> None:
    cpu, half, wide = Origin(), Origin("fp16", "NVIDIA A10"), Origin("fp32", "NVIDIA A10")
    assert pair_tolerance(cpu, cpu) == 1e-5
    assert pair_tolerance(half, cpu) == pair_tolerance(cpu, half) == GPU_TOLERANCE["fp16"]
    assert pair_tolerance(half, wide) == pytest.approx(
        sum(GPU_TOLERANCE[k] for k in ("fp16", "fp32"))
    )


def test_the_guide_has_the_tolerances() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
    for precision, tolerance in GPU_TOLERANCE.items():
        written = f"{tolerance:.0e}".replace("e-0", "e-")
        assert f"| {precision} on a GPU | {written} |" in guide
