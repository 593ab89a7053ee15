"""An image fold that came from elsewhere, or was damaged, is one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isic.core.errors import InputError
from isic.image.network.artifact import load_model, save_model
from isic.image.network.backbone import create
from isic.image.network.catalogue import resolve


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fold's folder with the smallest network; tests put its config.json back."""
    folder = tmp_path_factory.mktemp("fold") / "fold0"
    net, spec = create(*resolve("demo_vit", {}), 32, "none")
    save_model(folder, net, spec, {"tta": "flips", "fold": 0}, [])
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tta": None}, "no usable `tta`"),
        ({"tta": "flip"}, "no usable `tta`"),
        ({"tta": 1}, "no usable `tta`"),
        ({"model": None}, "no usable `model`"),
        ({"model_args": []}, "no usable `model_args`"),
        ({"model_args": {"depth": "deep"}}, "does not take"),
        ({"model_args": {"patch_size": 0}}, "complete image model"),
        ({"mean": None}, "no usable `mean`"),
        ({"mean": [0.5, 0.5]}, r"no usable `mean"),
        ({"std": "wide"}, "no usable `std`"),
        ({"size": "large"}, "no usable `size`"),
        ({"width": 7}, "complete image model"),
        ({"width": -1}, "no usable `width`"),
    ],
)
def test_a_config_of_another_shape_is_one_line(
    stored: Path, change: dict[str, Any], message: str
) -> None:
    refused(stored, json.loads((stored / "config.json").read_text()) | change, message)


@pytest.mark.parametrize("key", ["tta", "model", "mean", "width"])
def test_a_config_that_lacks_something_is_one_line(stored: Path, key: str) -> None:
    content = json.loads((stored / "config.json").read_text())
    del content[key]
    refused(stored, content, f"no usable `{key}`")


@pytest.mark.parametrize("content", [[], None, "model", 3])
def test_a_config_that_is_no_description_is_one_line(stored: Path, content: object) -> None:
    refused(stored, content, r"config\.json")


def refused(folder: Path, content: object, message: str) -> None:
    """Load the fold with another config.json, which must be refused with `message`; then it is put
    back and loads.
    """
    file = folder / "config.json"
    text = file.read_text()
    try:
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            load_model(folder)
    finally:
        file.write_text(text)
    assert load_model(folder).tta == "flips"
