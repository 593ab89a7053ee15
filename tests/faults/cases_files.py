"""Kinds 1 to 3 and 8: outputs, tiles, values and tables given to `predict`, `score`, `shard`,
`compare` and `sample`.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd

from isic.core.schema import NUMERIC
from tests.faults.files import edit_table, edit_tile
from tests.faults.harness import Case, Expected

PREDICT = ("isic", "predict", "--model", "bundle", "--metadata", "m.csv", "--images", "i.hdf5")
SCORE = ("isic", "score", "--solution", "solution.csv", "--submission", "submission.csv")
SHARD = ("isic", "shard", "--metadata", "m.csv", "--images", "i.hdf5", "--out", "shards")
SAMPLE = ("isic", "sample", "--patients", "4", "--lesions", "30", "--positives", "2", "--no-images")

Prepare = Callable[[Path], Any]


def predict(*more: str, out: str = "out.csv") -> tuple[str, ...]:
    """`isic predict` on the case's own files."""
    return (*PREDICT, "--out", out, *more)


def cases() -> Iterator[Case]:
    yield from _outputs()
    yield from _tiles()
    yield from _stores_of_tiles()
    yield from _values()
    yield from _tables()
    yield from _scores()
    yield from _requests_to_generate()


# --- 1: outputs


def _node(kind: int, device: int = 0) -> Prepare:
    def prepare(folder: Path) -> None:
        target = folder / "out.csv"
        assert target.parent.resolve() == folder.resolve()
        assert str(folder).startswith(os.path.realpath(os.environ.get("TMPDIR", "/tmp")))
        os.mknod(target, kind | 0o600, device)

    return prepare


def _still(kind: Callable[[int], bool], name: str = "out.csv") -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        path = folder / name
        if not os.path.lexists(path) or not kind(path.lstat().st_mode):
            return f"replaced {name}"
        return None

    return check


def _link(to: str, content: str | None = "old") -> Prepare:
    def prepare(folder: Path) -> None:
        if content is not None:
            (folder / to).parent.mkdir(exist_ok=True)
            (folder / to).write_text(content)
        (folder / "out.csv").symlink_to(to)

    return prepare


def _written_behind(name: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        if not (folder / "out.csv").is_symlink():
            return "replaced the link"
        return None if len(pd.read_csv(folder / name)) else "wrote nothing"

    return check


def _outputs() -> Iterator[Case]:
    nodes = {
        "a pipe": (stat.S_IFIFO, 0, stat.S_ISFIFO),
        "a character device": (stat.S_IFCHR, os.makedev(1, 3), stat.S_ISCHR),
        "a full device": (stat.S_IFCHR, os.makedev(1, 7), stat.S_ISCHR),
        "a block device": (stat.S_IFBLK, os.makedev(240, 240), stat.S_ISBLK),
        "a socket": (stat.S_IFSOCK, 0, stat.S_ISSOCK),
    }
    verbs = {
        "predict": predict(),
        "compare": ("isic", "compare", "oof.parquet", "oof.parquet", "--out", "out.csv"),
    }
    for verb, command in verbs.items():
        for name, (kind, device, same) in nodes.items():
            prepare = _both(_node(kind, device), _oof)
            yield Case(1, f"{verb} to {name}", command, prepare, line="out.csv", check=_still(same))
    for name, (kind, device, same) in nodes.items():

        def linked(folder: Path, kind: int = kind, device: int = device) -> None:
            _node(kind, device)(folder)
            (folder / "out.csv").rename(folder / "node")
            (folder / "out.csv").symlink_to("node")

        yield Case(1, f"predict to a link to {name}", predict(), linked, check=_still(same, "node"))
    for name, target, content in (
        ("a file", "real.csv", "old"),
        ("a file elsewhere", "sub/real.csv", "old"),
        ("nothing yet", "new.csv", None),
    ):
        yield Case(
            1,
            f"predict to a link to {name}",
            predict(),
            _link(target, content),
            "done",
            check=_written_behind(target),
        )
    yield Case(1, "predict to a link to itself", predict(), _link("out.csv", None))
    yield Case(1, "predict to a link to a folder", predict(), _link("bundle", None))
    yield Case(1, "predict to a link to its table", predict(), _link("m.csv", None), line="input")

    def hard(folder: Path) -> None:
        os.link(folder / "m.csv", folder / "out.csv")

    yield Case(1, "predict to a hard link of its table", predict(), hard, line="input", absent=())
    for name, out, line in (
        ("nothing", "", ""),
        ("the working folder", ".", "folder"),
        ("a folder", "bundle", "folder"),
        ("a new folder", "new/", ""),
        ("below a file", "m.csv/out.csv", ""),
        ("a name too long", "n" * 300 + ".csv", ""),
        ("a name with NUL", "a\0b.csv", ""),
        ("its own table", "m.csv", "input"),
        ("its own tiles", "i.hdf5", "input"),
        ("its bundle's manifest", "bundle/bundle.json", "bundle"),
        ("inside its bundle", "bundle/stack/scores.csv", "bundle"),
        ("a folder of the system", "/proc/out.csv", ""),
    ):
        command = predict(out=out)
        yield Case(1, f"predict to {name}", command, line=line, check=_bundle_is_whole)
    yield Case(
        1, "predict to a long name", predict(out="n" * 240 + ".csv"), expected="done", absent=()
    )
    yield Case(
        1, "predict to a name with spaces and %", predict(out="a %d #?.csv"), expected="done"
    )
    for name, out in (("a file", "m.csv"), ("below a file", "m.csv/shards"), ("nothing", "")):
        command = (*SHARD[:-1], out)
        yield Case(1, f"shard to {name}", command)
    for name, out in (("a file", "m.csv"), ("below a file", "m.csv/raw"), ("nothing", "")):
        expected = "refused" if out else "either"  # the shell's working folder
        yield Case(1, f"sample to {name}", (*SAMPLE, "--out", out), expected=expected)


def _bundle_is_whole(folder: Path) -> str | None:
    from isic.predict.manifest import read_manifest, verify

    try:
        verify(folder / "bundle", read_manifest(folder / "bundle"))
    except Exception as error:
        return f"bundle changed: {error}"
    return None


def _oof(folder: Path) -> None:
    pd.read_parquet(folder / "bundle" / "oof.parquet").to_parquet(folder / "oof.parquet")


def _both(*prepares: Prepare) -> Prepare:
    def prepare(folder: Path) -> None:
        for one in prepares:
            one(folder)

    return prepare


# --- 2: tiles


def _scan(data: bytes) -> int:
    """Where the compressed data begin: behind the header of the (first) scan."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def _cut(share: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        begin = _scan(data)
        return data[: begin + int((len(data) - begin) * share)]

    return change


def _cut_with_end(share: float) -> Callable[[bytes], bytes]:
    return lambda data: _cut(share)(data) + b"\xff\xd9"


def _noise(seed: int, share: float, length: int = 40) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        begin = _scan(data)
        at = begin + int((len(data) - begin) * share)
        noise = np.random.default_rng(seed).integers(0, 255, length, np.uint8).tobytes()
        return data[:at] + noise + data[at + length :]

    return change


def _zeros(share: float, length: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = _scan(data) + int((len(data) - _scan(data)) * share)
        return data[:at] + b"\0" * length + data[at + length :]

    return change


def _claim(height: float, width: float) -> Callable[[bytes], bytes]:
    """A frame header of another size than the data."""

    def change(data: bytes) -> bytes:
        at = data.index(b"\xff\xc0") + 5
        old = [int.from_bytes(data[at + 2 * i : at + 2 * i + 2], "big") for i in (0, 1)]
        new = [
            max(1, int(side * factor)) for side, factor in zip(old, (height, width), strict=True)
        ]
        return data[:at] + b"".join(side.to_bytes(2, "big") for side in new) + data[at + 4 :]

    return change


def _encoded(kind: str, *options: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return cv2.imencode(kind, image, list(options))[1].tobytes()

    return change


def _tiles() -> Iterator[Case]:
    broken: dict[str, Callable[[bytes], bytes]] = {
        **{f"cut at {share:.0%} of its data": _cut(share) for share in (0.02, 0.3, 0.6, 0.9, 0.97)},
        **{f"cut at {share:.0%} and closed": _cut_with_end(share) for share in (0.1, 0.5, 0.8)},
        **{f"with noise at {share:.0%}": _noise(1, share) for share in (0.1, 0.7)},
        **{f"with zeros at {share:.0%}": _zeros(share, 200) for share in (0.2, 0.5)},
        "twice as high as its data": _claim(2, 1),
        "twice as wide as its data": _claim(1, 2),
        "half as high as its data": _claim(0.5, 1),
        "half as wide as its data": _claim(1, 0.5),
        "a little higher than its data": _claim(1.2, 1),
        "without its end": lambda data: data[:-2],
        "cut in its header": lambda data: data[:100],
        "empty": lambda data: b"",
        "one byte": lambda data: b"\xff",
        "a PNG": _encoded(".png"),
        "a WebP": _encoded(".webp"),
        "text": lambda data: b"not found",
        "a bomb": _claim(300, 300),
        "twice the start": lambda data: data[: _scan(data)] * 2,
        "without tables": lambda data: (
            data[: data.index(b"\xff\xc4")] + data[data.index(b"\xff\xda") :]
        ),
    }
    for name, change in broken.items():
        # Noise may be data of as many blocks by chance (15 % of them here): no reader can tell.
        expected: Expected = "either" if "noise" in name else "refused"
        yield Case(2, f"tile {name}", predict(), edit_tile(change), expected, line="tile ISIC_")
        yield Case(
            2,
            f"tile {name}, imputed",
            predict("--missing-images", "impute"),
            edit_tile(change),
            "done",
        )
    yield Case(2, "shard of a tile cut at 60%", SHARD, edit_tile(_cut(0.6)), "either")
    fine: dict[str, Callable[[bytes], bytes]] = {
        "progressive": _encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "with restarts": _encoded(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "optimised": _encoded(".jpg", cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        "4:4:4": _encoded(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111),
        "4:2:2": _encoded(".jpg", cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x211111),
        "of another size": lambda data: _encoded(".jpg")(
            cv2.imencode(
                ".jpg",
                cv2.resize(cv2.imdecode(np.frombuffer(data, np.uint8), 1), (51, 239)),
            )[1].tobytes()
        ),
        "grey": lambda data: cv2.imencode(
            ".jpg", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        )[1].tobytes(),
        "followed by zeros": lambda data: data + b"\0" * 16,
    }
    for name, change in fine.items():
        yield Case(2, f"tile {name}", predict(), edit_tile(change), "done")


def _damage(share: float, length: int, noise: bool = True) -> Prepare:
    def prepare(folder: Path) -> None:
        path = folder / "i.hdf5"
        data = bytearray(path.read_bytes())
        at = int(len(data) * share)
        part = np.random.default_rng(at).integers(0, 256, length, np.uint8).tobytes()
        data[at : at + length] = part if noise else b"\0" * length
        path.write_bytes(bytes(data))

    return prepare


def _hdf5(change: Callable[[h5py.File, str], Any]) -> Prepare:
    def prepare(folder: Path) -> None:
        with h5py.File(folder / "i.hdf5", "r+") as file:
            name = sorted(file)[0]
            del file[name]
            change(file, name)

    return prepare


def _open_for_writing(folder: Path) -> None:
    # Held by another process, which ends with this one's group.
    read, write = os.pipe()
    if not os.fork():
        _held = h5py.File(folder / "i.hdf5", "r+")
        os.write(write, b"x")
        os.read(read, 0)
        import time

        time.sleep(100)
        os._exit(0)
    os.read(read, 1)


def _external(file: h5py.File, name: str) -> None:
    Path("secret.bin").write_bytes(b"x" * 100)
    file.create_dataset(name, shape=(1,), dtype="S100", external=[("secret.bin", 0, 100)])


def _stores_of_tiles() -> Iterator[Case]:
    for share in (0.0, 0.001, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        yield Case(
            2,
            f"tiles damaged at {share:.1%}",
            predict(),
            _damage(share, 600),
            "either",
            line="i.hdf5|tile",
        )
    for share in (0.0005, 0.003, 0.1, 0.5):
        yield Case(
            2, f"tiles zeroed at {share:.2%}", predict(), _damage(share, 900, noise=False), "either"
        )
    for size in (0, 1, 100, 2000, 20000):
        yield Case(
            2,
            f"tiles cut to {size} bytes",
            predict(),
            lambda folder, size=size: os.truncate(folder / "i.hdf5", size),
            line="i.hdf5",
        )
    yield Case(2, "tiles open for writing", predict(), _open_for_writing, "either", line="i.hdf5")
    forms: dict[str, Callable[[h5py.File, str], Any]] = {
        "an array": lambda file, name: file.create_dataset(name, data=np.zeros((3, 3), np.uint8)),
        "a group": lambda file, name: file.create_group(name),
        "a soft link": lambda file, name: file.__setitem__(
            name, h5py.SoftLink("/" + sorted(file)[0])
        ),
        "a link to nothing": lambda file, name: file.__setitem__(name, h5py.SoftLink("/none")),
        "an external link": lambda file, name: file.__setitem__(
            name, h5py.ExternalLink("x.h5", "/")
        ),
        "variable text": lambda file, name: file.create_dataset(name, data="text"),
        "a number": lambda file, name: file.create_dataset(name, data=3.0),
        "in another file": _external,
        "missing": lambda file, name: None,
        "compressed": lambda file, name: file.create_dataset(
            name, data=np.zeros(100, "S10"), compression="gzip", chunks=(10,)
        ),
    }
    for name, change in forms.items():
        yield Case(2, f"a tile that is {name}", predict(), _hdf5(change), line="ISIC_")
    for name, prepare in {
        "a folder": lambda folder: (folder / "i.hdf5").unlink() or (folder / "i.hdf5").mkdir(),
        "absent": lambda folder: (folder / "i.hdf5").unlink(),
        "a zip": lambda folder: (folder / "i.hdf5").write_bytes(b"PK\3\4" + b"\0" * 900),
        "a table": lambda folder: (folder / "i.hdf5").write_text("isic_id,target\n"),
        "a pipe": lambda folder: (folder / "i.hdf5").unlink() or os.mkfifo(folder / "i.hdf5"),
    }.items():
        yield Case(2, f"tiles that are {name}", predict(), prepare, line="i.hdf5")

    def renamed(folder: Path) -> None:
        with h5py.File(folder / "i.hdf5", "r+") as file:
            for name in list(file):
                file.move(name, name.lower())

    impute = ("--missing-images", "impute")
    yield Case(3, "no tile matches", predict(), renamed, line="no image")
    yield Case(3, "no tile matches, imputed", predict(*impute), renamed, line="no image for any")

    def emptied(folder: Path) -> None:
        h5py.File(folder / "i.hdf5", "w").close()

    yield Case(3, "a file without tiles, imputed", predict(*impute), emptied)


# --- 3: values


def _first(column: str, value: str) -> Prepare:
    def change(frame: pd.DataFrame) -> None:
        frame.loc[2, column] = value

    return edit_table(change)


def _column(column: str, value: str) -> Prepare:
    return edit_table(lambda frame: frame.assign(**{column: value}))


def _values() -> Iterator[Case]:
    impossible = {
        "age_approx": ("-5", "900", "121", "inf"),
        "clin_size_long_diam_mm": ("-1", "0", "1e6"),
        "tbp_lv_areaMM2": ("-3.2", "0", "1e9", "nan"),
        "tbp_lv_perimeterMM": ("-1", "1e7"),
        "tbp_lv_eccentricity": ("-0.1", "1.5"),
        "tbp_lv_nevi_confidence": ("-1", "101"),
        "tbp_lv_norm_border": ("-1", "11"),
        "tbp_lv_symm_2axis_angle": ("-10", "500"),
        "tbp_lv_L": ("500", "-40"),
        "tbp_lv_H": ("720", "1e308", "-inf"),
        "tbp_lv_deltaA": ("99",),
        "tbp_lv_x": ("1e999", "-1e999", "none", "1;5"),
    }
    for column, values in impossible.items():
        for value in values:
            yield Case(
                3, f"{column} of {value}", predict(), _first(column, value), line=f"`{column}`"
            )
    for column in ("age_approx", "tbp_lv_areaMM2", "tbp_lv_x"):
        for value in ("True", "FALSE"):
            name = f"{column} all {value}"
            yield Case(3, name, predict(), _column(column, value), line=f"`{column}`")
    shard = {"tbp_lv_areaMM2": "-3", "age_approx": "400", "tbp_lv_y": "True"}
    for column, value in shard.items():
        yield Case(
            3,
            f"shard with {column} of {value}",
            SHARD,
            _column(column, value) if value == "True" else _first(column, value),
            line=f"`{column}`",
            absent=("shards/_manifest.json",),
        )
    texts = {
        "an unknown sex": ("sex", "other"),
        "an unknown hospital": ("attribution", "Nowhere"),
        "an unknown site": ("anatom_site_general", "tail"),
        "no age": ("age_approx", ""),
        "an age of NA": ("age_approx", "NA"),
        "no sex": ("sex", ""),
    }
    for name, (column, value) in texts.items():
        yield Case(3, name, predict(), _column(column, value), "done")
    for name, (column, value) in {
        "no patient": ("patient_id", ""),
        "no id": ("isic_id", ""),
        "an id twice": ("isic_id", "ISIC_0000001"),
        "an id that is a path": ("isic_id", "../../etc/passwd"),
        "an id of dots": ("isic_id", ".."),
        "an id with NUL": ("isic_id", "a\0b"),
    }.items():
        yield Case(
            3,
            name,
            predict(),
            _first(column, value) if "twice" not in name else _column(column, value),
        )


# --- 8: tables


def _raw(change: Callable[[bytes], bytes], name: str = "m.csv") -> Prepare:
    def prepare(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return prepare


def _zip(*names: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, data)
        return stream.getvalue()

    return change


def _semicolons(data: bytes) -> bytes:
    frame = pd.read_csv(io.BytesIO(data), dtype="str", keep_default_na=False)
    return frame.to_csv(index=False, sep=";").encode()


def _decimal_commas(data: bytes) -> bytes:
    frame = pd.read_csv(io.BytesIO(data), dtype="str", keep_default_na=False)
    commas = {name: frame[name].str.replace(".", ",", regex=False) for name in NUMERIC}
    return frame.assign(**commas).to_csv(index=False, sep=";").encode()


def _quoted(data: bytes) -> bytes:
    frame = pd.read_csv(io.BytesIO(data), dtype="str", keep_default_na=False)
    return frame.to_csv(index=False, quoting=1).encode()


def _with_target(quoting: int = 0) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        frame = pd.read_csv(io.BytesIO(data), dtype="str", keep_default_na=False)
        frame.insert(1, "target", "0")
        return frame.to_csv(index=False, quoting=quoting).encode()

    return change


def _indexed(data: bytes) -> bytes:
    return pd.read_csv(io.BytesIO(data), dtype="str", keep_default_na=False).to_csv().encode()


def _tables() -> Iterator[Case]:
    read: dict[str, Callable[[bytes], bytes]] = {
        "with every field quoted": _quoted,
        "with a BOM": lambda data: b"\xef\xbb\xbf" + data,
        "quoted with a BOM": lambda data: b"\xef\xbb\xbf" + _quoted(data),
        "with CRLF": lambda data: data.replace(b"\n", b"\r\n"),
        "without a last newline": lambda data: data.rstrip(b"\n"),
        "with blank lines at the end": lambda data: data + b"\n\n",
        "with a target": _with_target(),
        "with a target, quoted": _with_target(1),
        "with a target and a BOM": lambda data: b"\xef\xbb\xbf" + _with_target()(data),
        "with NaN for no age": lambda data: _age(data, "NaN"),
        "with nan for no age": lambda data: _age(data, "nan"),
        "with N/A for no age": lambda data: _age(data, "N/A"),
        "with NULL for no age": lambda data: _age(data, "NULL"),
        "with NA for no age": lambda data: _age(data, "NA"),
    }
    for name, change in read.items():
        yield Case(8, f"table {name}", predict(), _raw(change), "done")
    unclear: dict[str, tuple[Callable[[bytes], bytes], Expected, str]] = {
        "in gzip": (gzip.compress, "either", "gzip"),
        "in zip": (_zip("m.csv"), "either", "zip"),
        "in zip of two": (_zip("m.csv", "n.csv"), "refused", "zip"),
        "in gzip, cut": (lambda data: gzip.compress(data)[:-200], "refused", "gzip"),
        "in zip, cut": (lambda data: _zip("m.csv")(data)[:-200], "refused", "zip"),
        "in bzip2": (lambda data: b"BZh91AY&SY" + data, "refused", "bz2"),
        "with semicolons": (_semicolons, "either", "semicolon|`;`"),
        "with tabs": (lambda data: data.replace(b",", b"\t"), "either", "tab"),
        "with decimal commas": (_decimal_commas, "either", "comma|`;`"),
        "in UTF-16": (
            lambda data: data.decode().encode("utf-16"),
            "either",
            "UTF-16",
        ),
        "in UTF-16 without BOM": (
            lambda data: data.decode().encode("utf-16-le"),
            "refused",
            "UTF-16|NUL",
        ),
        "in latin-1": (lambda data: data.replace(b"ViDIR", b"Vid\xe9"), "either", "UTF-8"),
        "as Excel": (lambda data: b"PK\3\4" + b"\0" * 400, "refused", "zip"),
        "as a web page": (lambda data: b"<!DOCTYPE html><html>\n<p>, login</p>", "refused", ""),
        "as parquet": (lambda data: b"PAR1" + b"\0" * 300, "refused", ""),
        "as JSON": (lambda data: b'[{"isic_id": "a"}]', "refused", ""),
        "empty": (lambda data: b"", "refused", "empty"),
        "of one newline": (lambda data: b"\n", "refused", ""),
        "of a header": (lambda data: data.split(b"\n")[0] + b"\n", "refused", "no rows"),
        "without header": (lambda data: data.split(b"\n", 1)[1], "refused", "column"),
        "with NUL bytes": (lambda data: data[:900] + b"\0" * 40 + data[940:], "refused", ""),
        "cut in a row": (lambda data: data[: len(data) - 60], "refused", ""),
        "cut in a quoted row": (lambda data: _quoted(data)[:-60], "refused", ""),
        "with a row too long": (lambda data: data + b"a,b" * 90 + b"\n", "refused", ""),
        "with a row too short": (lambda data: data + b"ISIC_1,IP_1\n", "refused", ""),
        "with an index": (_indexed, "refused", "column"),
        "with a column twice": (
            lambda data: (
                b"\n".join(line + b"," + line.split(b",")[2] for line in data.split(b"\n")[:-1])
                + b"\n"
            ),
            "refused",
            "age_approx",
        ),
        "with spaces in its header": (
            lambda data: (
                data.split(b"\n")[0].replace(b",", b", ") + b"\n" + data.split(b"\n", 1)[1]
            ),
            "either",
            "column",
        ),
        "with an upper-case header": (
            lambda data: data.split(b"\n")[0].upper() + b"\n" + data.split(b"\n", 1)[1],
            "refused",
            "column",
        ),
        "with two headers": (lambda data: data + data.split(b"\n")[0] + b"\n", "refused", ""),
        "with an unmatched quote": (lambda data: data.replace(b"ISIC", b'"ISIC', 1), "refused", ""),
    }
    for name, (change, expected, line) in unclear.items():
        yield Case(8, f"table {name}", predict(), _raw(change), expected, line)
    for name in (
        "in zip, cut",
        "in gzip, cut",
        "with decimal commas",
        "in UTF-16 without BOM",
        "cut in a row",
    ):
        change, _, line = unclear[name]
        yield Case(
            8,
            f"shard of a table {name}",
            SHARD,
            _raw(change),
            "either",
            line,
            absent=("shards/_manifest.json",),
        )
    for name in (
        "empty",
        "of one newline",
        "of a header",
        "as parquet",
        "in UTF-16 without BOM",
        "in zip, cut",
    ):
        change, _, _ = unclear[name]
        for file in ("solution.csv", "submission.csv"):
            yield Case(8, f"score of a {file} {name}", SCORE, _raw(change, file), line=file)
    for name in (
        "with every field quoted",
        "with a BOM",
        "with CRLF",
        "with blank lines at the end",
    ):
        for file in ("solution.csv", "submission.csv"):
            yield Case(8, f"score of a {file} {name}", SCORE, _raw(read[name], file), "done")
    for name, prepare in {
        "a folder": lambda folder: (folder / "m.csv").unlink() or (folder / "m.csv").mkdir(),
        "absent": lambda folder: (folder / "m.csv").unlink(),
        "a pipe": lambda folder: (folder / "m.csv").unlink() or os.mkfifo(folder / "m.csv"),
    }.items():
        yield Case(8, f"table that is {name}", predict(), prepare, line="m.csv")


def _age(data: bytes, missing: str) -> bytes:
    frame = pd.read_csv(io.BytesIO(data), dtype="str", keep_default_na=False)
    frame.loc[[0, 3], "age_approx"] = missing
    return frame.to_csv(index=False).encode()


def _scores() -> Iterator[Case]:
    def submission(column: str, value: str, row: int | None = 2) -> Prepare:
        def change(frame: pd.DataFrame) -> None:
            frame.loc[slice(None) if row is None else row, column] = value

        return edit_table(change, "submission.csv")

    def solution(column: str, value: str, row: int | None = 2) -> Prepare:
        def change(frame: pd.DataFrame) -> None:
            frame.loc[slice(None) if row is None else row, column] = value

        return edit_table(change, "solution.csv")

    bad: dict[str, Prepare] = {
        "a score of nan": submission("target", "nan"),
        "a score of inf": submission("target", "inf"),
        "an empty score": submission("target", ""),
        "a score in words": submission("target", "high"),
        "scores of True": submission("target", "True", None),
        "a score of True": submission("target", "True"),
        "a score with a comma": submission("target", "0,5"),
        "an unknown id": submission("isic_id", "ISIC_9999999"),
        "no id": submission("isic_id", ""),
        "one id": submission("isic_id", "ISIC_1", None),
        "a target of 2": solution("target", "2"),
        "a target of -1": solution("target", "-1"),
        "a target of 0.5": solution("target", "0.5"),
        "targets of True": solution("target", "True", None),
        "no positive": solution("target", "0", None),
        "no negative": solution("target", "1", None),
        "a missing patient": solution("patient_id", ""),
        "no target": edit_table(lambda frame: frame.drop(columns="target"), "solution.csv"),
        "no rows in the submission": edit_table(lambda frame: frame.head(0), "submission.csv"),
        "no solution": lambda folder: (folder / "solution.csv").unlink(),
        "a submission that is a folder": lambda folder: (
            (folder / "submission.csv").unlink() or (folder / "submission.csv").mkdir()
        ),
    }
    for name, prepare in bad.items():
        yield Case(3, f"score with {name}", SCORE, prepare)


def _requests_to_generate() -> Iterator[Case]:
    for name, options in {
        "no patient": ("--patients", "0"),
        "-1 patients": ("--patients", "-1"),
        "fewer lesions than patients": ("--lesions", "2"),
        "more positives than lesions": ("--positives", "500"),
        "a seed of -1": ("--seed", "-1"),
        "a seed in words": ("--seed", "one"),
        "a billion lesions for a patient": ("--patients", "1000000000"),
    }.items():
        yield Case(3, f"sample of {name}", (*SAMPLE, "--out", "raw", *options), base="empty")
    for name, options in {
        "no rows": ("--rows", "0"),
        "-1 rows": ("--rows", "-1"),
        "nan MB": ("--megabytes", "nan"),
        "inf MB": ("--megabytes", "inf"),
        "unknown images": ("--missing-images", "guess"),
    }.items():
        yield Case(3, f"shard of {name}", (*SHARD, *options))
    for name, options in {
        "an unknown place": ("--on", "mars"),
        "unknown images": ("--missing-images", "guess"),
        "shards here": ("--input", "shards"),
    }.items():
        yield Case(3, f"predict with {name}", predict(*options))
