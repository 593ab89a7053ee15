"""The frozen surfaces: graph, parameters, stage mains, Makefile and verbs agree with each other.

A failure here means that a promise to users changed: change the promise in the documentation first, then this file.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from isic.core.params import Params

#: Modules that cannot change a result: they carry, check and record it.
PLUMBING = (
    "isic",
    "isic.core",
    "isic.core.errors",
    "isic.core.io",
    "isic.core.params",
    "isic.core.paths",
    "isic.core.tracker",
    "isic.data",
    "isic.tracking",
)

STAGES = (
    "data",
    "validate",
    "folds",
    "features",
    "train_image",
    "embed",
    "stack",
    "evaluate",
    "robustness",
    "report",
    "register",
)

VERBS = ("sample", "doctor", "preset", "compare", "promote", "rollback", "predict", "score", "submission")


@pytest.fixture(scope="module")
def stages(root: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((root / "dvc.yaml").read_text())["stages"])


def _module_of(stage: dict[str, Any]) -> str:
    found = re.match(r"python -m (pipelines\.\w+)", stage["cmd"])
    assert found, stage["cmd"]
    return found[1]


def _file_of(root: Path, module: str) -> Path | None:
    base = root / Path(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(root: Path, module: str) -> Iterator[str]:
    """Modules of this project that `module` imports, anywhere in its code."""
    path = _file_of(root, module)
    assert path is not None, module
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("isic", "pipelines") and _file_of(root, name):
                yield name


def _closure(root: Path, module: str) -> set[str]:
    """All modules reachable from `module`, not looking behind plumbing."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        if name in seen or _is_plumbing(name):
            continue
        seen.add(name)
        # Importing a.b.c runs a and a.b as well.
        parts = name.split(".")
        queue += [".".join(parts[:length]) for length in range(1, len(parts))]
        queue += list(_imports(root, name))
    return seen


def _is_plumbing(name: str) -> bool:
    return name in PLUMBING or name.startswith("isic.tracking.") or name == "pipelines"


def test_stage_names_are_the_promised_ones(stages: dict[str, Any]) -> None:
    assert set(STAGES) <= set(stages)


def test_every_stage_has_a_thin_main(root: Path, stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        path = _file_of(root, _module_of(stage))
        assert path is not None, name
        assert path.stem == name
        lines = path.read_text().splitlines()
        assert len(lines) < 50, f"{path} has {len(lines)} lines: move work into isic/"


def test_deps_cover_the_imports(root: Path, stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        deps = [Path(str(dep)) for dep in stage.get("deps", ())]
        for module in sorted(_closure(root, _module_of(stage))):
            path = _file_of(root, module)
            assert path is not None
            file = path.relative_to(root)
            covered = any(file == dep or dep in file.parents for dep in deps)
            assert covered, f"stage {name} imports {module}, but its deps do not name {file}"


def test_code_deps_are_imported(root: Path, stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        files = {
            path.relative_to(root) for module in _closure(root, _module_of(stage)) if (path := _file_of(root, module))
        }
        for dep in map(str, stage.get("deps", ())):
            if dep.startswith(("isic/", "pipelines/")):
                assert any(file == Path(dep) or Path(dep) in file.parents for file in files), (
                    f"{name}: {dep} is not imported"
                )


def test_params_of_stages_exist(stages: dict[str, Any]) -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    used = {str(key).split(".")[0] for stage in stages.values() for key in stage.get("params", ())}
    assert used <= sections
    # A section that no stage reads is read by a person's act: the gate by `make promote`.
    assert sections - used <= {"gate"}


def test_metrics_are_kept_in_git(stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        for metric in stage.get("metrics", ()):
            ((path, options),) = metric.items()
            assert options == {"cache": False}, f"{name}: {path}"


def test_every_make_target_is_helped(root: Path) -> None:
    text = (root / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (\S+)", text, re.MULTILINE)
    helped = re.findall(r"^([a-z-]+):.*## .+", text, re.MULTILINE)
    assert sorted(targets) == sorted(helped)
    promised = {
        "demo",
        "test",
        "data",
        "preset",
        "repro",
        "fold",
        "ui",
        "tune",
        "promote",
        "rollback",
        "submission",
        "bench",
        "check",
        "ci",
        "help",
    }
    assert promised <= set(targets)


def test_promised_verbs_exist() -> None:
    import typer

    from isic.cli import app

    group = typer.main.get_command(app)
    commands = set(getattr(group, "commands", {}))
    assert set(VERBS) <= commands


def test_ci_calls_make_ci(root: Path) -> None:
    script = (root / ".ci" / "run").read_text()
    assert "make ci" in script


def test_every_mlproject_entry_point_calls_a_pipeline(root: Path) -> None:
    projects = sorted((root / "mlflow_projects").glob("*/MLproject"))
    assert projects
    for project in projects:
        for entry in yaml.safe_load(project.read_text())["entry_points"].values():
            modules = re.findall(r"-m (pipelines\.\w+)", entry["command"])
            assert modules or "dvc repro" in entry["command"] or "isic.cli " in entry["command"], entry["command"]
            for module in modules:
                assert importlib.util.find_spec(module), module
