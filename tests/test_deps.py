"""Stages, resume keys and code hashes depend on the code that decides their results, and on nothing
else.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

import isic
from isic.core.code import NOT_DEPENDENCIES, SCORING_CODE, STAGE_CODE
from isic.core.params import read_yaml
from isic.image.training.checkpoint import resume_key
from isic.predict.bundle import code_hash
from tests.pipeline import call, loaded_modules

#: Stages that only evaluate and report: an edit of a module in NOT_DEPENDENCIES may rerun these.
_JUDGES = {"robustness", "report", "register"}

#: Edits files one after the other and asks `dvc status` of each, all in one process: starting DVC
#: takes seconds.
_STATUS = """
import json, sys
from pathlib import Path
from dvc.cli import main

for paths in json.loads(sys.argv[1]):
    before = {path: path.read_bytes() for path in map(Path, paths)}
    for path, content in before.items():
        path.write_bytes(content + b"\\n# a comment\\n")
    assert main(["status", "--json"]) == 0
    for path, content in before.items():
        path.write_bytes(content)
"""


def _covered(file: str, paths: Iterable[str]) -> bool:
    return any(Path(file) == Path(path) or Path(path) in Path(file).parents for path in paths)


def _file(root: Path, module: str) -> str:
    base = root / Path(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return path.relative_to(root).as_posix()


def _only_docstring(path: Path) -> bool:
    return path.name == "__init__.py" and all(
        isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body
    )


def _files(root: Path, paths: Iterable[str]) -> list[str]:
    """Python files of these folders and files that hold code."""
    found = [
        file
        for path in paths
        for file in (root.joinpath(path).rglob("*.py") if (root / path).is_dir() else [root / path])
    ]
    return sorted(
        {file.relative_to(root).as_posix() for file in found if not _only_docstring(file)}
    )


def _example(root: Path, path: str) -> str:
    """A file of this folder, or the file itself."""
    return _files(root, [path])[-1]


@pytest.mark.slow
def test_every_loaded_module_is_a_dep(root: Path, done: Path) -> None:
    loaded = loaded_modules(done)
    # No source of pictures is named there.
    assert set(loaded) == set(STAGE_CODE) - {"archive"}
    for stage, modules in loaded.items():
        files = {_file(root, module) for module in modules if module.startswith("isic")}
        decided = (*STAGE_CODE[stage], *NOT_DEPENDENCIES)
        missing = [
            file
            for file in files
            if not _covered(file, decided) and not _only_docstring(root / file)
        ]
        assert missing == [], (
            f"stage {stage} loads them: name them in STAGE_CODE and dvc.yaml, or in"
            " NOT_DEPENDENCIES"
        )


@pytest.mark.slow
def test_no_entry_of_the_list_is_idle(root: Path, done: Path) -> None:
    files = {_file(root, module) for modules in loaded_modules(done).values() for module in modules}
    assert [
        entry for entry in NOT_DEPENDENCIES if not any(_covered(file, [entry]) for file in files)
    ] == []


@pytest.mark.slow
def test_an_edit_makes_exactly_the_named_stages_stale(
    root: Path, done: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done, folder, symlinks=True)
    examples = [
        _example(root, path)
        for path in sorted({path for paths in STAGE_CODE.values() for path in paths})
    ]
    shown = [
        "isic/image/console.py",
        "isic/registry/actions.py",
        "isic/report/assets/page.css",
        "isic/report/shap_text.py",
        "isic/scale/local.py",
        "isic/tuning/search.py",
    ]
    listed = _files(root, NOT_DEPENDENCIES)
    # One edit of all files that no stage names proves the same for each of them.
    unnamed = [
        file
        for file in _files(root, ["isic"])
        if not any(_covered(file, p) for p in STAGE_CODE.values())
    ]
    edits = [[file] for file in (*examples, *shown, *listed)] + [unnamed]

    lines = call(folder, "python", "-c", _STATUS, json.dumps(edits)).stdout.splitlines()
    stale = [json.loads(line) for line in lines if line]
    found = {
        tuple(files): {stage.split("@")[0] for stage in stages}
        for files, stages in zip(edits, stale, strict=True)
    }

    for (file,) in edits[:-1]:
        assert found[file,] == {
            stage
            for stage, paths in STAGE_CODE.items()
            if _covered(file, paths) and stage != "archive"
        }, file
    assert found[tuple(unnamed)] == set()
    for file in listed:
        assert found[file,] <= _JUDGES, file
    for file in shown:
        assert found[file,] <= {"report", "register"}, file


@pytest.mark.slow
def test_the_sample_of_the_logged_scores_makes_no_stage_stale(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done, folder, symlinks=True)
    before = json.loads(call(folder, "dvc", "status", "--json").stdout)

    values = read_yaml(folder / "params.yaml")
    values["image"]["validate_negatives"] += 1
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    assert json.loads(call(folder, "dvc", "status", "--json").stdout) == before == {}

    values["image"]["train"]["lr"] *= 2
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    stale = json.loads(call(folder, "dvc", "status", "--json").stdout)
    assert {stage.split("@")[0] for stage in stale} >= {"train_image"}


@pytest.fixture
def package(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which `hash_code` reads in place of the installed one."""
    shutil.copytree(root / "isic", tmp_path / "isic", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(isic, "__file__", str(tmp_path / "isic" / "__init__.py"))
    return tmp_path


def _resume_key(package: Path) -> str:
    tiles = package / "tiles.hdf5"
    tiles.touch()
    return resume_key({"model": "demo_vit", "weights": "none"}, rows=[], tiles=tiles, processes=1)


@pytest.mark.parametrize(
    ("key", "paths"),
    [(_resume_key, STAGE_CODE["train_image"]), (lambda package: code_hash(), SCORING_CODE)],
    ids=["resume key", "code hash of a bundle"],
)
def test_a_key_changes_for_exactly_its_code(
    package: Path, key: Callable[[Path], str], paths: tuple[str, ...]
) -> None:
    before = key(package)
    everything = _files(package, ["isic"])
    for file in everything:
        if _covered(file, paths):
            continue
        (package / file).write_text((package / file).read_text() + "\n# a comment\n")
    assert key(package) == before
    for path in paths:
        file = package / _example(package, path)
        text = file.read_text()
        file.write_text(text + "\n# a comment\n")
        assert key(package) != before, path
        file.write_text(text)
    assert key(package) == before


@pytest.mark.slow
def test_scoring_loads_only_hashed_code(root: Path, done: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from isic.data.tables import read_metadata; from"
        " isic.data.tiles import TileStore; from isic.predict.bundle import load_bundle; rows ="
        " read_metadata(Path('data/raw/test-metadata.csv'), train=False);"
        " load_bundle(Path('models/bundle')).predict(rows,"
        " TileStore(Path('data/raw/test-image.hdf5'))); print(*(name for name in sys.modules if"
        " name.split('.')[0] == 'isic'))"
    )
    modules = call(done, "python", "-c", script).stdout.split()
    files = {_file(root, module) for module in modules}
    decided = (*SCORING_CODE, *NOT_DEPENDENCIES)
    assert [
        file for file in files if not _covered(file, decided) and not _only_docstring(root / file)
    ] == []
