"""Near-duplicate pictures by perceptual hash (pHash of the library ImageHash, 256 bits).

Of 6,478 real tiles no two different ones are as near as the limit; of copies at half the size and
JPEG quality 60, 99.8 % are (docs/data.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Side of the hash, and its words of 64 bits.
_SIDE, WORDS = 16, 4
#: Largest number of different bits of one picture in two encodings.
LIMIT = 40
#: Pairs compared at once.
_PAIRS = 1 << 22


def picture_hash(picture: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """256 bits (4,) of a uint8 RGB picture: signs of its lowest frequencies."""
    import imagehash
    from PIL import Image

    bits = imagehash.phash(Image.fromarray(picture), hash_size=_SIDE).hash
    return np.packbits(bits.ravel()).view(np.uint64)


def near_pairs(
    a: NDArray[np.uint64], b: NDArray[np.uint64], limit: int = LIMIT
) -> NDArray[np.int64]:
    """(k, 2) row indices of all pairs of `a` (n, 4) and `b` (m, 4) with at most `limit` different
    bits.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    step = max(1, _PAIRS // max(1, len(b)))
    for start in range(0, len(a), step):
        part = a[start : start + step]
        bits = np.bitwise_count(part[:, None, 0] ^ b[None, :, 0])
        bits += np.bitwise_count(part[:, None, 1] ^ b[None, :, 1])
        # Half of the bits rule out nearly all pairs.
        rows, columns = np.nonzero(bits <= limit)
        rest = np.bitwise_count(part[rows, 2:] ^ b[columns, 2:]).sum(axis=1, dtype=np.int64)
        near = bits[rows, columns] + rest <= limit
        found.append(np.column_stack([rows[near] + start, columns[near]]))
    return np.concatenate(found)
