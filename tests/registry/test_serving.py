"""The registered model behind MLflow's server, requested over HTTP."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isic.core.errors import InputError
from isic.core.params import Params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.predict.manifest import read_manifest
from isic.predict.requests import score_request
from isic.registry.register import register, requirements
from isic.registry.versions import Registry
from pipelines.register import bundle_of


def request_of(layout: Layout) -> Any:
    rows = read_metadata(layout.test_metadata, train=False)
    tiles = TileStore(layout.raw / "test-image.hdf5")
    return rows.assign(
        image=[base64.b64encode(tiles.jpeg(name)).decode() for name in rows["isic_id"]]
    )


def test_a_request_is_scored_as_the_files_are(layout: Layout, params: Params) -> None:
    bundle = bundle_of(layout, params)
    request = request_of(layout)
    rows = request.drop(columns="image")
    expected = bundle.predict(rows, TileStore(layout.raw / "test-image.hdf5"))
    answer = score_request(bundle, request)
    assert answer["isic_id"].tolist() == request["isic_id"].tolist()
    np.testing.assert_allclose(answer["target"], expected, rtol=1e-9)
    without = score_request(bundle, rows)
    np.testing.assert_allclose(
        without["target"], bundle.predict(rows, None, missing_images="impute"), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "no base64!"}, "is not base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "is not a JPEG"),
        ({"isic_id": "ISIC_0000001"}, "repeated"),
        (
            {"patient_id": None},
            "lesion ISIC_.*: patient_id is missing: give every lesion its patient",
        ),
        (
            {"patient_id": ""},
            "lesion ISIC_.*: patient_id is missing: give every lesion its patient",
        ),
        ({"tbp_lv_H": None}, "`tbp_lv_H` of ISIC_.* is nan, a finite number is needed"),
        ({"tbp_lv_H": np.inf}, "`tbp_lv_H` of ISIC_.* is inf, a finite number is needed"),
        ({"age_approx": None, "image": ""}, None),
    ],
)
def test_a_bad_request_is_named(
    layout: Layout, params: Params, change: dict, message: str | None
) -> None:
    bundle = bundle_of(layout, params)
    request = request_of(layout).assign(**change)
    if message is None:
        assert score_request(bundle, request)["target"].between(0, 1).all()
        return
    with pytest.raises(InputError, match=message):
        score_request(bundle, request)


def test_a_request_with_images_of_nobody_is_named(layout: Layout, params: Params) -> None:
    request = request_of(layout).drop(columns="isic_id")
    with pytest.raises(InputError, match="the request lacks isic_id"):
        score_request(bundle_of(layout, params), request)


@pytest.mark.slow
def test_mlflow_models_serve_answers(layout: Layout, params: Params, store: Path) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    bundle = bundle_of(layout, params)
    version = register(layout.root, bundle, "isic-2024").version
    Registry(layout.root).set_alias("isic-2024", "champion", version.number)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/isic-2024@champion",
    ]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{layout.root}/mlflow.db"}
    # Only files of the model: no checkout on the path.
    environment.pop("PYTHONPATH", None)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [
            *command,
            "--env-manager",
            "local",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ],
        cwd=layout.root,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answer = ask(port, request_of(layout))
    finally:
        os.killpg(process.pid, 15)
        process.wait()
    rows = read_metadata(layout.test_metadata, train=False)
    expected = bundle.predict(rows, TileStore(layout.raw / "test-image.hdf5"))
    assert [row["isic_id"] for row in answer["predictions"]] == expected.index.tolist()
    np.testing.assert_allclose(
        [row["target"] for row in answer["predictions"]], expected, atol=1e-6
    )


@pytest.mark.slow
def test_the_generated_image_has_all_that_a_version_needs(
    layout: Layout, params: Params, store: Path, root: Path, tmp_path: Path
) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    bundle = bundle_of(layout, params)
    version = register(layout.root, bundle, "isic-2024").version
    Registry(layout.root).set_alias("isic-2024", "champion", version.number)
    documented = (root / "docs" / "scale.md").read_text()
    for start in ("mlflow models generate-dockerfile", "sed -i"):
        (command,) = (line for line in documented.splitlines() if line.startswith(start))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{layout.root}/mlflow.db",
            "PATH": path,
        }
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]

    lines = (tmp_path / "serve" / "Dockerfile").read_text().splitlines()
    (system,) = (line for line in lines if "apt-get install" in line)
    assert "libgomp1" in system.split()
    (base,) = (line for line in lines if line.startswith("FROM"))
    assert f"python:{sys.version_info.major}.{sys.version_info.minor}" in base
    model = tmp_path / "serve" / "model_dir"
    assert (model / "requirements.txt").read_text().split() == requirements(bundle)
    assert (model / "code" / "isic" / "predict" / "bundle.py").is_file()
    assert read_manifest(model / "artifacts" / "bundle").hash == bundle.manifest.hash


def ask(port: int, request: Any) -> Any:
    """POST the rows to /invocations as soon as the server is up."""
    body = json.dumps(
        {"dataframe_split": json.loads(request.to_json(orient="split", index=False))}
    ).encode()
    call = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        body,
        {"Content-Type": "application/json"},
        method="POST",
    )
    for _ in range(600):
        try:
            with urllib.request.urlopen(call, timeout=120) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("the server did not come up")
