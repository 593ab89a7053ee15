"""The gate's checks, on rows with known results."""

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
from isic.registry.gate import _above_chance as floor_check
from isic.registry.gate import _calibration as calibration_check
from isic.registry.gate import _gain as gain_check
from isic.registry.gate import _images_help as images_check
from isic.registry.gate import _slices as slice_check

SETTINGS = Gate(
    replicates=100,
    seed=0,
    min_gain=0.0,
    false_promotions=0.03,
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
    found = {(part.group, part.level): part for part in compare_slices(rows, 15, 100, 0)}
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
    assert ("skin tone (proxy)", "10° to 28°") in found, "atan2(10, 20) is 26.6 degrees"


def test_a_collapsed_slice_is_refused_however_good_the_whole(rows: pd.DataFrame) -> None:
    slices = tuple(compare_slices(rows, 15, 100, 0))
    check = slice_check(SETTINGS, slices)
    assert not check.passed
    assert "hospital Small" in check.found


def test_a_slice_with_few_malignant_lesions_is_shown_and_not_judged(rows: pd.DataFrame) -> None:
    few = rows[(rows["attribution"] == "Large") | (rows.index < 60)]
    slices = tuple(compare_slices(few, 15, 100, 0))
    (small,) = [part for part in slices if part.level == "Small"]
    assert not small.judged
    assert small.n > 0
    one_class = rows[rows["target"] == 0]
    assert slice_check(SETTINGS, tuple(compare_slices(one_class, 15, 100, 0))).passed


def test_log_loss_is_scikit_learns(rows: pd.DataFrame) -> None:
    score = rows["score_champion"].clip(1e-3, 1 - 1e-3)
    assert log_loss(rows["target"], score.to_numpy()) == pytest.approx(
        reference(rows["target"], score)
    )
    assert np.isfinite(log_loss(rows["target"], 1.0 - rows["target"].to_numpy()))


def test_calibration_judges_probabilities_not_the_scale_of_scores(rows: pd.DataFrame) -> None:
    noise = np.random.default_rng(1).normal(size=len(rows))
    champion = 1 / (1 + np.exp(3.5 - 2 * rows["target"] - noise))
    # The same ranking on another scale, as after another sampling of benign lesions.
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


def test_a_small_slice_with_a_loss_within_chance_is_not_refused(rows: pd.DataFrame) -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2, len(rows)))
    even = rows.assign(
        score=rows["target"] + noise[0], score_champion=rows["target"] + noise[1], sex="male"
    )
    # Twenty malignant lesions: the loss of this draw is beyond the limit and within chance.
    few = even[(even["target"] == 0) | (even.groupby("target").cumcount() < 20)]
    slices = tuple(compare_slices(few, 15, 200, 0))
    assert min(item.gain for item in slices if item.judged) < -SETTINGS.max_slice_loss
    assert slice_check(SETTINGS, slices).passed


def test_lesions_per_patient_is_a_slice(rows: pd.DataFrame) -> None:
    patients = np.repeat(["a", "b", "c", "d", "e"], [1, 2, 3, 4, 1990])
    found = {
        part.level: part.n
        for part in compare_slices(rows.assign(patient_id=patients), 15, 100, 0)
        if part.group == "lesions per patient"
    }
    assert found == {"1": 1, "2 to 3": 5, "4 to 9": 4, "10 and more": 1990}


def _pair(rng: np.random.Generator, advantage: float) -> pd.DataFrame:
    """6,000 lesions, 300 malignant; both models share a signal; each of four seeds has noise."""
    target = (np.arange(6000) % 20 == 0).astype(int)
    signal = 1.5 * target + rng.normal(size=len(target))
    seeds = {
        f"seed_{seed}{suffix}": signal + gain * target + 0.4 * rng.normal(size=len(target))
        for suffix, gain in (("", advantage), ("_champion", 0.0))
        for seed in range(4)
    }
    rows = pd.DataFrame(seeds | {"target": target, "patient_id": np.arange(6000) // 10})
    means = {
        f"score{suffix}": rows[[f"seed_{seed}{suffix}" for seed in range(4)]].mean(axis=1)
        for suffix in ("", "_champion")
    }
    return rows.assign(**means)


def test_luck_seldom_passes_and_a_real_gain_does() -> None:
    rng = np.random.default_rng(8)
    lucky = [gain_check(SETTINGS, _pair(rng, 0.0), 1).passed for _ in range(60)]
    assert sum(lucky) <= 4, "3 % of 60 is 1.8"
    real = [gain_check(SETTINGS, _pair(rng, 0.3), 1).passed for _ in range(20)]
    assert sum(real) >= 18


def test_later_challengers_must_show_more() -> None:
    rows = _pair(np.random.default_rng(9), 0.12)
    passed = [gain_check(SETTINGS, rows, attempt).passed for attempt in (1, 3, 10, 10**6)]
    assert passed == sorted(passed, reverse=True)
    assert passed[0]
    assert not passed[-1]
    assert "challenger 10" in gain_check(SETTINGS, rows, 10).needed


def test_random_scores_are_no_first_champion(rows: pd.DataFrame) -> None:
    score = np.random.default_rng(3).random(len(rows))
    assert not floor_check(SETTINGS, rows.assign(score=score)).passed
    assert floor_check(SETTINGS, rows.assign(score=score + rows["target"])).passed


def test_images_that_do_not_help_warn_and_do_not_refuse(rows: pd.DataFrame) -> None:
    noise = np.random.default_rng(4).normal(size=len(rows))
    worse = rows.assign(score=noise, features_only=noise + rows["target"])
    check = images_check(SETTINGS, worse)
    assert check.passed
    assert check.warning
    assert "warn" in Verdict(1, None, (check,)).table()
    better = rows.assign(score=noise + rows["target"], features_only=noise)
    assert not images_check(SETTINGS, better).warning


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
