"""Scores of one image network. Imports no torch, so that cached scores load quickly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ImageScores(NamedTuple):
    """Logits float32 (n,) and embeddings float16 (n, width); width 0 where none are kept."""

    logits: NDArray[np.float32]
    embeddings: NDArray[np.float16]
