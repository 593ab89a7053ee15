"""What embeddings say beyond the logit, in forms that survive the change of space from one fold's model to the next.

Embeddings of different fold models live in different spaces. `distance` asks only how far a lesion lies from its
patient's others, which means the same in every space. `reduced` keeps each space's main directions, signed so that
they rise with the logit. `aligned` turns them further, by orthogonal Procrustes onto the first fold's, by what both
networks say of the anchors, lesions that neither saw. `full` takes every dimension as it comes. Nothing here reads a
label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from isic.stack.encoder import Columns

Mode = Literal["none", "distance", "reduced", "aligned", "full"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """One image model's space: centre (d,), typical distance from it, and directions (d, k), k = 0 if none."""

    centre: Floats
    typical: float
    directions: Floats

    @classmethod
    def fit(cls, embeddings: NDArray[np.float16], logits: Floats, mode: Mode, components: int) -> Space:
        """Fit on the held-out rows of one fold: embeddings (n, d), logits (n,)."""
        values = embeddings.astype(np.float64)
        centre = values.mean(axis=0)
        values -= centre
        typical = float(np.sqrt((values**2).sum(axis=1)).mean()) + 1e-9
        return cls(centre, typical, _directions(values, logits, mode, components))

    def place(self, embeddings: NDArray[np.float16]) -> Floats:
        """Coordinates (n, k) along the directions; a missing embedding (NaN) lies in the centre."""
        return np.nan_to_num(embeddings.astype(np.float64) - self.centre) @ self.directions

    def missing(self, count: int) -> NDArray[np.float16]:
        """Embeddings (count, d) of rows without an image."""
        return np.broadcast_to(np.float16(np.nan), (count, len(self.centre)))

    def aligned_to(self, own: NDArray[np.float16], other: Floats) -> Space:
        """Rotated so that the embeddings `own` (m, d) of some lesions come close to where another space places the same
        lesions, `other` (m, k). Only differences between lesions count: the lesions may be unlike the population.
        """
        placed = self.place(own)
        size = max(placed.shape[1], other.shape[1])
        padded = [np.pad(each - each.mean(axis=0), ((0, 0), (0, size - each.shape[1]))) for each in (placed, other)]
        rotation, _ = orthogonal_procrustes(*padded)
        return replace(self, directions=self.directions @ rotation[: placed.shape[1], : other.shape[1]])


def space_columns(stem: str, space: Space, embeddings: NDArray[np.float16], group: pd.Series, mode: Mode) -> Columns:
    """Columns of one backbone's embeddings (n, d); `group` (n,) names each row's patient."""
    if mode == "none":
        return {}
    if mode == "distance":
        return _distances(stem, space, embeddings, group)
    placed = space.place(embeddings).astype(np.float32)
    return {f"{stem}_e{number}": placed[:, number].copy() for number in range(placed.shape[1])}


def _directions(centred: Floats, logits: Floats, mode: Mode, components: int) -> Floats:
    dimensions = centred.shape[1]
    if mode in ("none", "distance"):
        return np.zeros((dimensions, 0))
    if mode == "full":
        return np.diag(1 / (centred.std(axis=0) + 1e-9))
    variance, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    main = np.argsort(variance)[::-1][: min(components, dimensions, len(centred))]
    directions = vectors[:, main] / np.sqrt(np.maximum(variance[main], 1e-9))
    rising = np.sign((centred @ directions).T @ (logits - logits.mean()))
    return directions * np.where(rising == 0, 1, rising)


def _distances(stem: str, space: Space, embeddings: NDArray[np.float16], group: pd.Series) -> Columns:
    values = np.nan_to_num(embeddings.astype(np.float64) - space.centre) / space.typical
    codes, patients = pd.factorize(group)
    count = np.bincount(codes, minlength=len(patients))
    centroid = np.zeros((len(patients), values.shape[1]))
    np.add.at(centroid, codes, values)
    centroid = (centroid / count[:, None])[codes]
    far = np.sqrt(((values - centroid) ** 2).sum(axis=1))
    lengths = np.sqrt((values**2).sum(axis=1) * (centroid**2).sum(axis=1))
    apart = 1 - (values * centroid).sum(axis=1) / np.maximum(lengths, 1e-9)
    rank = (pd.Series(far).groupby(codes).rank().to_numpy() - 0.5) / count[codes]
    made = {"far": far, "apart": apart, "far_rank": rank}
    return {f"{stem}_{name}": column.astype(np.float32) for name, column in made.items()}
