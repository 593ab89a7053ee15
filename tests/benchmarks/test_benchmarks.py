"""Every benchmark starts by the command of the README and reports part by part."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from isic.stack.embeddings import Mode
from isic.tabular.fitted import fitted_families
from isic.tabular.registry import feature_families

SCRIPTS = (
    "any_patient",
    "archive",
    "capacity",
    "demo",
    "features",
    "forms",
    "gate",
    "gpu_wheels",
    "image",
    "predict",
    "pictures",
    "pretrain",
    "readme",
    "real_tiles",
    "end_to_end",
    "report",
    "sample",
    "sample_blind",
    "scale",
    "stack",
    "stack_modes",
)
#: Imported by the scripts.
MODULES = {
    "claims",
    "features_ladder",
    "features_measure",
    "features_pandas",
    "features_worlds",
    "harness",
    "stack_populations",
    "stack_recipes",
    "wheel_weights",
}
#: The quickest part of each benchmark that needs no real data and no finished pipeline.
QUICKEST = {
    "any_patient": [],
    "features": ["--only", "values"],
    "image": ["--only", "loader"],
    "gate": ["--only", "simulated"],
    "predict": ["--only", "gate"],
    "report": [],
    "sample": ["--only", "table"],
    "stack": ["--only", "interval"],
    "stack_modes": [],
}
TARGETS = {"one": "< 1", "two": "< 1"}


@pytest.fixture
def harness(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    module = importlib.import_module("harness")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def start(root: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`python benchmarks/NAME.py WORDS`, one thread a library."""
    command = [sys.executable, f"benchmarks/{name}.py", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    return {name: measured[name] < 1 if name in measured else None for name in TARGETS}


def fails() -> dict[str, Any]:
    raise ValueError("a part fails")


def test_every_file_is_started_or_imported(root: Path) -> None:
    files = {path.stem for path in (root / "benchmarks").glob("*.py")}
    assert files == {*SCRIPTS, *MODULES}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_help(root: Path, name: str) -> None:
    done = start(root, name, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUICKEST))
def test_the_quickest_part_is_measured(root: Path, name: str) -> None:
    done = start(root, name, "--quick", *QUICKEST[name])
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["name"] == name
    assert line["measured"]
    assert set(line["met"].values()) == {None}


def test_pretraining_shares_no_seed(root: Path) -> None:
    """Networks that start from generated tiles are evaluated on other generated tiles."""
    (seed,) = re.findall(
        r"^SEED = ([\d_]+)$", (root / "benchmarks" / "pretrain.py").read_text(), re.MULTILINE
    )
    # Not the packages that `make setup` installs in the checkout.
    own = [root / ".github", *(path for path in root.iterdir() if path.name[0] != ".")]
    files = [path for end in ("py", "yaml") for top in own for path in top.rglob(f"*.{end}")]
    files += [path for path in own if path.suffix in (".py", ".yaml")]
    holders = {
        path.name
        for path in files
        if {seed, seed.replace("_", "")} & set(re.findall(r"\d[\d_]*", path.read_text()))
    }
    assert holders == {"pretrain.py"}


def test_a_part_that_fails_leaves_the_others(harness: Any, tmp_path: Path) -> None:
    parts = {"first": lambda: {"one": 0}, "second": fails, "third": lambda: {"two": 2}}
    assert harness.run_parts("toy", parts, TARGETS, judge, quick=False) == 1
    kept = json.loads((tmp_path / "toy.json").read_text())
    assert kept["measured"] == {"one": 0, "two": 2}
    assert kept["met"] == {"one": True, "two": False}
    assert set(kept["parts"]) == {"first", "third"}
    for stamp in kept["parts"].values():
        assert stamp["machine"]["processor"]
        assert stamp["processor_seconds"] >= 0


def test_not_measured_is_neither_met_nor_missed(
    harness: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> dict[str, Any]:
        raise harness.NotMeasured("no real data")

    parts = {"first": lambda: {"one": 2}, "second": absent}
    assert harness.run_parts("toy", parts, TARGETS, judge, quick=False) == 0
    assert json.loads((tmp_path / "toy.json").read_text())["met"] == {"one": False, "two": None}
    assert "toy second: not measured: no real data" in capsys.readouterr().err


def test_a_quick_run_judges_no_target(harness: Any, tmp_path: Path) -> None:
    met = {"one": True, "two": False}
    for part in ("first", "second"):
        harness.report("toy", {"one": 0}, TARGETS, met, quick=True, only=part)
    kept = json.loads((tmp_path / "quick" / "toy.json").read_text())
    assert kept["met"] == {"one": None, "two": None}


def test_the_machine_names_its_gpu_before_torch_is_imported(root: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "class cuda:\n"
        "    is_available = staticmethod(lambda: True)\n"
        "    get_device_name = staticmethod(lambda: 'NVIDIA H100')\n"
    )
    driver = tmp_path / "nvidia-smi"
    driver.touch(mode=0o755)
    script = "import harness, sys; print(harness.machine()['gpu'], 'torch' in sys.modules)"
    folders = (tmp_path, root / "benchmarks", root)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(map(str, folders)),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "NVIDIA H100 False"


def test_machines_share_no_file(
    harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(value: int, part: str, **machine: str) -> None:
        monkeypatch.setattr(harness, "machine", lambda: {"processor": "A 1", "cores": 2, **machine})
        harness.run_parts(
            "toy", {part: lambda: {"one": value}}, TARGETS, judge, quick=False, only=part
        )

    measure(1, "first")
    measure(2, "first", processor="B 2")
    measure(3, "first", gpu="NVIDIA H100 80GB")
    measure(4, "second")
    files = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(files) == {"toy.json", "toy_b_2.json", "toy_h100.json"}
    assert files["toy.json"]["measured"] == {"one": 4}
    assert set(files["toy.json"]["parts"]) == {"first", "second"}
    assert files["toy_b_2.json"]["measured"] == {"one": 2}
    assert files["toy_h100.json"]["parts"]["first"]["machine"]["gpu"] == "NVIDIA H100 80GB"


def test_kept_results_name_only_existing_families_and_modes(root: Path) -> None:
    results = root / "benchmarks" / "results"
    measured = json.loads((results / "features.json").read_text())["measured"]
    known = {*feature_families(), *(f"fitted {name}" for name in fitted_families())}
    assert {row["family"] for row in measured["families"]["families"]} <= known
    assert set(measured["default_families"]) <= known

    modes = json.loads((results / "stack_modes.json").read_text())["measured"]
    gains = []
    for name in ("real", "planted"):
        assert set(modes[name]["modes"]) == {"none", *get_args(Mode)}
        gains += [mode["gain"] for mode in modes[name]["modes"].values() if name != "planted"]
    assert modes["default_not_beaten"] == max(gain[1] for gain in gains if gain)
