"""The frozen surfaces: graph, parameters, stage mains, Makefile and verbs agree with each other.

A failure here means that a documented interface changed: change the documentation first, then this
file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from isic.core.code import NOT_DEPENDENCIES, STAGE_CODE
from isic.core.params import Params, load_params
from isic.report.summary import BASELINE
from pipelines.session import stages_of

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

VERBS = (
    "sample",
    "doctor",
    "preset",
    "compare",
    "promote",
    "rollback",
    "predict",
    "score",
    "submission",
)


@pytest.fixture
def readme(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that writes the README's measured parts."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("readme")


@pytest.fixture(scope="module")
def stages(root: Path) -> dict[str, Any]:
    entries = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    # A stage for each item of a parameter is described below `do`.
    return {name: entry.get("do", entry) for name, entry in entries.items()}


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
    """All modules reachable from `module`, without those behind plumbing."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        if name in seen or _is_plumbing(root, name):
            continue
        seen.add(name)
        # Importing a.b.c runs a and a.b as well.
        parts = name.split(".")
        queue += [".".join(parts[:length]) for length in range(1, len(parts))]
        queue += list(_imports(root, name))
    return seen


def _is_plumbing(root: Path, name: str) -> bool:
    path = _file_of(root, name)
    assert path is not None, name
    file = path.relative_to(root)
    if file.name == "__init__.py" and all(
        isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body
    ):
        return True
    return any(file == Path(listed) or Path(listed) in file.parents for listed in NOT_DEPENDENCIES)


def test_stage_names_are_the_promised_ones(stages: dict[str, Any]) -> None:
    assert set(STAGES) <= set(stages)


def test_every_stage_has_a_thin_main(root: Path, stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        path = _file_of(root, _module_of(stage))
        assert path is not None, name
        assert path.stem == name
        lines = path.read_text().splitlines()
        assert len(lines) < 50, f"{path} has {len(lines)} lines: move work into isic/"


def test_deps_are_the_list_that_hashes_use(stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        code = {dep for dep in map(str, stage["deps"]) if dep.startswith("isic/")}
        assert code == set(STAGE_CODE[name]), name


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
            path.relative_to(root)
            for module in _closure(root, _module_of(stage))
            if (path := _file_of(root, module))
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
    # A section that no stage reads is read by a command: the gate by `make promote`.
    assert sections - used <= {"gate"}


@pytest.mark.parametrize(
    ("key", "readers"),
    [
        ("image.tta", {"embed", "robustness", "report", "register"}),
        ("image.validate_negatives", set()),
    ],
)
def test_keys_that_decide_no_weight_retrain_nothing(
    stages: dict[str, Any], key: str, readers: set[str]
) -> None:
    assert {
        name
        for name, stage in stages.items()
        if any(key == read or key.startswith(f"{read}.") for read in stage.get("params", ()))
    } == readers


def test_metrics_are_kept_in_git(stages: dict[str, Any]) -> None:
    kept = set()
    for name, stage in stages.items():
        for entry in (*stage.get("metrics", ()), *stage.get("outs", ())):
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            if path.startswith("metrics/"):
                assert options == {"cache": False}, f"{name}: {path}"
                kept.add(path)
    names = ("archive/${key}", "evaluate", "headline", "register", "robustness", "validate")
    assert kept == {f"metrics/{name}.json" for name in names}


def test_metrics_diff_shows_the_headline_alone(stages: dict[str, Any]) -> None:
    shown = {
        path: name
        for name, stage in stages.items()
        for metric in stage.get("metrics", ())
        for path in metric
    }
    assert shown == {"metrics/headline.json": "evaluate"}


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
            assert modules or "dvc repro" in entry["command"] or "isic.cli " in entry["command"], (
                entry["command"]
            )
            for module in modules:
                assert importlib.util.find_spec(module), module


def make(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A target of the Makefile, with the environment that runs the tests in place of the checkout's
    own.
    """
    command = [
        "make",
        "--silent",
        "-o",
        ".venv/.ready",
        f"BIN={Path(sys.executable).parent}",
        *words,
    ]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fold"], "B is missing: add B=NAME; in params.yaml image.backbones has vit, convnext"),
        (["fold", "B=vit"], "F is missing: add F=NUMBER; in params.yaml folds has 0, 1, 2"),
        (["fold", "B=vit", "F=7"], "no fold `7` in params.yaml: folds has 0, 1, 2"),
        (
            ["fold", "B=vti", "F=0"],
            "no backbone `vti` in params.yaml: image.backbones has vit, convnext",
        ),
        (["backbone"], "B is missing"),
        (["backbone", "B=vti"], "no backbone `vti`"),
        (["backbone", "B=v*"], "no backbone `v*`"),
    ],
)
def test_a_session_for_what_params_do_not_name_is_one_line(
    root: Path, words: list[str], said: str
) -> None:
    done = make(root, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    line, ending = done.stderr.splitlines()
    assert line.startswith(f"isic: error: {said}")
    assert ending.startswith("make")


def test_a_session_is_the_stages_of_its_folds(root: Path, stages: dict[str, Any]) -> None:
    params = load_params(root / "params.yaml")
    assert stages_of(params.image, params.folds, "vit", "1") == ["train_image@vit-1", "embed@vit-1"]
    assert stages_of(params.image, params.folds, "vit", None) == [
        f"{stage}@vit-{fold}" for fold in params.folds for stage in ("train_image", "embed")
    ]
    for stage in ("train_image", "embed"):
        assert stages[stage]["matrix"] == {"backbone": "${image.backbones}", "fold": "${folds}"}


def test_a_baseline_holds_all_that_stages_write_and_git_keeps(
    root: Path, stages: dict[str, Any]
) -> None:
    """The files that README and `isic summary` name for the commit with which `dvc metrics diff`
    compares.
    """
    assert BASELINE.startswith("git add . && ")
    written = [
        path
        for stage in stages.values()
        for entry in (*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ()))
        if isinstance(entry, dict)
        for path, options in entry.items()
        if options.get("cache") is False
    ]
    assert "metrics/headline.json" in written
    made = ("dvc.lock", "registry/promotions.jsonl", "submission/submission.csv")
    done = subprocess.run(
        ["git", "check-ignore", *written, *made], cwd=root, capture_output=True, text=True
    )
    assert done.stdout == "", "git ignores a result that it should hold"
    assert BASELINE in (root / "README.md").read_text()


def test_the_tables_of_speed_and_claims_are_made_of_the_kept_results(
    root: Path, readme: Any
) -> None:
    page = (root / "docs" / "speed.md").read_text()
    assert readme.fill(page, "speed", readme.speed_table(root)) == page, "make docs"
    page = (root / "docs" / "claims.md").read_text()
    assert readme.fill(page, "claims", readme.claims_table(root)) == page, "make docs"
    for path in (root / "benchmarks" / "results").glob("*.json"):
        kept = json.loads(path.read_text())
        judged = {name for name, met in kept["met"].items() if met is not None}
        assert judged <= set(kept["measured"]), f"{path.name}: a target is judged without a number"


def test_a_ratio_measured_both_ways_is_held_against_its_target_both_ways(
    readme: Any, tmp_path: Path
) -> None:
    kept = {
        "name": "predict",
        "measured": {"end_to_end_to_parts": 0.9, "end_to_end_to_parts_processor": 0.8},
        "targets": {"end_to_end_to_parts": ">= 0.85"},
        "met": {"end_to_end_to_parts": True},
        "machine": {"cores": 2},
    }
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "predict.json").write_text(json.dumps(kept))
    assert readme.speed_table(tmp_path).splitlines()[2:] == [
        "| `predict` end_to_end_to_parts | 0.9 | >= 0.85 | yes | clock | 2 cores |",
        "| `predict` end_to_end_to_parts_processor | 0.8 | >= 0.85 | no | processor | 2 cores |",
    ]


def test_features_ahead_of_the_stack_are_put_into_words(readme: Any) -> None:
    alone = {"step": "features alone", "pauc": 0.135, "low": 0.108}
    (said,) = readme.features_ahead([alone], {"pauc": 0.132, "pauc_high": 0.161, "positives": 60})
    assert "the intervals overlap" in said
    assert "60 malignant" in said
    assert readme.features_ahead([alone], {"pauc": 0.14, "pauc_high": 0.161, "positives": 60}) == []
    assert readme.features_ahead([], {"pauc": 0.14, "pauc_high": 0.161, "positives": 60}) == []


def test_help_writes_nothing(root: Path) -> None:
    page = root / "README.md"
    before = page.stat().st_mtime_ns
    done = subprocess.run(
        [sys.executable, "benchmarks/readme.py", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--check" in done.stdout
    assert page.stat().st_mtime_ns == before


def test_clean_leaves_the_folders_that_git_keeps(root: Path, tmp_path: Path) -> None:
    kept = ("data/archive/.gitkeep", "data/embeddings/.gitkeep", "models/image/.gitkeep")
    made = (
        "data/archive/isic2020/diagnoses.parquet",
        "data/embeddings/vit/fold0.npy",
        "models/image/vit/fold0/config.json",
        "models/stack/stack.json",
    )
    for name in (*kept, *made, "submission/kaggle/notebook.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(
        ["make", "-f", str(root / "Makefile"), "clean"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "submission/kaggle/notebook.ipynb"}


def test_hooks_and_workflow_run_what_make_runs(root: Path) -> None:
    (target,) = re.findall(
        r"^check: .*\n((?:\t.*\n)+)", (root / "Makefile").read_text(), re.MULTILINE
    )
    commands = [line.strip().removeprefix("@") for line in target.splitlines()]
    (repo,) = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in repo["hooks"]] == commands

    workflow = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["ci"]
    assert workflow["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert "make ci" in [step.get("run") for step in workflow["steps"]]


def test_folders_of_the_contributing_table_exist(root: Path) -> None:
    rows = re.findall(
        r"^\|.*\| `(isic/[\w/]+)`", (root / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 10
    for folder in rows:
        assert (root / folder).exists() or (root / f"{folder}.py").is_file(), folder
