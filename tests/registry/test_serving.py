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


#: Loads the champion and prints its scores of a request body, in a process without this project.
_LOAD = """
import json, sys
import mlflow, pandas
body = json.load(open(sys.argv[1]))["dataframe_split"]
model = mlflow.pyfunc.load_model("models:/isic-2024@champion")
scores = model.predict(pandas.DataFrame(**body))
import isic
print(json.dumps({"code": isic.__file__, "scores": scores["target"].tolist()}))
"""


@pytest.fixture
def clean_python(layout: Layout, params: Params, tmp_path: Path) -> Path:
    """The interpreter of a new environment that holds only what a version requires."""
    listed = tmp_path / "requirements.txt"
    listed.write_text("\n".join(requirements(bundle_of(layout, params))))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    python = tmp_path / "clean" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", listed], capture_output=True, text=True
    )
    if "No matching distribution" in done.stderr and "Connection" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr[-2000:]
    return python


@pytest.mark.slow
def test_mlflow_models_serve_answers(layout: Layout, params: Params, store: Path) -> None:
    environment = champion_environment(layout, params, store, Path(sys.executable))
    assert_served(layout, params, Path(sys.executable), environment)


@pytest.mark.slow
def test_a_version_needs_nothing_but_its_requirements(
    layout: Layout, params: Params, store: Path, clean_python: Path, tmp_path: Path
) -> None:
    environment = champion_environment(layout, params, store, clean_python)
    body = tmp_path / "body.json"
    body.write_bytes(body_of(request_of(layout)))
    done = subprocess.run(
        [clean_python, "-c", _LOAD, body],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # The code of the version, not that of this checkout.
    assert "mlartifacts" in found["code"]
    np.testing.assert_allclose(found["scores"], expected_scores(layout, params), atol=1e-6)
    assert_served(layout, params, clean_python, environment)


def champion_environment(
    layout: Layout, params: Params, store: Path, python: Path
) -> dict[str, str]:
    """Register a champion; the variables of a process of `python` that reads its store."""
    shutil.copy(store, layout.root / "mlflow.db")
    version = register(layout.root, bundle_of(layout, params), "isic-2024").version
    Registry(layout.root).set_alias("isic-2024", "champion", version.number)
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{layout.root}/mlflow.db"}
    # Only files of the model: no checkout on the path.
    environment.pop("PYTHONPATH", None)
    environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return environment


def expected_scores(layout: Layout, params: Params) -> Any:
    rows = read_metadata(layout.test_metadata, train=False)
    return bundle_of(layout, params).predict(rows, TileStore(layout.raw / "test-image.hdf5"))


def assert_served(
    layout: Layout, params: Params, python: Path, environment: dict[str, str]
) -> None:
    """`mlflow models serve` under `python` answers as the bundle does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "-m mlflow models serve -m models:/isic-2024@champion --env-manager local"
    process = subprocess.Popen(
        [python, *command.split(), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=layout.root.parent,
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
    expected = expected_scores(layout, params)
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


def body_of(request: Any) -> bytes:
    """The documented request of these rows."""
    content = {"dataframe_split": json.loads(request.to_json(orient="split", index=False))}
    return json.dumps(content).encode()


def ask(port: int, request: Any) -> Any:
    """POST the rows to /invocations as soon as the server is up."""
    body = body_of(request)
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
