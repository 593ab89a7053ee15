"""Pictures of any size as RGB arrays and small JPEGs. Only this module uses Pillow: it decodes PNG
too, and a large JPEG at a fraction of its size.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from isic.core.errors import InputError

#: Largest pictures of the archive are 6,000 × 6,000 px.
_MAX_PIXELS, _MIN_SIDE = 80_000_000, 16
#: Of stored pictures; with 4:2:0 this is near the quality of the archive's own files.
_QUALITY = 92


def read_picture(path: Path, most: int | None = None) -> np.ndarray:
    """A JPEG or PNG as uint8 RGB (height, width, 3), shrunk to at most `most` px a side.

    Raises InputError, before decoding, for another kind of file and more than 80 million pixels,
    and for a file that does not decode.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if width * height > _MAX_PIXELS or min(width, height) < _MIN_SIDE:
                raise InputError(
                    f"{path} has {width} x {height} pixels, {_MIN_SIDE} a side to"
                    f" {_MAX_PIXELS // 10**6} million are read: remove it"
                )
            if most is not None:
                # draft: the JPEG decoder itself halves the size, which saves most of the time.
                picture.draft("RGB", (2 * most, 2 * most))
            shown = picture.convert("RGB")
            if most is not None:
                shown.thumbnail((most, most), Image.Resampling.LANCZOS)
            return np.asarray(shown)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if getattr(error, "errno", None):
            raise
        raise InputError(
            f"{path} does not decode as JPEG or PNG ({str(error)[:80]}): replace or remove it"
        ) from error


def encode_picture(picture: np.ndarray) -> bytes:
    """JPEG bytes of a uint8 RGB picture (height, width, 3)."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
