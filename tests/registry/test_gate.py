"""What the gate looks at, on rows whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss as reference

from isic.core.errors import InputError
from isic.core.metric import pauc
from isic.core.params import Gate
from isic.evaluate.slice_gains import compare_slices
from isic.predict.reproduce import choose_patients
from isic.registry.gate import Check, Verdict, joined, log_loss
from isic.registry.gate import _calibration as calibration_check
from isic.registry.gate import _slices as slice_check

SETTINGS = Gate(
    replicates=100,
    seed=0,
    min_gain=0.0,
    min_gain_low=-0.005,
    max_slice_loss=0.03,
    min_slice_positives=15,
    max_log_loss_rise=0.1,
    max_growth=3.0,
    max_slowdown=4.0,
    reload_rows=64,
    reload_tolerance=1e-5,
)


@pytest.fixture
def rows() -> pd.DataFrame:
    """2,000 lesions of two hospitals; the challenger is perfect in one and upside down in the
    other.
    """
    rng = np.random.default_rng(0)
    count = 2000
    target = (np.arange(count) % 20 == 0).astype(np.int64)
    hospital = np.where(np.arange(count) % 3 == 0, "Small", "Large")
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{number:07d}" for number in range(count)],
            "patient_id": [f"IP_{number // 20}" for number in range(count)],
            "target": target,
            "score": np.where(hospital == "Small", 1 - target, target) * 0.5 + 0.25,
            "score_champion": np.clip(target * 0.3 + rng.random(count) * 0.6, 0, 1),
            "attribution": hospital,
            "sex": pd.Series(np.where(np.arange(count) % 2 == 0, "male", None), dtype="str"),
            "age_approx": rng.choice([35.0, 40.0, 75.0, np.nan], count),
            "anatom_site_general": "head/neck",
            "tbp_tile_type": "3D: XP",
            "tbp_lv_Lext": 60.0,
            "tbp_lv_Bext": 20.0,
            "clin_size_long_diam_mm": rng.choice([1.0, 2.5], count),
        }
    )


def test_slices_are_the_plain_metric_on_their_rows(rows: pd.DataFrame) -> None:
    found = {(part.group, part.level): part for part in compare_slices(rows, 15)}
    small = rows[rows["attribution"] == "Small"]
    part = found["hospital", "Small"]
    assert (part.n, part.positives) == (len(small), small["target"].sum())
    assert part.challenger == pytest.approx(0)
    assert part.champion == pauc(small["target"], small["score_champion"])
    assert {level for group, level in found if group == "age"} == {
        "under 40",
        "40 to 59",
        "75 and over",
        "missing",
    }
    assert {level for group, level in found if group == "size"} == {
        "2.5 mm and over",
        "under 2.5 mm",
    }
    assert ("sex", "missing") in found
    assert ("skin tone (proxy)", "tan") in found, "atan2(10, 20) is 26.6 degrees"


def test_a_collapsed_slice_is_refused_however_good_the_whole(rows: pd.DataFrame) -> None:
    slices = tuple(compare_slices(rows, 15))
    check = slice_check(SETTINGS, slices)
    assert not check.passed
    assert "hospital Small" in check.found


def test_a_slice_with_few_malignant_lesions_is_shown_and_not_judged(rows: pd.DataFrame) -> None:
    few = rows[(rows["attribution"] == "Large") | (rows.index < 60)]
    slices = tuple(compare_slices(few, 15))
    (small,) = [part for part in slices if part.level == "Small"]
    assert not small.judged
    assert small.n > 0
    one_class = rows[rows["target"] == 0]
    assert slice_check(SETTINGS, tuple(compare_slices(one_class, 15))).passed


def test_log_loss_is_scikit_learns(rows: pd.DataFrame) -> None:
    score = rows["score_champion"].clip(1e-3, 1 - 1e-3)
    assert log_loss(rows["target"], score.to_numpy()) == pytest.approx(
        reference(rows["target"], score)
    )
    assert np.isfinite(log_loss(rows["target"], 1.0 - rows["target"].to_numpy()))


def test_calibration_judges_probabilities_not_the_scale_of_scores(rows: pd.DataFrame) -> None:
    noise = np.random.default_rng(1).normal(size=len(rows))
    champion = 1 / (1 + np.exp(3.5 - 2 * rows["target"] - noise))
    # The same ranking on another scale, as another sampling of benign lesions makes it.
    odds = champion / (1 - champion) * 8
    shifted = rows.assign(
        fold=np.arange(len(rows)) // 10 % 3, score_champion=champion, score=odds / (1 + odds)
    )
    check = calibration_check(SETTINGS, shifted)
    assert check.passed, check.found
    assert reference(shifted["target"], shifted["score"]) > 1.5 * reference(
        shifted["target"], champion
    )
    worse = calibration_check(SETTINGS, shifted.assign(score=1 / (1 + np.exp(-noise))))
    assert not worse.passed, worse.found


def test_different_lesions_are_not_compared(rows: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="different lesions"):
        joined(rows[["isic_id", "score"]], rows.iloc[1:][["isic_id", "score"]])


def test_rows_to_reload_are_whole_patients_of_every_fold() -> None:
    sizes = {f"IP_{number}": 5 + number for number in range(40)} | {"IP_huge": 9000}
    patients = np.repeat(list(sizes), list(sizes.values()))
    oof = pd.DataFrame({"patient_id": patients, "isic_id": np.arange(len(patients)).astype(str)})
    oof["fold"] = pd.factorize(oof["patient_id"])[0] % 5
    chosen = choose_patients(oof, 256)
    assert 256 <= len(chosen) < 400
    assert chosen["fold"].nunique() == 5
    assert (
        chosen.groupby("patient_id").size()
        == pd.Series(sizes)[chosen["patient_id"].unique()].sort_index()
    ).all()


def test_the_verdict_reads_as_a_table_and_names_every_reason() -> None:
    checks = (
        Check("pAUC gain", False, "-0.0100", "at least +0.0000"),
        Check("size", True, "1 MB", "at most 3 times"),
    )
    verdict = Verdict(2, 1, checks)
    assert not verdict.passed
    assert verdict.summary() == "pAUC gain: -0.0100, needed at least +0.0000"
    assert verdict.table().splitlines()[1].split("  ")[0] == "pAUC gain"
