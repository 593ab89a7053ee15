"""Damage in compressed data is found wherever libjpeg only warns, and never where it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from isic.core.errors import InputError
from isic.data.jpeg import scan_fault
from isic.data.tiles import decode

FORMS = {
    "baseline": [],
    "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    "optimised": [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "4:4:4": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111],
    "4:1:1": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x411111],
    "4:4:0": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x121111],
    "coarse": [cv2.IMWRITE_JPEG_QUALITY, 1],
    "fine": [cv2.IMWRITE_JPEG_QUALITY, 100],
}
SIZES = [(1, 1), (8, 8), (16, 17), (51, 239), (133, 133), (150, 7)]


def encoded(form: str, size: tuple[int, int] = (90, 121), grey: bool = False) -> bytes:
    generator = np.random.default_rng(size)
    image = generator.integers(0, 256, (6, 6) if grey else (6, 6, 3), np.uint8)
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image, FORMS[form])[1].tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_whole_images_pass(form: str) -> None:
    for size in SIZES:
        for grey in (False, True):
            data = encoded(form, size, grey)
            assert scan_fault(data) is None
            assert decode(data, "it").shape[:2] == size[::-1]


def test_real_tiles_pass(real_data: Path) -> None:
    for path in sorted(real_data.rglob("*.hdf5")):
        with h5py.File(path) as file:
            for name in list(file)[:3000]:
                assert scan_fault(bytes(file[name][()])) is None, name


def _damaged(data: bytes, generator: np.random.Generator) -> bytes:
    start = data.index(b"\xff\xda") + 14
    at = int(generator.integers(start, len(data) - 3))
    length = int(generator.integers(1, 30))
    kind = generator.integers(4)
    if kind == 0:
        return data[:at] + b"\xff\xd9"
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        noise = generator.integers(0, 255, length, np.uint8).tobytes()
        return data[:at] + noise + data[at + length :]
    header = data.index(b"\xff\xc0") + 5
    side = int(generator.integers(1, 400)).to_bytes(2, "big")
    return data[:header] + side + data[header + 2 :]


#: OpenCV writes libjpeg's warning to the standard error of the process.
_WARN = """
import pathlib, sys
import cv2, numpy
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(file.name, file=sys.stderr, flush=True)
    cv2.imdecode(numpy.frombuffer(file.read_bytes(), numpy.uint8), 1)
"""


def test_what_libjpeg_warns_of_is_refused(tmp_path: Path) -> None:
    """libjpeg itself is the judge: it decodes every block and warns where data are damaged."""
    generator = np.random.default_rng(4)
    forms = [form for form in FORMS if form != "progressive"]
    ours = {}
    for number in range(400):
        data = _damaged(encoded(forms[number % len(forms)]), generator)
        ours[f"{number:03d}"] = scan_fault(data) is not None
        (tmp_path / f"{number:03d}").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", _WARN, str(tmp_path)], capture_output=True, text=True, check=True
    )
    warned, name = set(), ""
    for line in done.stderr.splitlines():
        if line in ours:
            name = line
        elif line.startswith(("Corrupt", "Premature", "Invalid", "Unsupported")):
            warned.add(name)
    assert len(warned) > 200
    missed = sorted(name for name in warned if not ours[name])
    assert not missed
    # Stricter only where a block has too many coefficients or the file too few bytes.
    assert sum(ours.values()) - len(warned) < 40


@pytest.mark.parametrize("form", ["baseline", "progressive"])
def test_a_cut_image_is_refused(form: str) -> None:
    data = encoded(form)
    for share in (0.5, 0.8, 0.99):
        with pytest.raises(InputError, match="tile it"):
            decode(data[: int(len(data) * share)], "it")
