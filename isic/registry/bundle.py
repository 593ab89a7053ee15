"""One folder that scores lesions: all folds of all backbones, the stacker, and what they were made from.

No pickle: safetensors, LightGBM text, JSON and parquet. `load_bundle(folder).predict(rows, tiles)` is all it takes, and
it needs neither mlflow nor dvc.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import isic
from isic.core.errors import InputError
from isic.core.io import atomic_dir, read_json, read_parquet, require, sha256, sha256_json, write_json
from isic.core.params import Params
from isic.core.paths import Layout
from isic.core.schema import ID, TARGET
from isic.registry.manifest import FILE, FORMAT, Manifest, file_hashes, identity, read_manifest, verify
from isic.registry.scoring import Held, Manner, MissingImages, Pieces, score_pieces
from isic.tracking.context import data_hash, git

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.stack import Stack

#: Files of an image fold that score; the learning curve stays behind.
_IMAGE_FILES = ("model.safetensors", "config.json")
#: Code that turns rows and tiles into scores, by glob within the package.
_SCORING_CODE = ("data/tiles.py", "tabular/**/*.py", "image/**/*.py", "stack/**/*.py")
#: Where in the folder what was fitted on training rows is.
_FITTED = {
    "categories": "stack/stack.json: levels",
    "image scales": "stack/stack.json: chains.FOLD.scales",
    "blend": "stack/stack.json: chains.FOLD.blend",
    "probabilities": "calibration.json",
}
#: What a bundle needs to score, besides this package.
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
#: What the stacker's members need besides.
_MEMBER_LIBRARIES = {"catboost": ("catboost",), "xgboost": ("xgboost-cpu", "xgboost")}
_LICENCE = (
    "Code: MIT. Weights: SLICE-3D images are CC BY, CC BY-NC or CC0 by hospital; trained on any CC BY-NC ones, "
    "they are for non-commercial use."
)
_LOAD = "isic.registry.bundle.load_bundle(FOLDER).predict(rows, isic.data.tiles.TileStore(HDF5))"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder. Models are read at the first prediction."""

    folder: Path
    manifest: Manifest

    def predict(
        self,
        rows: pd.DataFrame,
        tiles: TileStore | None,
        missing_images: MissingImages = "error",
        folds: Sequence[int] | None = None,
        work: Path | None = None,
        fallback: bool = False,
    ) -> pd.Series:
        """Score of every row, float64 between 0 and 1 by isic_id, in the rows' order; higher is more malignant.

        `rows` has the 44 columns of test-metadata.csv and holds all of each patient's lesions, since a lesion is
        judged against the others. Each fold's chain scores what it scores in training, and the mean of the chains
        (`folds` None: all) is the score; with one fold, that fold's rows get their out-of-fold score. What was done
        is kept in `work`, so that the same call after a kill goes on. With `fallback`, an image model that fails as a
        whole is answered by the features-only stacker and a loud line.
        Raises InputError naming the id of a tile that is missing or does not decode, unless missing tiles are to be
        imputed: such a lesion counts as average in the image models' eyes.
        """
        scores = self.predict_pieces(Held(rows), tiles, Manner(missing_images, work, fallback), folds)
        return pd.Series(scores, index=pd.Index(rows[ID], name=ID), name=TARGET)

    def predict_pieces(
        self, pieces: Pieces, tiles: TileStore | None, manner: Manner, folds: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """`predict` for lesions that need not all be in memory: scores (n,) by row."""
        chosen = self.manifest.folds if folds is None else tuple(folds)
        unknown = [fold for fold in chosen if fold not in self.manifest.folds]
        if unknown or not chosen:
            raise InputError(f"{self.folder} has folds {list(self.manifest.folds)}, not {unknown}: choose among them")
        return score_pieces(self, pieces, tiles, chosen, manner)

    @cached_property
    def stack(self) -> Stack:
        """The stacker."""
        from isic.stack import Stack

        return Stack.load(self.folder / "stack")

    @cached_property
    def features_only(self) -> Stack | None:
        """The stacker that needs no image model, None in bundles made before there was one."""
        from isic.stack import Stack

        folder = self.folder / "features_only"
        return Stack.load(folder) if folder.is_dir() else None

    def oof(self) -> pd.DataFrame:
        """The out-of-fold scores the bundle was judged by: isic_id, patient_id, target, fold, score."""
        return read_parquet(self.folder / "oof.parquet")


def load_bundle(folder: Path) -> Bundle:
    """Open a bundle folder after checking every file against its recorded hash.

    Raises InputError when the folder is no bundle, is of a newer format, or a file is missing or changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if manifest.code_hash != code_hash():
        sys.stderr.write(
            f"isic: note: {folder} was made by other scoring code (commit {manifest.git_commit[:8] or 'unknown'}); "
            "its scores may differ slightly from those it was judged by\n"
        )
    return Bundle(folder, manifest)


def build_bundle(layout: Layout, params: Params) -> Bundle:
    """Gather the models of this checkout into models/bundle and return it. The same models give the same hash.

    Raises InputError when a stage's output is missing.
    """
    with atomic_dir(layout.bundle) as folder:
        for backbone in params.image.backbones:
            for fold in params.folds:
                _copy_image_model(layout.image_model(backbone, fold), folder / "image" / backbone / f"fold{fold}")
        require(layout.stack_model, "stacker", "run `dvc repro stack`")
        shutil.copytree(layout.stack_model, folder / "stack")
        _fit_features_only(layout, params).save(folder / "features_only")
        shutil.copy(require(layout.oof, "out-of-fold scores", "run `dvc repro stack`"), folder / "oof.parquet")
        # Scores rank; this map, fitted out of fold, turns them into probabilities for who wants them.
        calibration = require(layout.root / "models" / "calibration.json", "calibration", "run `dvc repro evaluate`")
        shutil.copy(calibration, folder / "calibration.json")
        write_json(folder / FILE, _manifest(layout, params, folder))
    return Bundle(layout.bundle, read_manifest(layout.bundle))


def library_versions(members: Iterable[str]) -> dict[str, str]:
    """Versions of what scores with these members, as installed here; a local build tag such as +cpu is left out."""
    found = {}
    for package in (*LIBRARIES, *(package for member in members for package in _MEMBER_LIBRARIES.get(member, ()))):
        try:
            found[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            continue
    return found


def code_hash() -> str:
    """Hash of the code that turns rows and tiles into scores, as installed."""
    package = Path(isic.__file__).parent
    files = sorted(file for pattern in _SCORING_CODE for file in package.glob(pattern))
    return sha256_json({file.relative_to(package).as_posix(): sha256(file) for file in files})


def _image_model(folder: Path, backbone: str, fold: int) -> dict[str, Any]:
    config = read_json(folder / "image" / backbone / f"fold{fold}" / "config.json")
    return {"model": config["model"], "size": config["size"], "tta": config["tta"]}


def _copy_image_model(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in _IMAGE_FILES:
        shutil.copy(require(source / name, "image model", "run `dvc repro`"), target / name)


def _fit_features_only(layout: Layout, params: Params) -> Stack:
    """A stacker of the same parameters that reads no image evidence."""
    from isic.stack import fit_stack
    from isic.stack.inputs import read_inputs

    inputs = read_inputs(layout, params.folds, (), embeddings=False)
    return fit_stack(inputs.features, {}, inputs.folds, params.stack)


def _manifest(layout: Layout, params: Params, folder: Path) -> dict[str, Any]:
    # Not where the data lay: the data's own hash stands beside it.
    sections = {name: values for name, values in params.scoring().items() if name != "data"}
    stack = read_json(folder / "stack" / "stack.json")
    members = sorted(stack["chains"][str(params.folds[0])]["members"])
    content = {
        "format": FORMAT,
        "folds": list(params.folds),
        "backbones": list(params.image.backbones),
        "families": list(params.features.families),
        "models": {
            "image": {backbone: _image_model(folder, backbone, params.folds[0]) for backbone in params.image.backbones},
            "stack": {"members": members, "chains": len(params.folds)},
        },
        "features": list(stack["columns"]),
        "fitted": _FITTED,
        "params": sections,
        "metrics": read_json(layout.evaluate_metrics),
        "data_hash": data_hash(layout),
        "folds_hash": sha256(require(layout.folds, "folds", "run `dvc repro folds`")),
        "code_hash": code_hash(),
        "git_commit": git(layout.root, "rev-parse", "HEAD"),
        "isic_version": isic.__version__,
        "libraries": library_versions(members),
        "licence": _LICENCE,
        "load": _LOAD,
        "files": file_hashes(folder),
    }
    return {"hash": identity(content), **content}
