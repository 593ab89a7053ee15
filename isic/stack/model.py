"""The stacker: one chain per fold from features and image logits to a score, saved as LightGBM text and stack.json.

Chain F is what scored fold F out of fold: logits of fold F's image models, on fold F's scale, through the boosters
trained on the other folds. At test time every chain scores every lesion and the mean of the chains is the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from isic.core.errors import InputError
from isic.core.io import atomic_dir, read_json, write_json
from isic.stack.boost import raw_scores
from isic.stack.design import Columns, Design
from isic.stack.evidence import Scale, check_logits, image_columns, image_names

FORMAT = 1
_FILE = "stack.json"


@dataclass(frozen=True)
class Chain:
    """What scores one fold: image scales, boosters, and log-odds that undo the sampling of benign rows."""

    scales: dict[str, Scale]
    boosters: list[lgb.Booster]
    offset: float


@dataclass(frozen=True)
class Stack:
    """A fitted stacker. `oof` (isic_id, patient_id, target, fold, score) and `metrics` exist only after fitting."""

    design: Design
    chains: dict[int, Chain]
    relative: bool
    oof: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(sorted(self.chains))

    @property
    def backbones(self) -> tuple[str, ...]:
        return tuple(next(iter(self.chains.values())).scales)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns in the order the boosters read them."""
        return (*self.design.names, *image_names(self.backbones, self.relative))

    def score(
        self,
        features: pd.DataFrame,
        logits: Mapping[str, ArrayLike],
        fold: int,
        patients: ArrayLike,
    ) -> NDArray[np.float64]:
        """Score of chain `fold` for each row, (n,) between 0 and 1, higher = more malignant.

        `logits` are the raw ones of fold `fold`'s image models, NaN where an image is missing; `patients` (n,) names
        each row's patient, because a lesion's rank among its patient's others is evidence.
        Raises InputError on a missing feature, another set of backbones or an unknown fold.
        """
        chain = self._chain(fold)
        columns = self.design.columns(features) | self._image(chain, logits, patients, len(features))
        return chain_scores(chain, columns, np.arange(len(features)))

    def _chain(self, fold: int) -> Chain:
        if fold not in self.chains:
            raise InputError(f"the stacker has no fold {fold}, only {list(self.folds)}: use one of these")
        return self.chains[fold]

    def _image(self, chain: Chain, logits: Mapping[str, ArrayLike], patients: ArrayLike, length: int) -> Columns:
        check_logits(logits, self.backbones, length)
        scaled = {backbone: scale(logits[backbone]) for backbone, scale in chain.scales.items()}
        return image_columns(scaled, patients, self.relative)

    def save(self, folder: Path) -> None:
        """Write `stack.json` and one text file per booster; the folder appears whole or not at all."""
        with atomic_dir(Path(folder)) as temporary:
            chains = {}
            for fold, chain in self.chains.items():
                files = [f"fold{fold}-lightgbm-{number}.txt" for number in range(len(chain.boosters))]
                for name, booster in zip(files, chain.boosters, strict=True):
                    booster.save_model(temporary / name)
                scales = {backbone: scale.to_json() for backbone, scale in chain.scales.items()}
                chains[str(fold)] = {"scales": scales, "offset": chain.offset, "boosters": files}
            write_json(
                temporary / _FILE,
                {
                    "format": FORMAT,
                    "columns": list(self.names),
                    "numeric": list(self.design.numeric),
                    "levels": {column: list(levels) for column, levels in self.design.levels.items()},
                    "relative": self.relative,
                    "chains": chains,
                    "metrics": self.metrics,
                },
            )

    @classmethod
    def load(cls, folder: Path) -> Stack:
        """Read what `save` wrote. Raises InputError when a file is missing, of another format or of other columns."""
        stored = read_json(Path(folder) / _FILE)
        if stored.get("format") != FORMAT:
            raise InputError(f"{folder} has stacker format {stored.get('format')}, this code reads {FORMAT}: refit it")
        design = Design(
            tuple(stored["numeric"]), {column: tuple(levels) for column, levels in stored["levels"].items()}
        )
        chains = {}
        for fold, chain in stored["chains"].items():
            scales = {backbone: Scale.from_json(values) for backbone, values in chain["scales"].items()}
            boosters = [_read_booster(Path(folder) / name, stored["columns"]) for name in chain["boosters"]]
            chains[int(fold)] = Chain(scales, boosters, chain["offset"])
        stack = cls(design, chains, stored["relative"], metrics=stored["metrics"])
        if list(stack.names) != stored["columns"]:
            raise InputError(f"{folder}/{_FILE} names columns that this code would not build: refit the stacker")
        return stack


def chain_scores(chain: Chain, columns: Columns, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of malignancy at the population's prevalence for the chosen rows, (rows,)."""
    log_odds = raw_scores(chain.boosters, columns, index).mean(axis=0) + chain.offset
    return np.asarray(expit(log_odds), dtype=np.float64)


def _read_booster(path: Path, columns: list[str]) -> lgb.Booster:
    if not path.is_file():
        raise InputError(f"{path} is missing: rerun `dvc repro stack`, or `dvc pull` if it was made elsewhere")
    try:
        booster = lgb.Booster(model_file=path)
    except lgb.basic.LightGBMError as error:
        raise InputError(f"{path} is not a LightGBM model ({error}): rerun `dvc repro stack`") from error
    # LightGBM matches columns by position and would score any order without a word.
    if booster.feature_name() != columns:
        raise InputError(f"{path} was trained on other columns than stack.json names: rerun `dvc repro stack`")
    return booster
