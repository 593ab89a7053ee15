"""A fresh environment with packages of Kaggle's image only: no mlflow, no dvc."""

from __future__ import annotations

import re
import venv
import zipfile
from collections.abc import Iterable, Iterator
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

#: Distributions that hold a stacker member's library, under either name.
_MEMBERS = {
    "lightgbm": ("lightgbm",),
    "catboost": ("catboost",),
    "xgboost": ("xgboost-cpu", "xgboost"),
}


def fresh_environment(folder: Path, wheel: Path, members: Iterable[str]) -> Path:
    """Make an environment with the requirements of `wheel`, linked from here, but without it;
    returns its Python.

    `members` are the stacker's. pip is included: the notebook installs the wheel with it.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    roots = [
        *_required_by(wheel),
        *(name for member in members for name in _MEMBERS.get(member, (member,))),
        "pip",
    ]
    for name in sorted(_closure(roots)):
        for entry in _entries(name):
            target = site / entry.name
            # Distributions may share a folder; a .pth file could lead to an editable install.
            if not target.exists() and entry.suffix != ".pth":
                target.symlink_to(entry)
    return folder / "bin" / "python"


def _required_by(wheel: Path) -> list[str]:
    """Names of the distributions a wheel requires, without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
    return _names(lines)


def _names(lines: Iterable[str]) -> list[str]:
    requirements = [Requirement(line) for line in lines]
    return [
        item.name
        for item in requirements
        if item.marker is None or item.marker.evaluate({"extra": ""})
    ]


def _closure(roots: Iterable[str]) -> set[str]:
    """Installed distributions that `roots` need, themselves included, by normalised name."""
    names: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in names:
            continue
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        names.add(name)
        waiting += _names(lines)
    return names


def _entries(name: str) -> Iterator[Path]:
    """Top-level files and folders of a distribution in site-packages."""
    home = distribution(name)
    tops = {file.parts[0] for file in home.files or ()} - {"..", "__pycache__"}
    for top in sorted(tops):
        entry = Path(str(home.locate_file(top)))
        if entry.exists():
            yield entry
