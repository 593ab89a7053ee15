"""A foreign or damaged stacker folder is a one-line error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isic.core.errors import InputError
from isic.stack import Stack, fit_stack
from tests.stack.population import make, settings


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stacker's folder; tests restore its stack.json."""
    folder = tmp_path_factory.mktemp("stacker") / "stack"
    fit_stack(*make(), settings()).save(folder)
    return folder


def changed(*keys: str, to: Any = None) -> Callable[[dict[str, Any]], Any]:
    """A change to one value of stack.json; `to` None removes it."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        if to is None:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = to
        return content

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {"format": 2}, "no usable `columns`"),
        (lambda _: [], "no usable `content`"),
        (lambda _: None, "no usable"),
        (lambda _: "stack", "no usable"),
        (changed("images"), "no usable `images`"),
        (changed("images", to={}), r"no usable `images\.scale`"),
        (changed("levels", to=[]), "no usable `levels`"),
        (changed("columns", to=["measure_0"]), "no usable `columns`"),
        (changed("lesion_columns", to=["moon"]), "parts that do not fit each other"),
        (changed("chains", "1", "combination", to={"image": -1.0}), "no usable `chains"),
        (changed("chains", to={}), "no usable `chains`"),
        (changed("chains", to={"first": {}}), r"no usable `chains\.first"),
        (changed("chains", "1", "offset", to="much"), r"no usable `chains\.1\.offset`"),
        (
            changed("chains", "1", "members", to={"lightgbm": 7}),
            r"no usable `chains\.1\.members\.lightgbm`",
        ),
        (changed("chains", "1", "blend", to={}), r"no usable `chains\.1\.blend\.weights`"),
        (
            changed("chains", "1", "scales", "vit", to={"mean": "low"}),
            r"no usable `chains\.1\.scales\.vit",
        ),
        (changed("metrics"), "no usable `metrics`"),
        (
            changed("chains", "1", "fitted", to={"horoscope": {}}),
            "fitted features `horoscope`, which this code lacks",
        ),
    ],
)
def test_a_description_of_another_shape_is_one_line(
    stored: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    file = stored / "stack.json"
    text = file.read_text()
    try:
        file.write_text(json.dumps(change(json.loads(text))))
        with pytest.raises(InputError, match=message):
            Stack.load(stored)
    finally:
        file.write_text(text)
    Stack.load(stored)
