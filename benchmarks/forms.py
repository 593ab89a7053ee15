"""What `isic data import` costs beside merely reading the same files, for each form of the data.

    python benchmarks/forms.py [--quick]

Reading is opening, reading and closing every tile once by the form's own library (files, `zipfile`,
`tarfile`, `h5py`) and every table by pandas. The import reads them too, joins the tables and writes
the five official files. Both run alternately in processes of their own, `warm` (files in memory, the
harder comparison) and `cold` (dropped from memory before each run, as after a download of more than
the memory). Memory is the peak of the process.
`pixels` is reading with every tile decoded, as the stage `validate` does: what a reader that uses the
tiles takes. The targets are for reading the bytes alone. Processor ratios count both of the import's
processes and do not depend on what else the machine does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from harness import arguments, kept, official, run_parts

from isic.core.io import atomic_dir
from isic.core.schema import ID, TARGET, TEST_COLUMNS, TRAIN_ONLY
from isic.data.source import FILES
from isic.data.tiles import TileStore, decode

LESIONS, QUICK, ROUNDS = 20_000, 2_000, 3
FORMS = ("folder", "zip", "tar", "hdf5")
TARGETS = {
    **{f"{form}_{state}_ratio": "<= 1.3" for form in FORMS for state in ("warm", "cold")},
    "identical": True,
    "memory_growth_mb": "<= 32",
}

#: One side in a process of its own: seconds and peak memory as JSON.
_SIDE = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
import forms
import isic.data.forms.build, zipfile, tarfile
forms.warm_up()
before = time.process_time()
start = time.perf_counter()
forms.SIDES[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
seconds = time.perf_counter() - start
usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
spent = [usage.ru_utime + usage.ru_stime for usage in usages]
# ru_maxrss begins with the memory of the process that started this one.
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
print(json.dumps([seconds, sum(spent) - before, peak]))
"""


def warm_up() -> None:
    """What the first call of a library costs: its share of the process's start."""
    with tempfile.TemporaryFile("w+") as stream:
        stream.write("a,b\n1,x\n")
        stream.seek(0)
        pd.read_csv(stream)


def contents(source: Path) -> Iterator[bytes]:
    """Read every table by pandas and every tile by its form's own library, once."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        if path.suffix == ".csv":
            pd.read_csv(path, low_memory=False)
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from map(archive.read, archive.namelist())
        elif path.suffix == ".tar":
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    yield stream.read()
        elif path.suffix == ".hdf5":
            with h5py.File(path) as file:
                yield from (file[name][()] for name in file)
        else:
            yield path.read_bytes()


def read(source: Path, _: Path) -> None:
    """Read a source."""
    for _tile in contents(source):
        pass


def read_pixels(source: Path, _: Path) -> None:
    """Read a source and decode its tiles, as the stage `validate` does."""
    for data in contents(source):
        decode(bytes(data), "")


def build(source: Path, out: Path) -> None:
    """Import a source."""
    from isic.data.forms.build import import_data

    import_data(source, out)


SIDES = {"read": read, "import": build, "pixels": read_pixels}


def sources(lesions: int) -> Path:
    """The same lesions in every form, written once in the temporary folder; every tile differs."""
    home = Path(tempfile.gettempdir()) / f"isic-bench-forms-{lesions}"
    if home.is_dir():
        return home
    raw = official(lesions, images=True)
    frame = pd.read_csv(raw / "train-metadata.csv", dtype="str", keep_default_na=False)
    store = TileStore(raw / "train-image.hdf5")
    with atomic_dir(home) as folder:
        for form in FORMS:
            (folder / form).mkdir()
            split(frame, folder / form)
        tiles = folder / "folder" / "ISIC_2024_Training_Input"
        tiles.mkdir()
        with (
            zipfile.ZipFile(folder / "zip" / "tiles.zip", "w", zipfile.ZIP_DEFLATED) as archive,
            tarfile.open(folder / "tar" / "tiles.tar", "w") as tar,
            h5py.File(folder / "hdf5" / "tiles.hdf5", "w") as file,
        ):
            for name in frame[ID]:
                # A comment (T.81, B.2.4.5) after the start makes the bytes unique, not the pixels.
                data = store.jpeg(name)
                comment = b"\xff\xfe" + (len(name) + 2).to_bytes(2, "big") + name.encode()
                data = data[:2] + comment + data[2:]
                (tiles / f"{name}.jpg").write_bytes(data)
                archive.writestr(f"a/{name}.jpg", data)
                tar.add(tiles / f"{name}.jpg", f"a/{name}.jpg")
                file.create_dataset(f"{name}.jpg", data=np.frombuffer(data, np.uint8))
    return home


def split(frame: pd.DataFrame, folder: Path) -> None:
    """Write a training table as the challenge's three files."""
    names = "ISIC_2024_Training_{}.csv"
    truth = frame[[ID, TARGET]].rename(columns={TARGET: "malignant"})
    truth.to_csv(folder / names.format("GroundTruth"), index=False)
    frame[list(TEST_COLUMNS)].to_csv(folder / names.format("Metadata"), index=False)
    supplement = frame[[ID, *TRAIN_ONLY[1:]]]
    supplement.sample(frac=1, random_state=0).to_csv(
        folder / names.format("Supplement"), index=False
    )


def timed(side: str, source: Path, out: Path, cold: bool) -> list[float]:
    """Seconds, processor seconds of all processes, peak MB of the process that reads."""
    shutil.rmtree(out, ignore_errors=True)
    if cold:
        os.sync()
        for path in source.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
    done = subprocess.run(
        [sys.executable, "-c", _SIDE, __file__, side, str(source), str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    return list(json.loads(done.stdout))


def digest(out: Path) -> dict[str, str]:
    """MD5 of the tables' bytes and of every tile's."""
    found = {name: hashlib.md5((out / name).read_bytes()).hexdigest() for name in FILES[::2]}
    for name in ("train-image.hdf5", "test-image.hdf5"):
        with h5py.File(out / name) as file:
            for isic_id in file:
                data = bytes(file[isic_id][()])
                found[f"{name} {isic_id}"] = hashlib.md5(data).hexdigest()
    found["test-metadata.csv"] = hashlib.md5((out / "test-metadata.csv").read_bytes()).hexdigest()
    return found


def measure(lesions: int, rounds: int, form: str) -> dict[str, Any]:
    """Both sides of a form, warm and cold, and whether its files are the folder's."""
    home = sources(lesions)
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        out = Path(folder) / "out"
        measured: dict[str, Any] = {}
        timed("import", home / form, out, cold=False)
        own = digest(out)
        timed("import", home / "folder", out, cold=False)
        same = own == digest(out) and len(own) == lesions + 6
        measured[f"{form}_same_as_folder"] = same
        # Each part adds its form: the last one has compared all.
        known = [kept("forms", lesions == QUICK).get(f"{one}_same_as_folder") for one in FORMS]
        measured["rounds"] = rounds
        measured["identical"] = same and all(one is not False for one in known)
        for state in ("warm", "cold"):
            sides = list(SIDES) if state == "warm" else ["read", "import"]
            spent: dict[str, list[list[float]]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side in sides:
                    spent[side].append(timed(side, home / form, out, state == "cold"))
            for side in sides:
                seconds = [one[0] for one in spent[side]]
                measured[f"{form}_{state}_{side}_seconds"] = round(statistics.median(seconds), 3)
            for side in {"read", *sides} - {"import"}:
                ratios = [b[0] / a[0] for a, b in zip(spent[side], spent["import"], strict=True)]
                name = f"{form}_{state}_{'' if side == 'read' else 'pixels_'}"
                measured[f"{name}ratio"] = round(statistics.median(ratios), 2)
                processor = [b[1] / a[1] for a, b in zip(spent[side], spent["import"], strict=True)]
                measured[f"{name}processor_ratio"] = round(statistics.median(processor), 2)
        runs = spent["import"]
        measured[f"{form}_import_peak_mb"] = round(max(max(one[2:]) for one in runs))
    return measured


def memory(lesions: int) -> dict[str, Any]:
    """Peak memory of an import of a quarter of the lesions, and of all: what grows with them."""
    peaks = {}
    for count in (lesions // 4, lesions):
        home = sources(count)
        with tempfile.TemporaryDirectory(dir=home.parent) as folder:
            runs = [timed("import", home / "zip", Path(folder) / "out", False) for _ in range(3)]
        peaks[count] = statistics.median(max(one[2:]) for one in runs)
    small, large = peaks.values()
    return {
        "memory_mb": {str(k): round(v) for k, v in peaks.items()},
        "memory_growth_mb": round(large - small, 1),
    }


def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether each target is met; None without a number."""
    return {
        name: None
        if name not in measured
        else measured[name] is True
        if target is True
        else measured[name] <= float(str(target).removeprefix("<= "))
        for name, target in TARGETS.items()
    }


def main() -> int:
    options = arguments(__doc__.splitlines()[0], (*FORMS, "memory"))
    lesions, rounds = (QUICK, 2) if options.quick else (LESIONS, ROUNDS)
    parts: dict[str, Callable[[], Mapping[str, Any]]] = {
        form: lambda form=form: measure(lesions, rounds, form) for form in FORMS
    }
    parts["memory"] = lambda: memory(lesions)
    return run_parts("forms", parts, TARGETS, judge, options.quick, options.only)


if __name__ == "__main__":
    sys.exit(main())
