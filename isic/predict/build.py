"""Gather the models of a checkout into one bundle folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import isic
from isic.core.csv_files import read_csv
from isic.core.io import (
    atomic_dir,
    read_json,
    require,
    sha256,
    write_json,
)
from isic.core.paths import BundleFiles
from isic.data.anchors import ANCHOR_TILES
from isic.data.archive.licences import all_licences, licence_sentence, train_only_sources
from isic.predict.bundle import Bundle, code_hash
from isic.predict.manifest import BUNDLE_FORMAT, FILE, file_hashes, identity, read_manifest
from isic.predict.models import OOF_LOGITS
from isic.tracking.context import data_hash

#: Files of an image fold needed for scoring; the learning curve is left out.
_IMAGE_FILES = ("model.safetensors", "config.json")
#: Files of the values fitted on training rows.
_FITTED = {
    "categories": "stack/stack.json: levels",
    "image scales": "stack/stack.json: chains.FOLD.scales",
    "blend": "stack/stack.json: chains.FOLD.blend",
    "combination": "stack/stack.json: chains.FOLD.combination",
    "probabilities": "calibration.json",
}
#: Packages needed for scoring, besides this one.
_LIBRARIES = (
    "albumentations",
    "h5py",
    "lightgbm",
    "numba",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pyarrow",
    "pydantic",
    "PyYAML",
    "safetensors",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)
#: Further packages by stacker member.
_MEMBER_LIBRARIES = {"catboost": ("catboost",), "xgboost": ("xgboost-cpu", "xgboost")}
_LOAD = "isic.predict.bundle.load_bundle(FOLDER).predict(rows, isic.data.tiles.TileStore(HDF5))"


def build_bundle(
    out: Path,
    files: BundleFiles,
    tta: Mapping[str, str],
    config: Mapping[str, Any],
    git_commit: str,
) -> Bundle:
    """Gather `files` into the bundle folder `out` and return it. The same models give the same
    hash.

    `tta` is backbone -> test-time augmentation, `config` is `Params.stack_config()`. Raises
    InputError when a stage's output is missing.
    """
    with atomic_dir(out) as folder:
        for backbone, networks in files.networks.items():
            for fold, source in networks.items():
                target = folder / "image" / backbone / f"fold{fold}"
                _copy_image_model(source, target, tta[backbone])
                logits = files.logits[backbone][fold]
                shutil.copy(
                    require(logits, "out-of-fold logits", "run `dvc repro stack`"),
                    target / OOF_LOGITS,
                )
        shutil.copytree(require(files.stack, "stacker", "run `dvc repro stack`"), folder / "stack")
        oof = require(files.oof, "out-of-fold scores", "run `dvc repro stack`")
        shutil.copy(oof, folder / "oof.parquet")
        # Scores are ranks. This map, fitted on out-of-fold scores, converts them to probabilities.
        calibration = require(files.calibration, "calibration", "run `dvc repro evaluate`")
        shutil.copy(calibration, folder / "calibration.json")
        write_json(folder / FILE, _manifest(folder, files, config, git_commit))
    return Bundle(out, read_manifest(out))


def _library_versions(members: Iterable[str]) -> dict[str, str]:
    """Installed versions of the packages that score with these members, without build tags such as
    +cpu.
    """
    versions = {}
    for package in (
        *_LIBRARIES,
        *(package for member in members for package in _MEMBER_LIBRARIES.get(member, ())),
    ):
        try:
            versions[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            continue
    return versions


def _image_model(folder: Path, backbone: str, fold: int) -> dict[str, Any]:
    config = read_json(folder / "image" / backbone / f"fold{fold}" / "config.json")
    return {"model": config["model"], "size": config["size"], "tta": config["tta"]}


def _copy_image_model(source: Path, target: Path, tta: str) -> None:
    target.mkdir(parents=True)
    weights, config = (
        require(source / name, "image model", "run `dvc repro`") for name in _IMAGE_FILES
    )
    shutil.copy(weights, target / weights.name)
    # From the parameters, not from training: a change of `image.tta` does not retrain.
    write_json(target / config.name, read_json(config) | {"tta": tta})


def _licence(files: BundleFiles, config: Mapping[str, Any]) -> str:
    """What the licences of all pictures that trained the weights allow."""
    own: list[str] = []
    if config["data"]["source"] != "sample":
        rows = read_csv(files.training.metadata, usecols=["copyright_license"])
        own = rows["copyright_license"].fillna("missing").unique().tolist()
    return licence_sentence(all_licences(own, train_only_sources(files.networks)))


def _manifest(
    folder: Path, files: BundleFiles, config: Mapping[str, Any], git_commit: str
) -> dict[str, Any]:
    training = files.training
    folds = list(config["folds"])
    # Without the data's path: its hash is `data_hash`.
    sections = {name: values for name, values in config.items() if name != "data"}
    stack = read_json(folder / "stack" / "stack.json")
    members = sorted(stack["chains"][str(folds[0])]["members"])
    content = {
        "format": BUNDLE_FORMAT,
        "folds": folds,
        "backbones": list(files.networks),
        "families": list(config["features"]["families"]),
        "models": {
            "image": {
                backbone: _image_model(folder, backbone, folds[0]) for backbone in files.networks
            },
            "stack": {"members": members, "chains": len(folds)},
        },
        "features": list(stack["columns"]),
        "fitted": _FITTED,
        "params": sections,
        "metrics": read_json(files.metrics),
        "data_hash": data_hash(training.metadata, training.tiles),
        "folds_hash": sha256(require(training.folds, "folds", "run `dvc repro folds`")),
        "anchors_hash": sha256(ANCHOR_TILES),
        "code_hash": code_hash(),
        "git_commit": git_commit,
        "isic_version": isic.__version__,
        "libraries": _library_versions(members),
        "licence": f"Code: MIT. Weights: {_licence(files, config)}",
        "load": _LOAD,
        "files": file_hashes(folder),
    }
    return {"hash": identity(content), **content}
