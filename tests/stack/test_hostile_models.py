"""Model files of XGBoost and CatBoost from anyone: a damaged one is refused, or scores finitely.

The processes that load them are forked, since the libraries trust what they read.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isic.core.errors import InputError

catboost = pytest.importorskip("catboost")
xgb = pytest.importorskip("xgboost")

from isic.stack.members import catboost_, catboost_check, xgboost_  # noqa: E402
from isic.stack.members.xgboost_json import check_json  # noqa: E402

COLUMNS = ["a", "b", "c", "d"]
ROWS = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)
ROWS[::7, 1] = np.nan
TARGET = (np.nan_to_num(ROWS).sum(1) > 1).astype(int)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    data = xgb.QuantileDMatrix(ROWS, label=TARGET, feature_names=COLUMNS)
    settings = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": 4, "gamma": 0.5}
    xgb.train(settings, data, 5).save_model(folder / "m.json")
    pool = catboost.Pool(ROWS, label=TARGET, feature_names=COLUMNS)
    settings = {"loss_function": "Logloss", "iterations": 5, "depth": 3, "logging_level": "Silent"}
    catboost.CatBoost(settings | {"allow_writing_files": False}).fit(pool).save_model(
        str(folder / "m.cbm")
    )
    return folder


def test_a_whole_model_scores_as_before(models: Path) -> None:
    plain = xgb.Booster(model_file=models / "m.json")
    loaded = xgboost_.LIBRARY.load(models / "m.json", COLUMNS)
    for score in (xgboost_.LIBRARY.log_odds, xgboost_.LIBRARY.contributions):
        np.testing.assert_array_equal(score(plain, ROWS), score(loaded, ROWS))
    with pytest.raises(InputError, match="feature_names is not that"):
        xgboost_.LIBRARY.load(models / "m.json", ["a", "c", "b", "d"])
    loaded = catboost_.LIBRARY.load(models / "m.cbm", COLUMNS)
    plain = catboost.CatBoost().load_model(str(models / "m.cbm"))
    score = catboost_.LIBRARY.log_odds
    np.testing.assert_array_equal(score(plain, ROWS), score(loaded, ROWS))


def test_a_catboost_file_that_ends_its_reader_is_named(models: Path, tmp_path: Path) -> None:
    (tmp_path / "a.cbm").write_bytes((models / "m.cbm").read_bytes())
    data = bytearray((models / "m.cbm").read_bytes())
    data[8:12] = b"\xff\xff\xff\x7f"
    (tmp_path / "b.cbm").write_bytes(data)
    catboost_.LIBRARY.load(tmp_path / "a.cbm", COLUMNS)
    with pytest.raises(InputError, match=r"b\.cbm is not a CatBoost model of the columns"):
        catboost_.LIBRARY.load(tmp_path / "b.cbm", COLUMNS)
    with pytest.raises(InputError, match="other columns"):
        catboost_.LIBRARY.load(tmp_path / "a.cbm", ["a", "c", "b", "d"])


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("left_children", 999),
        ("left_children", 0),
        ("right_children", -7),
        ("split_indices", 4),
        ("default_left", 2),
        ("split_conditions", "x"),
        ("base_weights", 1e39),
        ("split_type", 1),
    ],
)
def test_a_tree_with_a_wrong_value_is_refused(models: Path, part: str, value: Any) -> None:
    content = json.loads((models / "m.json").read_text())
    content["learner"]["gradient_booster"]["model"]["trees"][1][part][0] = value
    with pytest.raises(ValueError, match="tree 1: "):
        check_json(json.dumps(content).encode(), COLUMNS)


def _mutate_text(data: bytes, random: np.random.Generator) -> bytes:
    text = data.decode()
    numbers = list(re.finditer(r"-?\d+(\.\d+)?(E-?\d+)?", text))
    for _ in range(int(random.integers(1, 4))):
        found = numbers[int(random.integers(len(numbers)))]
        new = random.choice(["-1", "0", "7", "99", "2147483647", "1e40", '"x"', "null", "[]", ""])
        text = text[: found.start()] + str(new) + text[found.end() :]
    return (text[: int(random.integers(len(text)))] if random.random() < 0.1 else text).encode()


def _mutate_bytes(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(random.choice([1, 2, 8]))):
        place = int(random.integers(len(data)))
        changed[place : place + 4] = random.choice(
            [b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", bytes([int(random.integers(256))])]
        )
    return bytes(changed[: int(random.integers(len(data)))] if random.random() < 0.2 else changed)


def _status(act: Callable[[], bool]) -> int:
    """Exit status of a child that calls `act`: 0 for True, 2 for False or InputError."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = 0 if act() else 2
        except InputError:
            code = 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_no_damaged_xgboost_model_ends_the_process(models: Path, tmp_path: Path) -> None:
    random, ended = np.random.default_rng(), Counter[int]()
    file = tmp_path / "m.json"

    def score() -> bool:
        model = xgboost_.LIBRARY.load(file, COLUMNS)
        xgboost_.LIBRARY.contributions(model, ROWS[:5])
        return bool(np.isfinite(xgboost_.LIBRARY.log_odds(model, ROWS)).all())

    for _ in range(300):
        file.write_bytes(_mutate_text((models / "m.json").read_bytes(), random))
        ended[_status(score)] += 1
    assert ended.keys() <= {0, 2}, ended


@pytest.mark.slow
def test_what_the_check_lets_pass_of_catboost_scores(models: Path, tmp_path: Path) -> None:
    random, ended = np.random.default_rng(), Counter[int]()
    file = tmp_path / "m.cbm"

    def score() -> bool:
        model = catboost.CatBoost().load_model(str(file))
        return bool(np.isfinite(catboost_.LIBRARY.log_odds(model, ROWS)).all())

    for _ in range(300):
        file.write_bytes(_mutate_bytes((models / "m.cbm").read_bytes(), random))
        # A fault, or an end of the process, here refuses the file.
        if _status(lambda: not catboost_check.fault(str(file), COLUMNS)) == 0:
            ended[_status(score)] += 1
    assert ended[0] > 0
    assert ended.keys() <= {0, 2}, ended
