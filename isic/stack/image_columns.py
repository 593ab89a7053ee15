"""Image logits as columns: each fold's image models on one scale, alone and within the patient.

Every fold's image models have a scale of their own, so each fold's logits are standardised (or
ranked) by that fold's held-out rows, and the same numbers are used at test time for the same
models. No label is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, Field, FiniteFloat
from scipy.special import expit

from isic.core.errors import InputError
from isic.core.metric import Floats
from isic.core.params import ImageColumns
from isic.stack.blend import ascending
from isic.stack.embeddings import Space, space_columns
from isic.stack.encoder import Columns, plain

Embeddings = Mapping[str, NDArray[np.float16]]
#: Quantiles kept to rank a new logit among a fold's held-out ones.
_KNOTS = 1025


@dataclass(frozen=True)
class Scale:
    """Scale that makes raw logits of one fold's image model comparable to those of other folds:
    (x - mean) / sd, or a rank.
    """

    mean: Annotated[float, Field(ge=-1e6, le=1e6)]
    sd: Annotated[float, Field(ge=0, le=1e6)]
    knots: Annotated[tuple[FiniteFloat, ...], AfterValidator(ascending)] = ()

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
        values = np.asarray(logits, dtype=np.float64)
        values = np.where(np.isnan(values), self.mean, values)
        if self.knots:
            return np.interp(values, self.knots, np.linspace(0, 1, len(self.knots)))
        return (values - self.mean) / (self.sd + 1e-9)

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "sd": self.sd, "knots": list(self.knots)}


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
            vectors = embeddings[name] if name in embeddings else space.missing(len(group))
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


def _within_patient(stem: str, values: Floats, group: pd.Series) -> Columns:
    series = pd.Series(values)
    grouped = series.groupby(group)
    count = grouped.transform("size")
    risk = pd.Series(expit(values))
    return {
        # Middle ranks: a patient's only lesion sits at one half, not at the top.
        f"{stem}_rank": ((grouped.rank() - 0.5) / count).to_numpy(dtype=np.float32),
        f"{stem}_ratio": (risk / risk.groupby(group).transform("mean")).to_numpy(dtype=np.float32),
        f"{stem}_above": (series - grouped.transform("mean")).to_numpy(dtype=np.float32),
    }


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
