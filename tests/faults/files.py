"""What cases start from: a bundle with a table and tiles that fit it, and a served model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from isic.core.schema import TEST_COLUMNS

#: Lesions of the table: of few patients, so that scoring takes a moment.
ROWS = 24


def make_files(checkout: Path, folder: Path) -> Path:
    """`m.csv`, `i.hdf5`, `bundle/`, `solution.csv`, `submission.csv` and `request.json`."""
    folder.mkdir(parents=True)
    raw = checkout / "data" / "raw"
    table = pd.read_csv(raw / "train-metadata.csv", low_memory=False)
    patients = table["patient_id"].value_counts()[lambda count: count <= 8].index[:6]
    rows = table[table["patient_id"].isin(patients)].head(ROWS)
    rows[list(TEST_COLUMNS)].to_csv(folder / "m.csv", index=False)
    with (
        h5py.File(raw / "train-image.hdf5") as source,
        h5py.File(folder / "i.hdf5", "w") as target,
    ):
        for isic_id in rows["isic_id"]:
            source.copy(isic_id, target)
    shutil.copytree(checkout / "models" / "bundle", folder / "bundle")
    generator = np.random.default_rng(0)
    solution = pd.DataFrame(
        {
            "isic_id": rows["isic_id"],
            "target": np.arange(len(rows)) % 4 == 0,
            "patient_id": rows["patient_id"],
        }
    ).astype({"target": int})
    solution.to_csv(folder / "solution.csv", index=False)
    solution.assign(target=generator.random(len(rows)))[["isic_id", "target"]].to_csv(
        folder / "submission.csv", index=False
    )
    return folder


def serve_model(checkout: Path) -> Any:
    """The registered model as MLflow's server loads it."""
    import mlflow

    # `models/m-…` is the place of a logged model in an MLflow 3 store.
    folder = next((checkout / "mlartifacts").rglob("MLmodel")).parent
    return mlflow.pyfunc.load_model(str(folder))


def warm_up(files: Path, out: Path) -> None:
    """Import and compile in this process what its children would do one by one."""
    import dvc.repo  # noqa: F401
    import optuna  # noqa: F401
    import xgboost  # noqa: F401

    from isic.predict.files import predict

    predict(files / "bundle", files / "m.csv", files / "i.hdf5", out)


def sign(bundle: Path) -> None:
    """Renew the hashes of a bundle whose files were edited, as its author would."""
    from isic.predict.manifest import FILE, file_hashes, identity

    content = json.loads((bundle / FILE).read_text())
    content["files"] = file_hashes(bundle)
    write_manifest(bundle, content)
    assert content["hash"] == identity(content)


def write_manifest(bundle: Path, content: dict[str, Any]) -> None:
    """Write bundle.json with a hash that fits, also where values are no JSON."""
    from isic.predict.manifest import _PARTS, FILE

    parts = _PARTS[2]
    text = json.dumps(
        {part: content[part] for part in parts if part in content},
        sort_keys=True,
        separators=(",", ":"),
    )
    content["hash"] = hashlib.sha256(text.encode()).hexdigest()
    (bundle / FILE).write_text(json.dumps(content))


def edit_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A preparation that changes bundle.json and renews its hash."""

    def prepare(folder: Path) -> None:
        content = json.loads((folder / "bundle" / "bundle.json").read_text())
        change(content)
        write_manifest(folder / "bundle", content)

    return prepare


def edit_json(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """A preparation that changes a JSON file of the bundle and renews the hashes; `change` may
    return a new value.
    """

    def prepare(folder: Path) -> None:
        file = next((folder / "bundle").glob(name))
        content = json.loads(file.read_text())
        returned = change(content)
        file.write_text(json.dumps(content if returned is None else returned))
        sign(folder / "bundle")

    return prepare


def edit_text(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    """The same for a text file."""

    def prepare(folder: Path) -> None:
        for file in sorted((folder / "bundle").glob(name)):
            file.write_text(change(file.read_text()))
        sign(folder / "bundle")

    return prepare


def edit_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The same for a binary file."""

    def prepare(folder: Path) -> None:
        file = next((folder / "bundle").glob(name))
        file.write_bytes(change(file.read_bytes()))
        sign(folder / "bundle")

    return prepare


def edit_table(
    change: Callable[[pd.DataFrame], Any], name: str = "m.csv", **options: Any
) -> Callable[[Path], None]:
    """A preparation that changes a table read as text; `change` may return a new frame."""

    def prepare(folder: Path) -> None:
        frame = pd.read_csv(folder / name, dtype="str", keep_default_na=False)
        returned = change(frame)
        (frame if returned is None else returned).to_csv(folder / name, index=False, **options)

    return prepare


def edit_tile(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A preparation that changes the bytes of the first tile."""

    def prepare(folder: Path) -> None:
        with h5py.File(folder / "i.hdf5", "r+") as file:
            name = sorted(file)[0]
            data = change(bytes(file[name][()]))
            del file[name]
            file[name] = np.array(data, dtype=f"S{max(1, len(data))}")

    return prepare
