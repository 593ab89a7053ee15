"""The package for Kaggle: its contents, an offline run on edge cases, and the error without a
token.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import read_json, write_json
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.core.presets import apply_preset
from isic.data.tiles import TileStore
from isic.image.network import device
from isic.image.network.catalogue import resolve
from isic.image.scoring_time import ScoredNetwork
from isic.predict.bundle import load_bundle
from isic.predict.manifest import identity
from isic.predict.reproduce import Reload
from isic.submit import dryrun, kaggle
from isic.submit import push as push_module
from isic.submit.dryrun import (
    DryRun,
    NotebookRun,
    dry_run,
    estimate,
    plain_seconds,
    scored_networks,
)
from isic.submit.environment import fresh_environment
from isic.submit.hidden_test_set import UNSEEN, add_edge_cases, write_hidden_test_set
from isic.submit.kaggle import Package, build_package, read_notebook_code
from isic.submit.push import push
from pipelines.register import bundle_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(made: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, made once: building a wheel takes seconds. Read only."""
    layout = Layout(tmp_path_factory.mktemp("package") / "checkout")
    shutil.copytree(made, layout.root)
    bundle = bundle_of(layout, load_params(layout.params))
    (layout.root / "isic").symlink_to(root / "isic", target_is_directory=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (layout.root / name).symlink_to(root / name)
    package = Package(layout.kaggle)
    build_package(bundle, layout.root, package, user="someone")
    return package.folder


@pytest.fixture
def package(layout: Layout, built: Path) -> Package:
    target = Package(layout.kaggle)
    shutil.copytree(built, target.folder)
    return target


def rehearse(layout: Layout, rows: int) -> DryRun:
    out = layout.submission.with_name("kaggle-dry-run.json")
    return dry_run(Package(layout.kaggle), layout.raw, out, rows)


def test_the_package_is_what_kaggle_takes(package: Package) -> None:
    notebook = nbformat.read(package.notebook / "isic-2024-submission.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            compile(cell.source, "cell", "exec")
    kernel = json.loads((package.notebook / "kernel-metadata.json").read_text())
    assert (kernel["enable_internet"], kernel["enable_gpu"], kernel["is_private"]) == (
        False,
        True,
        True,
    )
    assert kernel["competition_sources"] == ["isic-2024-challenge"]
    dataset = json.loads((package.dataset / "dataset-metadata.json").read_text())
    assert kernel["dataset_sources"] == [dataset["id"]] == ["someone/isic-2024-bundle"]
    assert load_bundle(package.dataset / "bundle").manifest.backbones
    (wheel,) = (package.dataset / "wheels").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl"), (
        "no compiled code of ours: Kaggle has another Python"
    )
    names = zipfile.ZipFile(wheel).namelist()
    assert "isic/submit/submission.py" in names
    assert not any(name.endswith((".so", ".pkl", ".pickle")) for name in names)


@pytest.mark.parametrize("largest", [1e-7, 0.2])
def test_code_that_scores_otherwise_is_not_packed(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch, largest: float
) -> None:
    bundle = bundle_of(layout, params)
    training = (layout.train_metadata, layout.train_images)
    asked: list[int] = []

    def reload(_: Path, __: Path, ___: Path, rows: int) -> Reload:
        asked.append(rows)
        return Reload(rows, largest, 0.001)

    monkeypatch.setattr(kaggle, "reload_elsewhere", reload)
    kaggle.check_code(bundle, *training, params.gate)
    assert asked == [], "the same code needs no check"
    monkeypatch.setattr(kaggle, "code_hash", lambda: "changed since")
    if largest < params.gate.reload_tolerance:
        kaggle.check_code(bundle, *training, params.gate)
    else:
        with pytest.raises(InputError, match=r"64 training lesions up to 2.0e-01 away"):
            kaggle.check_code(bundle, *training, params.gate)
    assert asked == [64]


def test_a_further_wheel_is_one_that_kaggles_python_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for tag in (
        "cp312-cp312-manylinux2014_x86_64",
        "cp313-cp313-manylinux2014_x86_64",
        "cp312-cp312-win_amd64",
    ):
        with zipfile.ZipFile(shelf / f"thing-1.0-{tag}.whl", "w") as wheel:
            wheel.writestr(
                "thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
            )
            wheel.writestr("thing-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
            wheel.writestr("thing-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    kaggle.fetch_wheels(["thing==1.0"], tmp_path / "wheels")
    assert [file.name for file in (tmp_path / "wheels").iterdir()] == [
        "thing-1.0-cp312-cp312-manylinux2014_x86_64.whl"
    ]
    with pytest.raises(InputError, match="pip download failed"):
        kaggle.fetch_wheels(["other==1.0"], tmp_path / "wheels")


def test_without_a_token_it_says_what_to_set(
    layout: Layout, package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert package.notebook.exists()
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="set KAGGLE_API_TOKEN"):
        push(Package(layout.kaggle), "a try")


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a `kaggle` on the PATH that runs this shell script; returns the file with its calls."""
    client, calls = folder / "bin" / "kaggle", folder / "calls"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret-token")
    return calls


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("known", [True, False])
def test_the_client_gets_folders_and_versions_and_never_the_token(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: bool
) -> None:
    script = """
[ "$2" != status ] && echo done && exit
[ -e %s/uploaded ] && echo ready && exit
touch %s/uploaded; exit %d
"""
    calls = stand_in(tmp_path, monkeypatch, script % (tmp_path, tmp_path, not known))
    assert push(Package(layout.kaggle), "a try") == ["done", "done"]
    push(Package(layout.kaggle), "a try", submit_version=3)
    status, upload, again, kernel, submit = calls.read_text().splitlines()
    assert status == again == "datasets status someone/isic-2024-bundle"
    assert upload.startswith("datasets version -m a try -p" if known else "datasets create -p")
    assert kernel == f"kernels push -p {layout.kaggle / 'notebook'}"
    assert submit.startswith(
        "competitions submit isic-2024-challenge -k someone/isic-2024-submission -v 3 -f"
    )
    assert "secret-token" not in calls.read_text()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("status", [0, 1])
def test_a_client_that_repeats_the_token_is_not_quoted(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    script = f"""
[ {status} = 0 ] && [ "$2" = status ] && echo ready && exit
echo "401 for $KAGGLE_API_TOKEN and $KAGGLE_KEY" >&2
exit {status}
"""
    stand_in(tmp_path, monkeypatch, script)
    monkeypatch.setenv("KAGGLE_KEY", "secret-key")
    if status:
        with pytest.raises(
            InputError, match=r"kaggle datasets create failed: 401 for \*\*\* and \*\*\*"
        ):
            push(Package(layout.kaggle), "a try")
    else:
        assert push(Package(layout.kaggle), "a try") == ["401 for *** and ***"] * 2


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("datasets version", "Dataset version creation error: no more room"),
        ("datasets version", "Upload unsuccessful: bundle.zip"),
        ("kernels push", "Kernel push error: Maximum weekly GPU quota of 30.00 hours reached."),
        (
            "kernels push",
            (
                "The following are not valid dataset sources and could not be added to the kernel:"
                " someone/isic"
            ),
        ),
        ("competitions submit", "Could not submit to competition"),
        (
            "competitions submit",
            "Could not find competition - please verify that you entered the correct ID",
        ),
    ],
)
def test_a_client_that_fails_with_status_0_has_failed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str, line: str
) -> None:
    script = f"""
[ "$2" = status ] && echo ready && exit
[ "$1 $2" = "{verb}" ] && echo "{line} ($KAGGLE_API_TOKEN)"
echo "100%|##########| 1.00k/1.00k" >&2
echo "Kernel version 3 successfully pushed."
"""
    calls = stand_in(tmp_path, monkeypatch, script)
    with pytest.raises(InputError) as refused:
        push(
            Package(layout.kaggle),
            "a try",
            submit_version=3 if verb.startswith("competitions") else None,
        )
    assert str(refused.value) == f"kaggle {verb} failed: {line} (***)"
    assert calls.read_text().splitlines()[-1].startswith(verb), "nothing is sent after that"


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("states", "message"),
    [
        ("not_yet_persisted blobs_received blobs_received", None),
        ("blobs_received failed", r"Kaggle could not unpack someone/isic-2024-bundle \(failed\)"),
        ("blobs_received", r"not ready after 0 minutes \(blobs_received\): run this command again"),
    ],
)
def test_the_notebook_is_pushed_when_its_dataset_is_ready(
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    states: str,
    message: str | None,
) -> None:
    monkeypatch.setattr(push_module, "_POLL_EVERY", 0.0)
    monkeypatch.setattr(
        push_module, "_READY_WITHIN", 0.0 if message and "again" in message else 60.0
    )
    script = """
[ "$2" != status ] && echo done && exit
for state in ready %s ready ready ready; do
    n=$((n + 1)); [ $n = $(grep -c status %s/calls) ] && echo $state && exit
done
"""
    calls = stand_in(tmp_path, monkeypatch, script % (states, tmp_path))
    if message is None:
        push(Package(layout.kaggle), "a try")
        assert [" ".join(call.split()[:2]) for call in calls.read_text().splitlines()] == [
            "datasets status",
            "datasets version",
            *["datasets status"] * 4,
            "kernels push",
        ]
        said = [line.rpartition("(")[2] for line in capsys.readouterr().err.splitlines()]
        assert said == ["not_yet_persisted)", "blobs_received)"]
    else:
        with pytest.raises(InputError, match=message):
            push(Package(layout.kaggle), "a try")
        assert "kernels push" not in calls.read_text()


def test_the_hidden_set_holds_every_awkward_case(layout: Layout, tmp_path: Path) -> None:
    write_hidden_test_set(tmp_path, 40)
    hidden = pd.read_csv(tmp_path / "test-metadata.csv")
    sizes = hidden["patient_id"].value_counts()
    assert sizes["IP_ALONE"] == 1
    assert sizes["IP_LARGEST"] == 20
    assert UNSEEN in set(hidden["attribution"])
    tiles = TileStore(tmp_path / "test-image.hdf5")
    assert hidden["isic_id"].isin(tiles.ids()).sum() == 39, "one lesion has no tile"
    ended = [tiles.jpeg(name).endswith(b"\xff\xd9") for name in hidden["isic_id"] if name in tiles]
    assert ended.count(False) == 1, "one tile is cut short"
    sample = pd.read_csv(tmp_path / "sample_submission.csv")
    assert sample["isic_id"].tolist() == hidden["isic_id"].tolist()
    with pytest.raises(InputError, match="at least 10"):
        write_hidden_test_set(tmp_path, 9)


def test_twenty_thousand_lesions_leave_room_for_the_largest_patient(layout: Layout) -> None:
    table = pd.read_csv(layout.train_metadata, low_memory=False)
    table = pd.concat([table] * (20_000 // len(table) + 1), ignore_index=True).head(20_000)
    hidden = add_edge_cases(table, seed=0)
    sizes = hidden["patient_id"].value_counts()
    assert (sizes["IP_ALONE"], sizes["IP_LARGEST"]) == (1, 9000)
    assert (hidden["attribution"] == UNSEEN).sum() == 400
    assert hidden[["age_approx", "sex", "anatom_site_general"]].isna().sum().min() > 500
    assert hidden["isic_id"].equals(table["isic_id"])


@pytest.mark.parametrize(
    ("gflops", "cores", "images", "plain"),
    [
        (5400.0, 4, 0.005, 0.004),  # as fast as two T4, so all but decoding takes as long there
        (5400.0, 16, 0.005, 0.016),  # four times Kaggle's cores
        (5400.0, 2, 0.005, 0.004),  # the work of one core here is not faster on four
        (
            54.0,
            4,
            0.00025,
            0.004,
        ),  # the networks of a slow machine take no time on two T4: decoding on four cores remains
    ],
)
def test_the_estimate_counts_what_grows_with_the_lesions(
    monkeypatch: pytest.MonkeyPatch, gflops: float, cores: int, images: float, plain: float
) -> None:
    monkeypatch.setattr(dryrun, "matrix_gflops", lambda: gflops)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    small, large = NotebookRun("official", 3, 10.0, 1.0), NotebookRun("hidden", 10_000, 110.0, 1.5)
    # 10 ms a lesion, of them 4 without images, 10 x 0.1 decoding, and 5 in networks.
    networks = [ScoredNetwork("test_vit", 48, "fp32")] * 10
    result = estimate(small, large, plain=0.004, decode=1e-4, networks=networks)
    assert result.hours_here == pytest.approx((10 + 500_000 * 0.01) / 3600)
    assert result.images_per_second_here == pytest.approx(10 / 0.006)
    assert result.images_per_second_kaggle == pytest.approx(10 / images)
    assert result.plain_hours_here == pytest.approx(500_000 * 0.004 / 3600)
    assert result.plain_hours_kaggle == pytest.approx(500_000 * plain / 3600)
    assert result.hours_kaggle == pytest.approx((10 + 500_000 * (images + plain)) / 3600)
    assert result.fits
    assert "estimate: networks scaled" in result.text()
    assert "2 x T4 in fp32, not measured, decoding" in result.text()
    slow = estimate(small, large, plain=0.004, decode=0.1, networks=networks)
    assert not slow.fits, "138 h of decoding are more than 4 cores do in 12"


def test_a_model_without_networks_is_not_scaled_as_if_it_were_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dryrun, "matrix_gflops", lambda: 1.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    small, large = NotebookRun("official", 3, 10.0, 1.0), NotebookRun("hidden", 10_000, 110.0, 1.5)
    result = estimate(small, large, plain=0.001, decode=1e-4, networks=[])
    assert result.hours_kaggle == pytest.approx((10 + 500_000 * 0.02) / 3600), (
        "twice Kaggle's cores, half the time"
    )
    assert (
        result.text()
        == "500,000 lesions: 1.39 h here; about 2.78 h on Kaggle, which fits 12 h (an estimate:"
        " features and boosters by 4 cores)"
    )


SMALL, LARGE = NotebookRun("official", 3, 10.0, 1.0), NotebookRun("hidden", 20_000, 4010.0, 1.5)


def preset_bundle(folder: Path, preset: str, **changes: str) -> Path:
    """A bundle folder with the configs that a preset's networks get, without their weights."""
    shutil.copy(ROOT / "params.yaml", folder)
    apply_preset(folder / "params.yaml", ROOT / "pipelines" / "presets", preset)
    params = load_params(folder / "params.yaml")
    for backbone in params.image.backbones:
        recipe = params.image.recipe(backbone)
        tag, _ = resolve(recipe.model, recipe.model_args)
        config = {"model": tag, "size": recipe.size, "scoring_precision": "fp16", "tta": recipe.tta}
        for fold in params.folds:
            write_json(folder / f"image/{backbone}/fold{fold}/config.json", config | changes)
    return folder


@pytest.mark.parametrize("preset", ["full", "kaggle_t4"])
def test_a_preset_bundle_fits_the_limit(preset: str, tmp_path: Path) -> None:
    networks = scored_networks(preset_bundle(tmp_path, preset))
    assert len(networks) == 10
    # 0.2 s a lesion here, on a CPU in fp32: eva02_base alone would take 1 s a network.
    result = estimate(SMALL, LARGE, plain=0.005, decode=6e-4, networks=networks)
    assert result.fits
    assert 1.5 < result.hours_kaggle < 12
    assert "networks by constants of 2 x T4 in fp16, not measured" in result.text()
    # The earlier preset, fp32 with four flips, does not.
    (tmp_path / "before").mkdir()
    old = preset_bundle(tmp_path / "before", preset, scoring_precision="fp32", tta="flips")
    before = estimate(SMALL, LARGE, plain=0.005, decode=6e-4, networks=scored_networks(old))
    assert not before.fits
    assert before.hours_kaggle > 6 * (result.hours_kaggle - result.plain_hours_kaggle)


def test_a_format_that_a_t4_lacks_counts_as_the_one_it_gets(tmp_path: Path) -> None:
    hours = {}
    for precision in ("fp16", "bf16", "fp32"):
        (tmp_path / precision).mkdir()
        folder = preset_bundle(tmp_path / precision, "full", scoring_precision=precision)
        networks = scored_networks(folder)
        result = estimate(SMALL, LARGE, plain=0.005, decode=6e-4, networks=networks)
        hours[precision] = result.hours_kaggle
    assert hours["bf16"] == hours["fp32"] > 2 * hours["fp16"]
    absent = next(tmp_path.glob("fp32/image/*/fold0/config.json"))
    write_json(absent, {"model": "resnet18", "size": 64, "tta": "none"})
    assert ScoredNetwork("resnet18", 64, "fp32") in scored_networks(tmp_path / "fp32")


@pytest.mark.parametrize(
    ("precision", "tflops", "there"),
    [
        ("fp16", 18.0, 0.005),  # one T4 here, two there
        ("fp16", 240.0, 0.005 * 240 / 18),  # an H100
        ("fp32", 18.0, 0.005),
        ("bf16", 240.0, 0.005 * 240 / 2.7),  # a T4 scores it in fp32
    ],
)
def test_a_gpu_is_measured_and_scaled(
    monkeypatch: pytest.MonkeyPatch, precision: str, tflops: float, there: float
) -> None:
    monkeypatch.setattr(device, "gpu_tflops", lambda: tflops)
    monkeypatch.setattr(device, "describe_devices", lambda: ["NVIDIA Any, 1.0 GB"])
    networks = [ScoredNetwork("eva02_base", 224, precision)] * 10
    # 0.2 s a lesion: 0.184 in features and boosters, 0.006 decoding, 0.01 in the networks.
    result = estimate(SMALL, LARGE, plain=0.184, decode=6e-4, networks=networks)
    assert result.images_per_second_kaggle == pytest.approx(10 / there, rel=1e-6)
    assert "networks as measured on NVIDIA Any, 1.0 GB, scaled to 2 x T4" in result.text()


def test_a_lesion_without_its_image_is_timed_apart(
    layout: Layout, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.image.network import embed

    def looked(*_: object) -> None:
        raise AssertionError("no network is to look at a tile")

    monkeypatch.setattr(embed, "embed", looked)
    assert 0 < plain_seconds(package, layout.test_metadata, layout.train_metadata) < 1


def test_an_unbuilt_package_is_named(layout: Layout) -> None:
    with pytest.raises(InputError, match="isic submission build"):
        rehearse(layout, 0)


def test_the_fresh_environment_has_what_the_wheel_requires_and_nothing_of_ours(
    package: Package, tmp_path: Path
) -> None:
    (wheel,) = (package.dataset / "wheels").iterdir()
    python = fresh_environment(tmp_path / "environment", wheel, ["lightgbm"])
    script = """
import importlib.util as util
print([name for name in ("torch", "timm", "lightgbm", "h5py", "numba", "pip") if util.find_spec(name) is None])
print([name for name in ("isic", "mlflow", "dvc", "optuna", "pytest", "xgboost") if util.find_spec(name)])
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr


def test_the_notebook_finds_what_is_attached_wherever_kaggle_puts_it(
    package: Package, tmp_path: Path
) -> None:
    code = read_notebook_code(package).split("DATASET, COMPETITION")[0]
    (tmp_path / "competitions" / "isic-2024-challenge").mkdir(parents=True)
    (tmp_path / "datasets" / "someone" / "isic-2024-bundle").mkdir(parents=True)
    names: dict = {}
    exec(code, names)
    names["INPUT"] = tmp_path
    assert (
        names["attached"]("isic-2024-challenge")
        == tmp_path / "competitions" / "isic-2024-challenge"
    )
    assert (
        names["attached"]("isic-2024-bundle")
        == tmp_path / "datasets" / "someone" / "isic-2024-bundle"
    )
    (tmp_path / "isic-2024-bundle").mkdir()
    assert names["attached"]("isic-2024-bundle") == tmp_path / "isic-2024-bundle"
    with pytest.raises(SystemExit, match="another is not attached"):
        names["attached"]("another")


def test_the_notebook_scores_with_no_other_bundle_than_its_own(
    layout: Layout, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaggle may still attach the previous dataset."""
    code = read_notebook_code(package)
    scoring = code[code.index("from isic.predict.bundle import") :]
    monkeypatch.chdir(tmp_path)
    names = {"Path": Path, "DATASET": package.dataset, "COMPETITION": layout.raw}
    exec(scoring, dict(names))
    assert (tmp_path / "submission.csv").exists()
    (tmp_path / "submission.csv").unlink()
    content = read_json(package.dataset / "bundle" / "bundle.json")
    content["metrics"]["pauc"] = 0.1
    write_json(package.dataset / "bundle" / "bundle.json", content | {"hash": identity(content)})
    with pytest.raises(SystemExit) as stopped:
        exec(scoring, dict(names))
    assert str(stopped.value).startswith(
        f"the attached dataset holds bundle {identity(content)[:12]}, this notebook is for"
        f" {content['hash'][:12]}: "
    )
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 20_000])
def test_the_notebook_runs_offline_in_a_fresh_environment(
    layout: Layout, package: Package, rows: int
) -> None:
    assert package.notebook.exists()
    result = rehearse(layout, rows)
    assert [run.rows for run in result.runs] == ([3, rows] if rows else [3])
    assert all(run.peak_gb > 0.1 for run in result.runs)
    assert not any("WARNING" in note for run in result.runs for note in run.notes)
    if rows:
        absent, broken = result.runs[1].notes
        assert "1 of 20,000 lesions have no tile" in absent
        assert "tiles are imputed" in broken, "the tile that is cut short is told of"
        assert result.estimate is not None
        assert result.estimate.fits
    else:
        assert result.estimate is None
    told = json.loads(layout.submission.with_name("kaggle-dry-run.json").read_text())
    assert [run["rows"] for run in told["runs"]] == [run.rows for run in result.runs]


@pytest.mark.slow
def test_a_damaged_image_model_still_gives_a_valid_submission_and_says_so(
    layout: Layout, package: Package
) -> None:
    folder = package.dataset / "bundle"
    weights = next(folder.rglob("model.safetensors"))
    weights.write_bytes(b"not weights")
    content = read_json(folder / "bundle.json")
    name = weights.relative_to(folder).as_posix()
    content["files"][name] = hashlib.sha256(b"not weights").hexdigest()
    write_json(folder / "bundle.json", content | {"hash": identity(content)})
    notebook = package.notebook / "isic-2024-submission.ipynb"
    notebook.write_text(notebook.read_text().replace(content["hash"], identity(content)))
    result = rehearse(layout, 0)
    assert result.runs[0].rows == 3
    assert "NO IMAGE WAS USED" in result.text()


def test_a_name_that_is_none_on_kaggle_is_refused(layout: Layout, params: Params) -> None:
    bundle = bundle_of(layout, params)
    with pytest.raises(InputError, match="'bad name' is no Kaggle name"):
        build_package(bundle, layout.root, Package(layout.kaggle), "bad name")
    assert not layout.kaggle.exists()
