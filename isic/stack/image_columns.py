"""Image logits as columns: each fold's image models on one scale, alone and within the patient.

Every fold's image models have a scale of their own, so each fold's logits are standardised (or
ranked) by that fold's held-out rows, and the same numbers are used at test time for the same
models. No label is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, Field, FiniteFloat
from scipy.special import expit

from isic.core.errors import InputError
from isic.core.metric import Floats, auc
from isic.core.params import ImageColumns
from isic.stack.blend import ascending
from isic.stack.embeddings import Space, space_columns
from isic.stack.encoder import Columns, plain

Embeddings = Mapping[str, NDArray[np.float16]]
#: Quantiles kept to rank a new logit among a fold's held-out ones.
_KNOTS = 1025
#: Endings of columns within the patient.
_WITHIN = ("_rank", "_ratio", "_above")


@dataclass(frozen=True)
class Scale:
    """Scale that makes raw logits of one fold's image model comparable to those of other folds:
    (x - mean) / sd, or a rank.
    """

    mean: Annotated[float, Field(ge=-1e6, le=1e6)]
    sd: Annotated[float, Field(ge=0, le=1e6)]
    knots: Annotated[tuple[FiniteFloat, ...], AfterValidator(ascending)] = ()
    #: The fold's training failed: all its logits count as missing.
    failed: bool = False

    @classmethod
    def fit(cls, logits: ArrayLike, kind: str) -> Scale:
        """Fit on held-out logits (n,) of a fold; `kind` is "standardised" or "ranked" (0 to 1)."""
        values = np.asarray(logits, dtype=np.float64)
        knots: tuple[float, ...] = ()
        if kind == "ranked":
            knots = tuple(
                np.maximum.accumulate(np.quantile(values, np.linspace(0, 1, _KNOTS))).tolist()
            )
        return cls(float(values.mean()), float(values.std()), knots)

    def __call__(self, logits: ArrayLike) -> Floats:
        """Scaled logits (n,); a missing image (NaN) becomes the fold's average."""
        if not self.knots:
            return self.standardise(logits)
        values = self._filled(logits)
        return np.interp(values, self.knots, np.linspace(0, 1, len(self.knots)))

    def standardise(self, logits: ArrayLike) -> Floats:
        """(x - mean) / sd of logits (n,), 0 where the image is missing (NaN)."""
        return (self._filled(logits) - self.mean) / (self.sd + 1e-9)

    def _filled(self, logits: ArrayLike) -> Floats:
        values = np.asarray(logits, dtype=np.float64)
        missing = np.ones(len(values), bool) if self.failed else np.isnan(values)
        return np.where(missing, self.mean, values)

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "sd": self.sd, "knots": list(self.knots), "failed": self.failed}


@dataclass(frozen=True)
class ImageEncoder:
    """The image columns of one chain: scales of one fold's image models, and their spaces if
    embeddings are used.
    """

    settings: ImageColumns
    scales: dict[str, Scale]
    spaces: dict[str, Space]

    @classmethod
    def fit(
        cls, logits: Mapping[str, ArrayLike], embeddings: Embeddings, settings: ImageColumns
    ) -> ImageEncoder:
        """Fit on the held-out rows of one fold: logits {backbone: (n,)}, embeddings {backbone: (n,
        d)} or {}.
        """
        scales = {name: Scale.fit(values, settings.scale) for name, values in logits.items()}
        spaces: dict[str, Space] = {}
        if settings.embeddings != "none":
            for name, values in embeddings.items():
                known = np.asarray(logits[name], np.float64)
                spaces[name] = Space.fit(values, known, settings.embeddings, settings.components)
        return cls(settings, scales, spaces)

    def without_networks(self) -> ImageEncoder:
        """An encoder of no image model."""
        return ImageEncoder(self.settings, {}, {})

    def mean_logit(self, logits: Mapping[str, ArrayLike]) -> Floats:
        """Mean standardised logit (n,) of the backbones, 0 where the image is missing."""
        return np.mean(
            [scale.standardise(logits[name]) for name, scale in self.scales.items()], axis=0
        )

    def columns(
        self,
        logits: Mapping[str, ArrayLike],
        embeddings: Embeddings,
        patients: ArrayLike,
        rng: np.random.Generator | None = None,
    ) -> Columns:
        """Columns of n rows; with `rng`, the noise of training is added to the scaled logits.

        A space without embeddings, as when no row has an image, treats all as missing.
        """
        scaled = {name: scale(logits[name]) for name, scale in self.scales.items()}
        if rng is not None and self.settings.noise:
            scaled = {
                name: values + rng.normal(0, self.settings.noise, len(values))
                for name, values in scaled.items()
            }
        group = pd.Series(np.asarray(patients).astype(str))
        columns = _logit_columns(scaled, group, self.settings.relative)
        for name, space in self.spaces.items():
            missing = name not in embeddings or self.scales[name].failed
            vectors = space.missing(len(group)) if missing else embeddings[name]
            columns |= space_columns(f"image_{plain(name)}", space, vectors)
        return columns


def _logit_columns(scaled: Mapping[str, Floats], group: pd.Series, relative: bool) -> Columns:
    """Each backbone's scaled logits and their mean, with rank, ratio and height above the mean in
    the patient.
    """
    sources = dict(scaled)
    if len(sources) > 1:
        sources["all"] = np.mean(list(scaled.values()), axis=0)
    columns: Columns = {}
    for backbone, values in sources.items():
        stem = f"image_{plain(backbone)}"
        columns[stem] = values.astype(np.float32)
        if relative:
            columns |= _within_patient(stem, values, group)
    return columns


def relative_columns(backbones: Iterable[str]) -> set[str]:
    """Names of the columns that compare a lesion with its patient's others."""
    stems = [f"image_{plain(name)}" for name in (*backbones, "all")]
    return {f"{stem}{ending}" for stem in stems for ending in _WITHIN}


def _within_patient(stem: str, logits: Floats, group: pd.Series) -> Columns:
    series = pd.Series(logits)
    grouped = series.groupby(group)
    count = grouped.transform("size")
    risk = pd.Series(expit(logits))
    values = (
        # Middle ranks: a patient's only lesion sits at one half, not at the top.
        (grouped.rank() - 0.5) / count,
        risk / risk.groupby(group).transform("mean"),
        series - grouped.transform("mean"),
    )
    return {
        f"{stem}{ending}": column.to_numpy(dtype=np.float32)
        for ending, column in zip(_WITHIN, values, strict=True)
    }


def failed_folds(logits: Floats, target: NDArray[np.int64], fold: NDArray[np.int64]) -> list[int]:
    """Folds whose network failed: the AUC of its held-out logits (n,) is within 1.96 standard errors
    (Hanley & McNeil, Radiology 143, 29, 1982) of chance, and that far below the mean of the others.
    """
    found: dict[int, tuple[float, float]] = {}
    for number in np.unique(fold).tolist():
        rows = fold == number
        malignant = int(target[rows].sum())
        if 0 < malignant < rows.sum():
            area = auc(target[rows], logits[rows])
            found[number] = area, _standard_error(area, malignant, int(rows.sum()) - malignant)
    failed = []
    for number, (area, error) in found.items():
        others = [other for key, (other, _) in found.items() if key != number]
        if others and abs(area - 0.5) < 1.96 * error and area + 1.96 * error < np.mean(others):
            failed.append(number)
    return failed


def _standard_error(area: float, malignant: int, benign: int) -> float:
    """Standard error of an AUC by Hanley and McNeil's formula."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    square = (
        area * (1 - area) + (malignant - 1) * (one - area**2) + (benign - 1) * (two - area**2)
    ) / (malignant * benign)
    return float(np.sqrt(max(square, 0.0)))


def check_images(
    logits: Mapping[str, ArrayLike],
    embeddings: Embeddings,
    backbones: tuple[str, ...],
    length: int,
    uses: bool,
) -> None:
    """Raise InputError unless `logits` (and `embeddings` if the stacker uses them) are of these
    backbones and rows.

    Where every logit is missing no tile was scored, so no embedding is required.
    """
    unseen = not embeddings and all(
        np.isnan(np.asarray(values, np.float64)).all() for values in logits.values()
    )
    for kind, given in (("logits", logits), ("embeddings", embeddings)):
        wanted = set(backbones) if kind == "logits" or (uses and not unseen) else set(given)
        if set(given) != wanted:
            raise InputError(
                f"{kind} are of backbones {sorted(given)}, the stacker needs {sorted(wanted)}: "
                "use the image models it belongs to"
            )
        for backbone, values in given.items():
            if len(np.asarray(values)) != length:
                raise InputError(
                    f"{backbone} has {len(np.asarray(values))} {kind} for {length} rows: give one"
                    " per row"
                )
