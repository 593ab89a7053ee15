"""The Kaggle package: a short notebook, and a dataset with the bundle and the wheels that Kaggle's
image lacks.

The notebook runs without internet on Kaggle's Python 3.12, so this package has no compiled code and
no pickle. Kaggle's image has torch, timm, lightgbm and albumentations.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isic.core.errors import InputError
from isic.core.io import atomic_dir, write_json
from isic.core.params import Gate
from isic.predict.bundle import Bundle, code_hash
from isic.predict.reproduce import reload_elsewhere
from isic.tracking.context import data_hash

COMPETITION = "isic-2024-challenge"
DATASET, _NOTEBOOK = "isic-2024-bundle", "isic-2024-submission"
#: Placeholder for the Kaggle name in ids; `push` refuses it.
NO_OWNER = "your-kaggle-name"
_KAGGLE_PYTHON = "3.12"
#: All platform tags that run on the image's glibc 2.35: pip matches tags exactly and infers no
#: older ones.
_KAGGLE_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(35, 16, -1)),
    "manylinux2014_x86_64",
)

_INTRODUCTION = """# ISIC 2024 submission

Scores the test lesions with bundle `{hash}` (out-of-fold pAUC {pauc:.4f}). Written by `isic submission build`; the
code is in the wheel of the attached dataset."""

_INSTALL = """import os
import subprocess
import sys
from pathlib import Path

INPUT = Path(os.environ.get("ISIC_KAGGLE_INPUT", "/kaggle/input"))


def attached(name):
    \"\"\"Kaggle mounts inputs at the top, below competitions/, or below datasets/OWNER/.\"\"\"
    paths = [INPUT / name, INPUT / "competitions" / name, *INPUT.glob(f"datasets/*/{{name}}")]
    folders = [path for path in paths if path.is_dir()]
    if not folders:
        raise SystemExit(f"{{name}} is not attached to this notebook: add it under Input (looked in {{INPUT}})")
    return folders[0]


DATASET, COMPETITION = attached("{dataset}"), attached("{competition}")
wheels = [str(wheel) for wheel in sorted((DATASET / "wheels").glob("*.whl"))]
subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *wheels])"""

_SCORE = """from isic.predict.bundle import load_bundle
from isic.submit.submission import submit

bundle = load_bundle(DATASET / "bundle")
if bundle.manifest.hash != "{hash}":
    raise SystemExit(
        f"the attached dataset holds bundle {{bundle.manifest.hash[:12]}}, this notebook is for {short}: "
        "choose the dataset's latest version under Input, or push again"
    )
# A lesion without a usable image is imputed; if an image model fails, features alone score. Both print a note.
scores = submit(bundle, COMPETITION, Path("submission.csv"), missing_images="impute", fallback=True)
scores["target"].describe()"""


@dataclass(frozen=True)
class Package:
    """Folder with `dataset` and `notebook`, each with the metadata file of the kaggle client."""

    folder: Path

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def notebook(self) -> Path:
        return self.folder / "notebook"


def build_package(
    bundle: Bundle,
    root: Path,
    package: Package,
    user: str | None = None,
    image: str | None = None,
    wheels: Sequence[str] = (),
) -> None:
    """Write `package` for `bundle`, with a wheel of the checkout at `root`.

    `user` is the Kaggle name (default: KAGGLE_USERNAME), `image` a Docker image to pin (default:
    the one current when the notebook is pushed first), `wheels` further packages as pip
    requirements, downloaded for Kaggle's Python. Call `check_code` first. Raises InputError when
    `user` is not a valid name, or a wheel cannot be built or downloaded.
    """
    owner = user or os.environ.get("KAGGLE_USERNAME") or NO_OWNER
    if not re.fullmatch(r"[A-Za-z0-9_-]+", owner):
        raise InputError(f"{owner!r} is no Kaggle name: letters, digits, - and _ only")
    with atomic_dir(package.folder) as temporary:
        made = Package(temporary)
        shutil.copytree(bundle.folder, made.dataset / "bundle")
        _build_wheel(root, made.dataset / "wheels")
        fetch_wheels(wheels, made.dataset / "wheels")
        made.notebook.mkdir()
        cells = (
            (
                "markdown",
                _INTRODUCTION.format(
                    hash=bundle.manifest.hash[:12], pauc=bundle.manifest.metrics["pauc"]
                ),
            ),
            ("code", _INSTALL.format(dataset=DATASET, competition=COMPETITION)),
            ("code", _SCORE.format(hash=bundle.manifest.hash, short=bundle.manifest.hash[:12])),
        )
        write_json(made.notebook / f"{_NOTEBOOK}.ipynb", notebook(cells))
        write_json(made.notebook / "kernel-metadata.json", _kernel_metadata(owner, image))
        write_json(made.dataset / "dataset-metadata.json", _dataset_metadata(owner))


def check_code(bundle: Bundle, metadata: Path, images: Path, settings: Gate) -> None:
    """Raise InputError unless this checkout's code, which the wheel holds, reproduces the bundle's
    stored scores.

    Checked only when the code has changed since the bundle was made and the training files are the
    bundle's.
    """
    if (
        bundle.manifest.code_hash == code_hash()
        or data_hash(metadata, images) != bundle.manifest.data_hash
    ):
        return

    done = reload_elsewhere(bundle.folder, metadata, images, settings.reload_rows)
    if not done.reproduces(settings.reload_tolerance):
        commit = bundle.manifest.git_commit[:12] or "an unknown commit"
        raise InputError(
            f"this checkout's code scores {done.rows} training lesions up to {done.largest:.1e}"
            f" away from the model's stored scores: build at {commit}, or promote a model made by"
            " this code"
        )


def notebook(cells: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A notebook of nbformat 4.5 from (kind, text) cells, kind `markdown` or `code`."""
    content: list[dict[str, Any]] = []
    for number, (kind, text) in enumerate(cells):
        cell = {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        content.append(cell | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": content, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _kernel_metadata(owner: str, image: str | None) -> dict[str, Any]:
    """kernel-metadata.json: private, GPU on, internet off, the image pinned."""
    return {
        "id": f"{owner}/{_NOTEBOOK}",
        "title": _NOTEBOOK,
        "code_file": f"{_NOTEBOOK}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
        # `original` keeps the image current when the notebook was created; a named image is exact.
        "docker_image_pinning_type": "original",
        **({"docker_image": image} if image else {}),
        "dataset_sources": [f"{owner}/{DATASET}"],
        "competition_sources": [COMPETITION],
        "kernel_sources": [],
        "model_sources": [],
    }


def _dataset_metadata(owner: str) -> dict[str, Any]:
    """dataset-metadata.json; the licence of the weights is in the bundle."""
    return {"title": DATASET, "id": f"{owner}/{DATASET}", "licenses": [{"name": "other"}]}


def _build_wheel(root: Path, target: Path) -> Path:
    """Build the pure-Python wheel of this package, without network, from a copy so that the
    checkout stays clean.
    """
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        shutil.copytree(
            root / "isic", source / "isic", ignore=shutil.ignore_patterns("__pycache__")
        )
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            if (root / file).exists():
                shutil.copy(root / file, source / file)
        (source / "README.md").touch()
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    return next(target.glob("isic-*-py3-none-any.whl"))


def fetch_wheels(requirements: Sequence[str], target: Path) -> None:
    """Download wheels of other packages for Kaggle's Python, without their dependencies."""
    if requirements:
        platforms = [option for name in _KAGGLE_PLATFORMS for option in ("--platform", name)]
        version = ["--only-binary=:all:", "--python-version", _KAGGLE_PYTHON, *platforms]
        _pip("download", "--no-deps", *version, "--dest", str(target), *requirements)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"pip {arguments[0]} failed: {reason}")


def read_notebook_code(package: Package) -> str:
    """The notebook's code cells as one script."""
    content = json.loads((package.notebook / f"{_NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
    return (
        "\n\n".join(
            "".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"
        )
        + "\n"
    )
