"""Image scores against the patient's other lesions."""

from __future__ import annotations

import numpy as np

from isic.core.schema import PATIENT
from isic.tabular.scores import relative_scores
from tests.tabular.population import lesions


def test_rank_and_z_are_within_the_patient() -> None:
    frame = lesions([30, 1, 12], seed=41)
    score = np.random.default_rng(0).normal(size=len(frame))
    found = relative_scores(frame, score, "vit")
    groups = frame.assign(score=score).groupby(PATIENT)["score"]
    np.testing.assert_allclose(found["vit_rank"], groups.rank(pct=True), rtol=1e-6)
    expected = (score - groups.transform("mean")) / (groups.transform("std", ddof=0) + 1e-5)
    np.testing.assert_allclose(found["vit_z"], expected, atol=1e-6)
    assert np.isfinite(found.to_numpy()).all()
