"""LightGBM can read and score every text that passes the check; it ends the process at a malformed
one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest

from isic.stack.members.lightgbm_text import check_text

COLUMNS = ["a", "b", "c"]
_READ = """
import pathlib, sys
import lightgbm, numpy
rows = numpy.random.default_rng(0).normal(size=(50, 3))
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.txt")):
    print(file.name, flush=True)
    try:
        model = lightgbm.Booster(model_str=file.read_text())
    except lightgbm.basic.LightGBMError:
        continue
    assert numpy.isfinite(model.predict(rows, raw_score=True)).all(), file
"""


def text_of(rounds: int = 12, leaves: int = 7, rows: int = 300, **params: object) -> str:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(rows, 3))
    values[::7, 1] = np.nan
    target = (values[:, 0] + generator.normal(size=rows) > 0).astype(int)
    settings = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": leaves}
    data = lgb.Dataset(values, target, feature_name=COLUMNS)
    return lgb.train(settings | params, data, rounds).model_to_string()


def test_a_split_by_missing_values_passes() -> None:
    text = text_of()
    threshold = re.search(r"(?<=^threshold=)\S+", text, re.MULTILINE)
    size = re.search(r"(?<=^tree_sizes=)\d+", text, re.MULTILINE)
    assert threshold is not None
    assert size is not None
    shorter = int(size[0]) - len(threshold[0]) + len("inf")
    text = text.replace(f"threshold={threshold[0]}", "threshold=inf", 1)
    text = text.replace(f"tree_sizes={size[0]}", f"tree_sizes={shorter}", 1)
    model = lgb.Booster(model_str=check_text(text.encode(), COLUMNS))
    assert np.isfinite(model.predict(np.ones((3, 3)), raw_score=True)).all()


def test_whole_models_pass() -> None:
    rows = np.random.default_rng(2).normal(size=(40, 3))
    for text in (
        text_of(),
        text_of(rounds=1, leaves=2),
        text_of(rows=20, min_data_in_leaf=30),  # trees of one leaf
        text_of(leaves=200, min_data_in_leaf=1),
        text_of(bagging_fraction=0.5, bagging_freq=1, lambda_l1=1.0),
        text_of(use_missing=False),
        text_of(zero_as_missing=True),
        text_of(scale_pos_weight=1e-30),
    ):
        checked = lgb.Booster(model_str=check_text(text.encode(), COLUMNS))
        whole = lgb.Booster(model_str=text)
        assert (checked.predict(rows, raw_score=True) == whole.predict(rows, raw_score=True)).all()
        assert (checked.feature_importance("gain") == whole.feature_importance("gain")).all()
        with pytest.raises(ValueError, match="is of other columns than the stacker"):
            check_text(text.encode(), ["a", "c", "b"])


def _mutants(text: str, generator: np.random.Generator) -> list[str]:
    """Texts with a cut, a deleted line, swapped lines, or changed characters or numbers."""
    mutants = []
    for _ in range(60):
        at, until = np.sort(generator.integers(0, len(text), 2))
        mutants.append(text[:at] + text[min(until, at + 30) :])
        lines = text.split("\n")
        one, other = generator.integers(0, len(lines), 2)
        mutants.append("\n".join(lines[:one] + lines[one + 1 :]))
        lines[one], lines[other] = lines[other], lines[one]
        mutants.append("\n".join(lines))
        mutants.append(text[:at] + chr(int(generator.integers(1, 256))) + text[at + 1 :])
        numbers = list(re.finditer(r"-?\d+(\.\d+)?", text[: text.index("end of trees")]))
        number = numbers[int(generator.integers(len(numbers)))]
        value = str(generator.choice(["0", "-1", "7", "99999", "1e9", "nan", "", "x", "0.5", "-7"]))
        # As long as before, so that the sizes of the trees still fit.
        mutants.append(
            text[: number.start()] + value.ljust(len(number[0]), "0") + text[number.end() :]
        )
    return mutants


@pytest.mark.parametrize("seed", [5, 6])
def test_what_passes_can_be_read_and_scored(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    passed = refused = 0
    for number, text in enumerate(_mutants(text_of(), generator)):
        try:
            checked = check_text(text.encode(), COLUMNS)
        except ValueError:
            refused += 1
        else:
            passed += 1
            (tmp_path / f"{number:03d}.txt").write_text(checked)
    assert refused > 150
    assert passed > 10
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-20:]} {done.stderr[-500:]}"


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"tree\n", b"tree\n\nTree=0\n", b"\0" * 100])
def test_what_is_no_text_of_a_model_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="it"):
        check_text(data, COLUMNS)
