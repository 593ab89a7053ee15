"""Gather the models of a checkout into one bundle folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import isic
from isic.core.io import atomic_dir, read_json, require, sha256, write_json
from isic.core.params import Params
from isic.core.paths import Layout
from isic.data.anchors import ANCHOR_TILES
from isic.predict.bundle import Bundle, code_hash
from isic.predict.manifest import FILE, FORMAT, file_hashes, identity, read_manifest
from isic.tracking.context import data_hash, git

if TYPE_CHECKING:
    from isic.stack import Stack

#: Files of an image fold needed for scoring; the learning curve is left out.
_IMAGE_FILES = ("model.safetensors", "config.json")
#: Files of the values fitted on training rows.
_FITTED = {
    "categories": "stack/stack.json: levels",
    "image scales": "stack/stack.json: chains.FOLD.scales",
    "blend": "stack/stack.json: chains.FOLD.blend",
    "probabilities": "calibration.json",
}
#: Packages needed for scoring, besides this one.
LIBRARIES = (
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
_LICENCE = (
    "Code: MIT. Weights: SLICE-3D images are CC BY, CC BY-NC or CC0 by hospital; trained on any CC"
    " BY-NC ones, they are for non-commercial use."
)
_LOAD = "isic.predict.bundle.load_bundle(FOLDER).predict(rows, isic.data.tiles.TileStore(HDF5))"


def build_bundle(layout: Layout, params: Params) -> Bundle:
    """Gather the models of this checkout into models/bundle and return it. The same models give the
    same hash.

    Raises InputError when a stage's output is missing.
    """
    with atomic_dir(layout.bundle) as folder:
        for backbone in params.image.backbones:
            for fold in params.folds:
                source, target = (
                    layout.image_model(backbone, fold),
                    folder / "image" / backbone / f"fold{fold}",
                )
                _copy_image_model(source, target, params.image.recipe(backbone).tta)
        require(layout.stack_model, "stacker", "run `dvc repro stack`")
        shutil.copytree(layout.stack_model, folder / "stack")
        _fit_features_only(layout, params).save(folder / "features_only")
        shutil.copy(
            require(layout.oof, "out-of-fold scores", "run `dvc repro stack`"),
            folder / "oof.parquet",
        )
        # Scores only rank; this map, fitted on out-of-fold scores, converts them to probabilities.
        calibration = require(
            layout.root / "models" / "calibration.json", "calibration", "run `dvc repro evaluate`"
        )
        shutil.copy(calibration, folder / "calibration.json")
        write_json(folder / FILE, _manifest(layout, params, folder))
    return Bundle(layout.bundle, read_manifest(layout.bundle))


def library_versions(members: Iterable[str]) -> dict[str, str]:
    """Installed versions of the packages that score with these members, without build tags such as
    +cpu.
    """
    versions = {}
    for package in (
        *LIBRARIES,
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
    # Of the parameters, not of the time of training: a change of `image.tta` trains nothing again.
    write_json(target / config.name, read_json(config) | {"tta": tta})


def _fit_features_only(layout: Layout, params: Params) -> Stack:
    """A stacker of the same parameters without image columns."""
    from isic.stack import fit_stack
    from isic.stack.inputs import read_inputs

    inputs = read_inputs(layout.stack_files((), params.folds), embeddings=False)
    return fit_stack(inputs.features, {}, inputs.folds, params.stack)


def _manifest(layout: Layout, params: Params, folder: Path) -> dict[str, Any]:
    # Without the data's path: its hash is `data_hash`.
    sections = {name: values for name, values in params.stack_config().items() if name != "data"}
    stack = read_json(folder / "stack" / "stack.json")
    members = sorted(stack["chains"][str(params.folds[0])]["members"])
    content = {
        "format": FORMAT,
        "folds": list(params.folds),
        "backbones": list(params.image.backbones),
        "families": list(params.features.families),
        "models": {
            "image": {
                backbone: _image_model(folder, backbone, params.folds[0])
                for backbone in params.image.backbones
            },
            "stack": {"members": members, "chains": len(params.folds)},
        },
        "features": list(stack["columns"]),
        "fitted": _FITTED,
        "params": sections,
        "metrics": read_json(layout.evaluate_metrics),
        "data_hash": data_hash(layout.train_metadata, layout.train_images),
        "folds_hash": sha256(require(layout.folds, "folds", "run `dvc repro folds`")),
        "anchors_hash": sha256(ANCHOR_TILES),
        "code_hash": code_hash(),
        "git_commit": git(layout.root, "rev-parse", "HEAD"),
        "isic_version": isic.__version__,
        "libraries": library_versions(members),
        "licence": _LICENCE,
        "load": _LOAD,
        "files": file_hashes(folder),
    }
    return {"hash": identity(content), **content}
