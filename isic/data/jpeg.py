"""Whether a baseline JPEG's compressed data are whole, without decoding pixels.

libjpeg, and with it OpenCV, fills what is damaged or missing with grey and only warns. The data of
baseline and extended sequential Huffman JPEGs (ITU-T T.81, annex F) are followed symbol by symbol
instead: they must hold exactly the blocks that the frame header claims. Of other kinds, and without
numba, only the end of the file is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: What `scan_fault` found.
_FAULTS = {
    1: "has compressed data that are no Huffman codes",
    2: "ends before its last block",
    3: "has more compressed data than its size needs",
}


def scan_fault(data: bytes) -> str | None:
    """What is wrong with the compressed data, None for nothing found."""
    huffman = b""
    frame: dict[int, tuple[int, int]] = {}
    size, interval, position = (0, 0), 0, 2
    while position + 4 <= len(data):
        marker, length = (
            data[position + 1],
            int.from_bytes(data[position + 2 : position + 4], "big"),
        )
        part = data[position + 4 : position + 2 + length]
        position += 2 + length
        if data[position - 2 - length] != 0xFF or length < 2:
            return "has a damaged header"
        if marker == 0xC4:
            huffman += part
        elif marker == 0xDD:
            interval = int.from_bytes(part[:2], "big")
        elif marker in (0xC0, 0xC1) and len(part) >= 6 + 3 * part[5]:
            size = (int.from_bytes(part[1:3], "big"), int.from_bytes(part[3:5], "big"))
            rows = [part[6 + 3 * index : 9 + 3 * index] for index in range(part[5])]
            frame = {row[0]: (row[1] >> 4, row[1] & 15) for row in rows}
        elif 0xC2 <= marker <= 0xCF:
            break  # progressive and others
        elif marker == 0xDA:
            components = part[0] if part else 0
            if not frame or components != len(frame) or len(part) < 1 + 2 * components:
                break  # one component a scan
            scan = [(part[1 + 2 * index], part[2 + 2 * index]) for index in range(components)]
            if any(name not in frame for name, _ in scan):
                return "has a damaged header"
            tables = _read_tables(huffman)
            if tables is None:
                return "has damaged Huffman tables"
            return _check_scan(data, position, size, frame, scan, interval, tables)
    return _end_fault(data)


def _end_fault(data: bytes) -> str | None:
    return None if data.rstrip(b"\0").endswith(b"\xff\xd9") else "has no end"


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., int] | None:
    """`_follow` compiled by numba; None without numba, as on a rented machine: in plain Python a tile
    would take a second.
    """
    try:
        import numba
    except ImportError:
        return None
    compiled: Callable[..., int] = numba.njit(cache=True, nogil=True)(_follow)
    return compiled


class HuffmanTables(NamedTuple):
    """Canonical codes of the DC tables 0 to 3 and the AC tables 4 to 7.

    codes: int32 (8, 3, 17), by length the first code, the last code and the place of the first
    one's symbol. symbols: uint8 (8, 256). defined: (8,).
    """

    codes: NDArray[np.int32]
    symbols: NDArray[np.uint8]
    defined: NDArray[np.bool_]


@lru_cache(maxsize=64)  # most tiles of a file have the same tables
def _read_tables(segments: bytes) -> HuffmanTables | None:
    """The tables of a file's DHT segments, None where they are damaged."""
    codes = np.zeros((8, 3, 17), dtype=np.int32)
    codes[:, 1] = -1
    symbols, defined = np.zeros((8, 256), dtype=np.uint8), np.zeros(8, dtype=np.bool_)
    while segments:
        kind, counts = segments[0], segments[1:17]
        total = sum(counts)
        if kind & 0xEC or len(segments) < 17 + total or total > 256:
            return None
        slot = (kind >> 4) * 4 + (kind & 15)
        symbols[slot, :total] = np.frombuffer(segments[17 : 17 + total], np.uint8)
        code = first = 0
        for length, count in enumerate(counts, start=1):
            codes[slot, :, length] = code, code + count - 1 if count else -1, first
            code, first = (code + count) << 1, first + count
        defined[slot] = True
        segments = segments[17 + total :]
    return HuffmanTables(codes, symbols, defined)


def _check_scan(
    data: bytes,
    start: int,
    size: tuple[int, int],
    frame: dict[int, tuple[int, int]],
    scan: list[tuple[int, int]],
    interval: int,
    tables: HuffmanTables,
) -> str | None:
    across = max(width for width, _ in frame.values())
    down = max(height for _, height in frame.values())
    single = len(scan) == 1
    blocks = []
    for name, kinds in scan:
        width, height = frame[name]
        dc, ac = kinds >> 4, 4 + (kinds & 15)
        if not 1 <= width <= 4 or not 1 <= height <= 4 or dc > 3 or ac > 7:
            return "has a damaged header"
        if not tables.defined[dc] or not tables.defined[ac]:
            return "lacks a Huffman table"
        blocks += [(dc, ac)] * (1 if single else width * height)
    # A scan of one component has one block a unit, whatever its sampling.
    unit = (8, 8) if single else (8 * down, 8 * across)
    units = -(-size[0] // unit[0]) * -(-size[1] // unit[1])
    follow = _compiled()
    if follow is None:
        return _end_fault(data)
    found = follow(
        np.frombuffer(data, np.uint8),
        start,
        units,
        interval,
        np.array(blocks, dtype=np.int64),
        tables.codes,
        tables.symbols,
    )
    return _FAULTS.get(int(found))


def _follow(
    data: NDArray[np.uint8],
    start: int,
    units: int,
    interval: int,
    blocks: NDArray[np.int64],
    tables: NDArray[np.int32],
    symbols: NDArray[np.uint8],
) -> int:
    """0, or a key of _FAULTS. `blocks` (b, 2) are the DC and AC tables of a unit's blocks."""
    position, bits, count = start, 0, 0
    for unit in range(units):
        if interval and unit and unit % interval == 0:
            # A restart: whole bytes are left over, then marker RSTn.
            if count >= 8 or position + 1 >= len(data):
                return 3 if count >= 8 else 2
            if data[position] != 0xFF or (data[position + 1] & 0xF8) != 0xD0:
                return 3
            position, bits, count = position + 2, 0, 0
        for block in range(len(blocks)):
            index = 0
            while index < 64:
                slot = blocks[block, 0] if index == 0 else blocks[block, 1]
                code, length, symbol = 0, 0, -1
                while symbol < 0:
                    if length == 16:
                        return 1
                    if count == 0:
                        if position >= len(data):
                            return 2
                        byte = data[position]
                        if byte == 0xFF:
                            if position + 1 >= len(data) or data[position + 1] != 0:
                                return 2
                            position += 1
                        position += 1
                        bits, count = byte, 8
                    count -= 1
                    code = (code << 1) | ((bits >> count) & 1)
                    length += 1
                    if code <= tables[slot, 1, length] and code >= tables[slot, 0, length]:
                        first = tables[slot, 2, length] + code - tables[slot, 0, length]
                        symbol = symbols[slot, first]
                run, extra = (0, symbol) if index == 0 else (symbol >> 4, symbol & 15)
                if index == 0:
                    if symbol > 15:
                        return 1
                    index = 1
                elif extra == 0 and run < 15:
                    index = 64
                else:
                    index += run + 1
                    if index > 64:
                        return 1
                # The value's own bits.
                while extra > 0:
                    if count == 0:
                        if position >= len(data):
                            return 2
                        byte = data[position]
                        if byte == 0xFF:
                            if position + 1 >= len(data) or data[position + 1] != 0:
                                return 2
                            position += 1
                        position += 1
                        bits, count = byte, 8
                    used = min(extra, count)
                    count -= used
                    extra -= used
    if position + 1 >= len(data):
        return 2
    # Fill bytes may come before the end.
    while position + 1 < len(data) and data[position] == 0xFF and data[position + 1] == 0xFF:
        position += 1
    return 0 if data[position] == 0xFF and data[position + 1] == 0xD9 else 3
