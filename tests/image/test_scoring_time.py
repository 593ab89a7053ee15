"""Estimated scoring times against an H100's measured ones, and in what people are shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from isic.core.params import Image, load_params
from isic.core.presets import apply_preset
from isic.image.network import device
from isic.image.network.catalogue import CATALOGUE
from isic.image.scoring_time import (
    EMBEDDED,
    T4,
    ScoredNetwork,
    kaggle_seconds,
    seconds_per_tile,
    speeds,
)
from isic.scale import estimate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["full", "kaggle_t4"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Image:
    """The image section of a preset."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_preset(tmp_path / "params.yaml", ROOT / "pipelines" / "presets", request.param)
    return load_params(tmp_path / "params.yaml").image


@pytest.mark.parametrize(
    ("backbone", "model"), [("eva02", "eva02_base"), ("convnext", "convnextv2_nano")]
)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_the_constants_agree_with_a_measured_gpu(backbone: str, model: str, precision: str) -> None:
    measured = json.loads((ROOT / "benchmarks/results/image_h100.json").read_text())["measured"]
    # 132 multiprocessors; a third of the 67 tera-operations of its data sheet in fp32.
    h100 = speeds(device.effective_tflops(132, (9, 0)), 67 / 3)
    seconds = seconds_per_tile(ScoredNetwork(model, 224, precision), h100)
    assert seconds is not None
    ratio = measured[f"d_forward_tiles_per_second_{backbone}_{precision}"] * seconds * EMBEDDED
    assert 1 / 2 < ratio < 2


def test_time_grows_with_views_area_and_width_of_the_format() -> None:
    one = seconds_per_tile(ScoredNetwork("vit_base", 224), T4)
    assert one is not None
    for network, factor in (
        (ScoredNetwork("vit_base", None), 1),
        (ScoredNetwork(CATALOGUE["vit_base"].tag, 224), 1),
        (ScoredNetwork("vit_base", 448), 4),
        (ScoredNetwork("vit_base", 224, tta="flips"), 4),
    ):
        assert seconds_per_tile(network, T4) == pytest.approx(factor * one)
    wide = seconds_per_tile(ScoredNetwork("vit_base", 224, "fp32"), T4)
    assert wide is not None
    assert 2 * one < wide < 10 * one


def test_no_estimate_without_constants() -> None:
    known = ScoredNetwork("vit_base", 224)
    for unknown in ("demo_vit", "test_vit", "resnet50"):
        assert seconds_per_tile(ScoredNetwork(unknown, 48), T4) is None
        assert kaggle_seconds([known, ScoredNetwork(unknown, 48)]) is None
    assert kaggle_seconds([known] * 4) == pytest.approx(4 * (kaggle_seconds([known]) or 0))


def test_people_are_shown_the_time_of_embedding_and_of_the_hidden_set(image: Image) -> None:
    header, *rows, note, hidden = estimate.cost_table(image, 5, None)
    assert header.endswith("T4 embeds it")
    seconds = seconds_per_tile(ScoredNetwork("eva02_base", 224), T4)
    assert seconds is not None
    assert rows[0].split()[-2:] == [f"{seconds * 401_059 / 5 / 60:.0f}", "min"]
    assert "80,212 lesions in fp16" in note
    assert "500,000 lesions by 10 networks in fp16" in hidden
    assert "not measured" in hidden
    assert estimate.hidden_set_time(image, 5) in hidden


def test_what_is_left_counts_the_embedding(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the constants of a T4: 3 h to train five folds, and more than half of one to embed."""
    monkeypatch.setattr(estimate, "may_have_gpu", lambda: True)
    monkeypatch.setattr(device, "gpu_tflops", lambda: 18.0)
    models = {"eva02": dict.fromkeys(range(5), tmp_path)}
    few, many = (
        estimate.remaining_time(image, models, estimate.Counts(lesions, 393))
        for lesions in (500, 401_059)
    )
    assert "about 3.1 h" in few
    scoring = seconds_per_tile(ScoredNetwork("eva02_base", 224), T4)
    assert scoring is not None
    hours = float(many.split("about ")[1].split(" h")[0])
    assert hours == pytest.approx(3.1 + scoring * 401_059 / 3600, abs=0.1)
