"""A bundle alone reproduces the pipeline's scores and refuses incomplete input."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import read_json, write_json
from isic.core.params import Params
from isic.core.paths import Layout
from isic.core.schema import TEST_COLUMNS
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.predict.bundle import Bundle, load_bundle
from isic.predict.image_scores import ImageScoringJob, ModelKey
from isic.predict.manifest import identity, read_manifest, verify
from pipelines.register import bundle_of


@pytest.fixture
def bundle(layout: Layout, params: Params) -> Bundle:
    return bundle_of(layout, params)


@pytest.fixture
def rows(layout: Layout) -> pd.DataFrame:
    return read_metadata(layout.test_metadata, train=False)


@pytest.fixture
def tiles(layout: Layout) -> TileStore:
    return TileStore(layout.raw / "test-image.hdf5")


def test_a_fold_scores_as_it_did_out_of_fold(layout: Layout, bundle: Bundle) -> None:
    stored = pd.read_parquet(layout.oof).set_index("isic_id")
    held_out = stored[stored["fold"] == 1]
    rows = read_metadata(layout.train_metadata, train=True)
    rows = rows[rows["isic_id"].isin(held_out.index)].sample(frac=1, random_state=0)
    scores = load_bundle(bundle.folder).predict(rows, TileStore(layout.train_images), folds=[1])
    assert scores.index.tolist() == rows["isic_id"].tolist()
    np.testing.assert_allclose(scores, held_out.loc[scores.index, "score"], rtol=0, atol=1e-5)
    blind = load_bundle(bundle.folder).predict(rows, None, missing_images="impute", folds=[1])
    assert np.abs(blind - scores).max() > 1e-3, (
        "images must matter, or the comparison above does not test them"
    )


def test_the_score_is_the_mean_of_the_folds(
    bundle: Bundle, rows: pd.DataFrame, tiles: TileStore
) -> None:
    single = [bundle.predict(rows, tiles, folds=[fold]) for fold in (0, 1)]
    assert not np.allclose(single[0], single[1])
    np.testing.assert_allclose(bundle.predict(rows, tiles), (single[0] + single[1]) / 2, rtol=1e-12)


def test_one_lesion_patients_and_an_unseen_hospital(
    bundle: Bundle, rows: pd.DataFrame, tiles: TileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    three = rows.head(3).assign(
        patient_id=["IP_1", "IP_2", "IP_3"], attribution="A Hospital Never Seen"
    )
    scores = bundle.predict(three, tiles)
    assert len(scores) == 3
    assert scores.between(0, 1).all()
    assert "whose `attribution` is 'A Hospital Never Seen': 3; no lesion" in capsys.readouterr().err


def test_values_that_training_lacked_count_as_missing_with_a_warning(
    bundle: Bundle, rows: pd.DataFrame, tiles: TileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rows["sex"].notna().any()
    bundle.predict(rows, tiles)
    assert "`sex`" not in capsys.readouterr().err
    scores = bundle.predict(rows.assign(sex=rows["sex"].str.upper() + "\x1b[31m"), tiles)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "`sex`" in line]
    assert f": {rows['sex'].notna().sum():,}; no lesion in training had this" in line
    assert "MALE" in line
    assert "\x1b" not in line
    pd.testing.assert_series_equal(scores, bundle.predict(rows.assign(sex=None), tiles))


def test_patients_smaller_than_in_training_are_told_of_once(
    bundle: Bundle,
    rows: pd.DataFrame,
    tiles: TileStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle.predict(rows, tiles)
    assert "fewer than" not in capsys.readouterr().err
    large = pd.DataFrame({"patient_id": np.repeat(["IP_a", "IP_b"], [900, 1000])})
    monkeypatch.setattr(Bundle, "oof", lambda _: large)
    bundle.predict(rows, tiles)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "fewer than" in line]
    assert len(warnings) == 1
    assert "fewer than 905 lesions" in warnings[0], "5 % of the way from 900 to 1,000"


@pytest.mark.parametrize("nobody", [None, ""])
def test_a_lesion_without_patient_is_named(
    bundle: Bundle, rows: pd.DataFrame, nobody: str | None
) -> None:
    orphaned = rows.assign(patient_id=rows["patient_id"].where(rows.index != 1, nobody))
    with pytest.raises(
        InputError, match=f"lesion {rows['isic_id'].iloc[1]}: patient_id is missing"
    ):
        bundle.predict(orphaned, None, missing_images="impute")


def test_a_missing_image_is_named_or_imputed(
    bundle: Bundle, rows: pd.DataFrame, tiles: TileStore
) -> None:
    renamed = rows.assign(isic_id=rows["isic_id"].where(rows.index != 1, "ISIC_9999999"))
    with pytest.raises(InputError, match="ISIC_9999999"):
        bundle.predict(renamed, tiles)
    assert bundle.predict(renamed, tiles, missing_images="impute").between(0, 1).all()
    assert bundle.predict(rows, None, missing_images="impute").between(0, 1).all()
    with pytest.raises(InputError, match="no image file"):
        bundle.predict(rows, None)


def test_a_killed_prediction_resumes(
    bundle: Bundle, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.image.network import embed
    from isic.predict import rows as predict_rows

    rows = read_metadata(layout.train_metadata, train=True).head(60)
    tiles = TileStore(layout.train_images)
    whole = bundle.predict(rows, tiles)
    monkeypatch.setattr(predict_rows, "CHUNK_ROWS", 25)
    sizes = [len(block) for block in predict_rows.patient_blocks(rows["patient_id"], 25)]
    assert len(sizes) >= 3
    seen: list[int] = []
    original = embed.embed

    def counted(model: object, store: TileStore, ids: list[str], workers: int | None) -> object:
        if len(seen) == len(sizes) + 2:
            raise KeyboardInterrupt
        seen.append(len(ids))
        return original(model, store, ids, workers)

    monkeypatch.setattr(embed, "embed", counted)
    with pytest.raises(KeyboardInterrupt):
        bundle.predict(rows, tiles, work=tmp_path)
    assert seen == [*sizes, *sizes[:2]]
    monkeypatch.setattr(
        embed, "embed", lambda *arguments: (seen.append(len(arguments[2])), original(*arguments))[1]
    )
    resumed = bundle.predict(rows, tiles, work=tmp_path)
    assert len(seen) == len(sizes) * 4, "every chunk by 2 folds of 2 backbones, none scored twice"
    np.testing.assert_allclose(resumed, whole, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_every_form_of_the_files_gives_the_same_scores(
    bundle: Bundle, layout: Layout, tmp_path: Path
) -> None:
    from isic.predict.files import predict

    rows = read_metadata(layout.train_metadata, train=True).head(60)[list(TEST_COLUMNS)]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_csv(tmp_path / "rows.csv.gz", index=False)
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    (tmp_path / "folder" / "image").mkdir(parents=True)
    tiles = TileStore(layout.train_images)
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in rows["isic_id"]:
            archive.writestr(f"a/{name}.jpg", tiles.jpeg(name))
            (tmp_path / "folder" / "image" / f"{name}.jpg").write_bytes(tiles.jpeg(name))

    def scores(metadata: str, images: Path) -> bytes:
        predict(bundle.folder, tmp_path / metadata, images, tmp_path / "scores.csv")
        return (tmp_path / "scores.csv").read_bytes()

    expected = scores("rows.csv", layout.train_images)
    assert scores("rows.csv.gz", tmp_path / "folder") == expected
    assert scores("rows.parquet", tmp_path / "tiles.zip") == expected


@pytest.mark.slow
def test_with_two_gpus_two_processes_score_the_tiles(
    bundle: Bundle,
    rows: pd.DataFrame,
    tiles: TileStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from isic.image.network import device, embed

    alone = bundle.predict(rows, tiles)
    monkeypatch.setattr(device, "describe_devices", lambda: ["one", "another"])

    def fail(*_: object) -> None:
        raise AssertionError("the caller only reads the cache")

    monkeypatch.setattr(embed, "embed", fail)
    np.testing.assert_allclose(bundle.predict(rows, tiles, work=tmp_path), alone, rtol=1e-6)


def test_each_of_two_gpu_processes_loads_tiles_with_half_of_the_cores(
    tiles: TileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from isic.image.network import device, loader
    from isic.predict import image_scores

    class Process:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            commands.append(command)
            gpus.append(env["CUDA_VISIBLE_DEVICES"])

        def wait(self) -> int:
            return 0

    def record(job: ImageScoringJob, keys: list[ModelKey], tiles: int) -> None:
        scored.append((job.workers, keys))

    commands: list[list[str]] = []
    gpus: list[str] = []
    scored: list[tuple[int | None, list[ModelKey]]] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "describe_devices", lambda: ["one", "another"])
    monkeypatch.setattr(device, "pick", lambda: torch.device("cuda"))
    monkeypatch.setattr(loader, "cores", lambda: 9)
    monkeypatch.setattr(image_scores.subprocess, "Popen", Process)
    monkeypatch.setattr(image_scores, "_score", record)

    job = ImageScoringJob(tmp_path, tiles, lambda _: ["a"], 1, embeddings=False, work=tmp_path)
    image_scores.score_images(job, [("net", 0), ("net", 1)], 1)
    assert gpus == ["0", "1"]
    for command in commands:
        monkeypatch.setattr(sys, "argv", command[2:])
        image_scores.main()
    caller = (None, [("net", 0), ("net", 1)])
    assert scored == [caller, (4, [("net", 0)]), (4, [("net", 1)])]


def test_the_fallback_scores_by_features_alone(
    bundle: Bundle,
    rows: pd.DataFrame,
    tiles: TileStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    next(bundle.folder.rglob("model.safetensors")).unlink()
    with pytest.raises(InputError, match="image weights not found"):
        bundle.predict(rows, tiles)
    scores = bundle.predict(rows, tiles, fallback=True)
    assert scores.between(0, 1).all()
    assert "NO IMAGE WAS USED" in capsys.readouterr().err


def test_a_tile_that_is_no_jpeg_is_named_or_imputed(
    bundle: Bundle, rows: pd.DataFrame, layout: Layout
) -> None:
    name = rows["isic_id"].iloc[1]
    path = layout.root / "broken.hdf5"
    shutil.copy(layout.raw / "test-image.hdf5", path)
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = np.bytes_(b"no picture")
    for fallback in (False, True):  # one broken tile does not disable the image models
        with pytest.raises(InputError, match=f"{name}.*--missing-images impute"):
            bundle.predict(rows, TileStore(path), fallback=fallback)
    assert bundle.predict(rows, TileStore(path), missing_images="impute").between(0, 1).all()


def test_one_broken_tile_is_imputed_and_the_others_keep_their_scores(
    bundle: Bundle,
    rows: pd.DataFrame,
    tiles: TileStore,
    layout: Layout,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from isic.submit.corrupt_tiles import corrupt_tiles

    ids = rows["isic_id"].tolist()
    path = layout.root / "broken.hdf5"
    shutil.copy(layout.raw / "test-image.hdf5", path)
    corrupt_tiles(path, without=ids[0], cut=ids[1])
    # Both lesions score as without a tile; one patient a lesion, so the other scores stay.
    alone = rows.assign(patient_id=ids)
    scores = bundle.predict(alone, TileStore(path), missing_images="impute", fallback=True)
    error = capsys.readouterr().err
    assert error.count(ids[1]) == 2, "reported once, not by every model"
    assert "NO IMAGE WAS USED" not in error
    np.testing.assert_allclose(scores[ids[2:]], bundle.predict(alone, tiles)[ids[2:]], rtol=1e-6)
    blind = bundle.predict(alone, None, missing_images="impute")
    np.testing.assert_allclose(scores[ids[:2]], blind[ids[:2]], rtol=1e-6)


def test_scores_do_not_depend_on_the_blocks_they_are_computed_in(
    bundle: Bundle, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.predict import rows as predict_rows
    from isic.predict import scoring

    rows = read_metadata(layout.train_metadata, train=True)
    whole = bundle.predict(rows, None, missing_images="impute", folds=[0])
    blocks = predict_rows.patient_blocks(rows["patient_id"], 40)
    assert len(blocks) > 5
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(rows)))
    owners = [set(rows["patient_id"].iloc[block]) for block in blocks]
    assert sum(map(len, owners)) == rows["patient_id"].nunique(), "no patient is in two blocks"
    monkeypatch.setattr(predict_rows, "CHUNK_ROWS", 80)
    monkeypatch.setattr(scoring, "BLOCK", 40)
    np.testing.assert_array_equal(
        bundle.predict(rows, None, missing_images="impute", folds=[0]), whole
    )


def test_the_same_models_make_the_same_bundle(
    layout: Layout, params: Params, bundle: Bundle
) -> None:
    first = bundle.manifest
    assert bundle_of(layout, params).manifest == first


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_file_is_named(bundle: Bundle, damage: str) -> None:
    weights = next(bundle.folder.rglob("model.safetensors"))
    if damage == "remove":
        weights.unlink()
    else:
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.unlink()
        weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_bundle(bundle.folder)


def test_a_changed_manifest_a_newer_format_and_no_bundle_are_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    content = read_json(bundle.folder / "bundle.json")
    for change, message in (
        ({"metrics": {"pauc": 0.2}}, "was changed"),
        ({"format": 99}, "format 99"),
    ):
        write_json(bundle.folder / "bundle.json", content | change)
        with pytest.raises(InputError, match=message):
            load_bundle(bundle.folder)
    with pytest.raises(InputError, match="not a bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"../../secret": "0" * 64}}, "outside the bundle"),
        ({"files": {"/etc/passwd": "0" * 64}}, "outside the bundle"),
        ({"files": {"stack/model.pkl": "0" * 64}}, "a kind of file no bundle has"),
        ({"backbones": ["../../elsewhere"]}, "no plain name"),
    ],
)
def test_a_hostile_manifest_is_refused_before_anything_is_read(
    bundle: Bundle, change: dict, message: str
) -> None:
    content = read_json(bundle.folder / "bundle.json")
    if "files" in change:
        change = {"files": content["files"] | change["files"]}
    rewrite(bundle.folder, content | change)
    with pytest.raises(InputError, match=message):
        load_bundle(bundle.folder)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"pauc": float("nan")}},
        {"folds": float("inf")},
        {"files": []},
        {"backbones": None},
        {"format": 1, "params": []},
        {"format": 1, "params": {"image": {"backbones": ["vit"]}}},
        {"format": 1, "backbones": [["vit"]]},
    ],
)
def test_a_manifest_of_another_shape_is_one_line(bundle: Bundle, change: dict) -> None:
    content = read_json(bundle.folder / "bundle.json") | change
    with suppress(ValueError):  # a number that is none has no hash
        content["hash"] = identity(content)
    (bundle.folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"bundle\.json .* again"):
        load_bundle(bundle.folder)


def test_a_link_out_of_the_bundle_and_an_unrecorded_file_are_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    weights = next(bundle.folder.rglob("model.safetensors"))
    shutil.move(weights, tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError, match="link to a file outside"):
        load_bundle(bundle.folder)
    weights.unlink()
    shutil.move(tmp_path / "elsewhere.safetensors", weights)
    load_bundle(bundle.folder)
    (bundle.folder / "stack" / "extra.txt").write_text("tree")
    with pytest.raises(InputError, match=r"extra\.txt is not part of the bundle"):
        load_bundle(bundle.folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "hf-hub:somebody/model"},
        {"model_args": {"checkpoint_path": "/tmp/weights.pth"}},
        {"model_args": {"pretrained_cfg_overlay": {"file": "/tmp/weights.pth"}}},
    ],
)
def test_an_image_model_fetches_and_unpickles_nothing(bundle: Bundle, change: dict) -> None:
    """A bundle whose hashes agree may still come from an untrusted source."""
    from isic.image.network.artifact import load_model

    config = next(bundle.folder.rglob("config.json"))
    content = read_json(config) | change
    config.unlink()
    write_json(config, content)
    with pytest.raises(InputError, match="config"):
        load_model(config.parent)


def rewrite(folder: Path, content: dict) -> None:
    """Write a manifest with the hash of its content."""
    write_json(folder / "bundle.json", content | {"hash": identity(content)})


def test_the_manifest_describes_the_models(bundle: Bundle, params: Params) -> None:
    manifest = bundle.manifest
    assert set(manifest.models["image"]) == set(params.image.backbones)
    assert all(model["model"].startswith("test_") for model in manifest.models["image"].values())
    assert manifest.models["stack"]["members"] == ["lightgbm"]
    assert manifest.features == bundle.stack.names
    assert {"torch", "timm", "lightgbm", "numpy"} <= set(manifest.libraries)
    assert not {"mlflow", "dvc", "optuna", "catboost"} & set(manifest.libraries)
    for place in manifest.fitted.values():
        assert place.split(":")[0] in manifest.files


def test_a_stored_manifest_of_format_1_is_understood() -> None:
    """Written by the code of format 1; its hash follows the rule of format 1."""
    folder = Path(__file__).parent / "format_1"
    manifest = read_manifest(folder)
    assert manifest.format == 1
    assert manifest.backbones == ("vit", "convnext")
    assert manifest.models["image"]["vit"]["model"] == "demo_vit"
    assert manifest.features == ()
    with pytest.raises(InputError, match=r"lacks calibration\.json"):
        verify(folder, manifest)


def test_a_bundle_of_format_1_scores_as_it_did(
    bundle: Bundle, rows: pd.DataFrame, tiles: TileStore, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(bundle.folder, tmp_path / "old"))
    keys = read_json(Path(__file__).parent / "format_1" / "bundle.json").keys()
    content = {
        key: value for key, value in read_json(old / "bundle.json").items() if key in keys
    } | {"format": 1}
    # Bundles of format 1 had none.
    (old / "calibration.json").unlink()
    content["files"] = {
        name: value for name, value in content["files"].items() if (old / name).exists()
    }
    parts = (
        "format",
        "folds",
        "backbones",
        "families",
        "params",
        "metrics",
        "data_hash",
        "folds_hash",
        "files",
    )
    text = json.dumps(
        {part: content[part] for part in parts}, sort_keys=True, separators=(",", ":")
    )
    write_json(old / "bundle.json", content | {"hash": hashlib.sha256(text.encode()).hexdigest()})
    # Its stacker was trained on ranks of before format 3.
    as_format_2 = replace(bundle, manifest=bundle.manifest.model_copy(update={"format": 2}))
    np.testing.assert_array_equal(
        load_bundle(old).predict(rows, tiles), as_format_2.predict(rows, tiles)
    )


#: Packages of the pipeline that scoring must not import.
BLOCKED = (
    "mlflow",
    "dvc",
    "optuna",
    "xgboost",
    "catboost",
    "matplotlib",
    "plotly",
    "jinja2",
    "nbformat",
)


@pytest.mark.slow  # the pipeline's test checks a bundle in its own place
def test_it_needs_no_mlflow_and_no_dvc(layout: Layout, bundle: Bundle, root: Path) -> None:
    images = layout.raw / "test-image.hdf5"
    folder = shutil.move(bundle.folder, layout.root.parent / "elsewhere")
    script = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED}, None))
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.predict.bundle import load_bundle
from pathlib import Path
rows = read_metadata(Path({str(layout.test_metadata)!r}), train=False)
print(len(load_bundle(Path({str(folder)!r})).predict(rows, TileStore({str(images)!r}))))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(len(read_metadata(layout.test_metadata, train=False)))


def test_a_missing_stage_is_named(layout: Layout, params: Params) -> None:
    shutil.rmtree(layout.image_model(next(iter(params.image.backbones)), 1))
    with pytest.raises(InputError, match="fold1"):
        bundle_of(layout, params)
    assert not layout.bundle.exists()


@pytest.mark.parametrize("damage", [b"", b"PK\3\4", b"half", None])
def test_damaged_cached_scores_are_computed_again(
    bundle: Bundle, tmp_path: Path, damage: bytes | None
) -> None:
    from isic.predict.image_scores import ImageScores, ImageScoringJob, _write

    job = ImageScoringJob(bundle.folder, None, lambda _: ["a", "b"], 1, False, work=tmp_path)  # type: ignore[arg-type]
    file = tmp_path / "vit-0-0.npz"
    assert not job.is_cached(("vit", 0), 0)
    _write(file, ImageScores(np.zeros(2, np.float32), np.empty((2, 0), np.float16)))
    assert job.is_cached(("vit", 0), 0)
    if damage is None:  # of other lesions
        _write(file, ImageScores(np.zeros(3, np.float32), np.empty((3, 0), np.float16)))
    elif damage == b"half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.write_bytes(damage)
    assert not job.is_cached(("vit", 0), 0)
