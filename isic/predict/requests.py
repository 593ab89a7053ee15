"""Score requests to a served model: rows that contain their images."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import pandas as pd

from isic.core.errors import InputError
from isic.core.schema import ID, NUMERIC, TEST_COLUMNS, TEXT
from isic.data.tiles import TileStore, decode
from isic.predict.bundle import Bundle

#: Column of a request that holds each tile's JPEG bytes in base64; missing or empty means no image.
IMAGE = "image"


class InMemoryTiles(TileStore):
    """Tiles in memory instead of in a file."""

    def __init__(self, tiles: dict[str, bytes]) -> None:
        self.path = Path("the request")
        self._tiles = tiles

    def __len__(self) -> int:
        return len(self._tiles)

    def __contains__(self, isic_id: str) -> bool:
        return isic_id in self._tiles

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def ids(self) -> list[str]:
        return list(self._tiles)

    def close(self) -> None:
        pass

    def jpeg(self, isic_id: str) -> bytes:
        return self._tiles[isic_id]


def score_request(bundle: Bundle, request: pd.DataFrame) -> pd.DataFrame:
    """isic_id and target of the rows of `request`, in order; lesions without an image are imputed.

    Raises InputError on missing columns, repeated ids, a lesion without patient, or an image that
    is not base64 of a JPEG.
    """
    rows = _typed(request)
    images = _images(request)
    tiles = InMemoryTiles(images) if images else None
    return bundle.predict(rows, tiles, missing_images="impute").reset_index()


def _typed(request: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in TEST_COLUMNS if column not in request.columns]
    if missing:
        raise InputError(
            f"the request lacks {', '.join(missing[:5])}: give all columns of test-metadata.csv"
        )
    # JSON has one number type, and null for missing values.
    types = {**dict.fromkeys(NUMERIC, "float64"), **dict.fromkeys(TEXT, "str")}
    return request[list(TEST_COLUMNS)].astype(types)


def _images(request: pd.DataFrame) -> dict[str, bytes]:
    if IMAGE not in request.columns:
        return {}
    sent = request[request[IMAGE].notna() & (request[IMAGE] != "")]
    return {
        str(isic_id): _decoded(str(isic_id), image)
        for isic_id, image in zip(sent[ID], sent[IMAGE], strict=True)
    }


def _decoded(isic_id: str, image: str) -> bytes:
    try:
        data = base64.b64decode(image, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InputError(
            f"image of {isic_id} is not base64: send the JPEG's bytes in base64"
        ) from error
    # An image that was sent must be valid: a broken one is an error, not imputed.
    decode(data, isic_id)
    return data
