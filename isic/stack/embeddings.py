"""Embeddings as columns of the stacker.

Embeddings of different fold models live in different spaces. `aligned` keeps the main directions of
each space, signed to rise with the logit, and rotates them by orthogonal Procrustes onto
the first fold's space, using the embeddings of the anchors: lesions that no network was trained on.
`full` takes every dimension as it is. No label is read here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from isic.core.metric import Floats
from isic.stack.encoder import Columns

Mode = Literal["aligned", "full"]


@dataclass(frozen=True)
class Space:
    """The embedding space of one image model: centre (d,) and directions (d, k)."""

    centre: Floats
    directions: Floats

    @classmethod
    def fit(
        cls, embeddings: NDArray[np.float16], logits: Floats, mode: Mode, components: int
    ) -> Space:
        """Fit on the held-out rows of one fold: embeddings (n, d), logits (n,)."""
        values = embeddings.astype(np.float64)
        centre = values.mean(axis=0)
        values -= centre
        if mode == "full":
            return cls(centre, np.diag(1 / (values.std(axis=0) + 1e-9)))

        return cls(centre, _main_directions(values, logits, components))

    def project(self, embeddings: NDArray[np.float16]) -> Floats:
        """Coordinates (n, k) along the directions; those of a missing embedding (NaN) are 0."""
        return np.nan_to_num(embeddings.astype(np.float64) - self.centre) @ self.directions

    def missing(self, count: int) -> NDArray[np.float16]:
        """Embeddings (count, d) of rows without an image."""
        return np.broadcast_to(np.float16(np.nan), (count, len(self.centre)))

    def aligned_to(self, own: NDArray[np.float16], other: Floats) -> Space:
        """Rotated so that the projections of `own` (m, d) come close to `other` (m, k).

        `own` are this model's embeddings of some lesions, `other` the projections of the same
        lesions in another space. Both are centred first: these lesions may differ from the
        population.
        """
        projected = self.project(own)
        size = max(projected.shape[1], other.shape[1])
        padded = [
            np.pad(values - values.mean(axis=0), ((0, 0), (0, size - values.shape[1])))
            for values in (projected, other)
        ]
        rotation, _ = orthogonal_procrustes(*padded)
        return replace(
            self, directions=self.directions @ rotation[: projected.shape[1], : other.shape[1]]
        )


def space_columns(stem: str, space: Space, embeddings: NDArray[np.float16]) -> Columns:
    """Columns of one backbone's embeddings (n, d), named `stem`_e0 and so on."""
    projected = space.project(embeddings).astype(np.float32)
    return {f"{stem}_e{index}": projected[:, index].copy() for index in range(projected.shape[1])}


def _main_directions(centred: Floats, logits: Floats, components: int) -> Floats:
    """Principal directions (d, k) of centred embeddings (n, d), scaled to unit variance and rising
    with the logit.
    """
    count, dimensions = centred.shape
    variance, vectors = np.linalg.eigh(centred.T @ centred / count)
    main = np.argsort(variance)[::-1][: min(components, dimensions, count)]
    directions = vectors[:, main] / np.sqrt(np.maximum(variance[main], 1e-9))

    rising = np.sign((centred @ directions).T @ (logits - logits.mean()))
    return directions * np.where(rising == 0, 1, rising)
