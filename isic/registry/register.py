"""Registering a bundle: a new version of the model with alias `challenger`, unless this very bundle has one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

import isic
from isic.core.io import sha256_json
from isic.core.paths import Layout
from isic.core.schema import ID, MAY_BE_MISSING, NUMERIC, TEST_COLUMNS
from isic.predict.bundle import Bundle
from isic.predict.manifest import FILE
from isic.predict.requests import IMAGE
from isic.registry.description import from_card
from isic.registry.versions import BUNDLE, CHALLENGER, HASH_TAG, Registry, Version, said
from isic.tracking.context import run_tags
from isic.tracking.runs import RunSpec, finish, start
from isic.tracking.store import locked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Other processes registering or promoting in this checkout wait on this file.
LOCK = "mlflow.db.registry-lock"


class Registration(NamedTuple):
    """A registered bundle; `reused` when this bundle already was a version whose files are whole."""

    version: Version
    reused: bool


def register(layout: Layout, bundle: Bundle, name: str, card: str = "") -> Registration:
    """Make `bundle` a version of model `name` with `card` (Markdown) on its page, and give it alias `challenger`.

    Raises InputError when the MLflow store cannot be reached.
    """
    registry = Registry(layout)
    with locked(layout.root, LOCK):
        return make_challenger(registry, bundle, name, card)


def make_challenger(registry: Registry, bundle: Bundle, name: str, card: str = "") -> Registration:
    """What `register` does. Call with the registry's lock held."""
    existing = _whole_version(registry, name, bundle.manifest.hash, [FILE, *bundle.manifest.files], BUNDLE)
    found = existing or _add(registry, bundle, name)
    if card and not registry.note(found):
        registry.write_note(found, from_card(card))
    registry.point(name, CHALLENGER, found.number)
    return Registration(found, existing is not None)


def register_backbones(layout: Layout, bundle: Bundle) -> list[Version]:
    """Make each backbone's folds a version of `isic-image-BACKBONE`, unless these very weights are one already.

    Raises InputError when the MLflow store cannot be reached.
    """
    registry = Registry(layout)
    with locked(layout.root, LOCK):
        return [_register_backbone(registry, bundle, backbone) for backbone in bundle.manifest.backbones]


def requirements(bundle: Bundle) -> list[str]:
    """Exact versions of what serves and scores: those the bundle was made with."""
    pins = {"mlflow": version("mlflow"), **bundle.manifest.libraries}
    return [f"{package}=={number}" for package, number in pins.items()]


def _whole_version(
    registry: Registry, name: str, digest: str, names: Sequence[str], inside: str = ""
) -> Version | None:
    """The newest version with this hash that still has the files `names`."""
    for candidate in reversed(registry.versions(name)):
        if candidate.bundle_hash == digest and registry.holds(candidate, names, inside):
            return candidate
    return None


def _register_backbone(registry: Registry, bundle: Bundle, backbone: str) -> Version:
    """The folder of all folds as a version: files to look at and to import again, not a model that scores lesions."""
    name, client, folder = f"isic-image-{backbone}", registry.client, f"image/{backbone}"
    weights = {file: digest for file, digest in bundle.manifest.files.items() if file.startswith(f"{folder}/")}
    digest = sha256_json(weights)
    existing = _whole_version(registry, name, digest, [file.removeprefix(f"{folder}/") for file in weights])
    if existing is not None:
        return existing
    with _opened_run(registry, f"register-{backbone}", digest) as run:
        client.log_artifacts(run, str(bundle.folder / folder), folder)
        _ensure_model(client, name, f"Image networks of backbone {backbone}, one a fold")
        source = f"{client.get_run(run).info.artifact_uri}/{folder}"
        tags = {HASH_TAG: digest, "folds_hash": bundle.manifest.folds_hash}
        created = client.create_model_version(name, source, run, tags=tags)
    return Version(name, int(created.version), digest)


@contextmanager
def _opened_run(registry: Registry, name: str, digest: str) -> Iterator[str]:
    """The run that files are sent under: finished at the end, failed by whatever stops it."""
    client, layout = registry.client, registry.layout
    spec = RunSpec("register", digest, f"{name}-{digest[:8]}", outer=os.environ.get("MLFLOW_RUN_ID"))
    with said(client.tracking_uri):
        run = start(client, layout, spec, run_tags(layout))
        try:
            yield run
        except BaseException:
            finish(client, layout, spec, run, "FAILED")
            raise
        finish(client, layout, spec, run, "FINISHED")


def _ensure_model(client: MlflowClient, name: str, description: str) -> None:
    if not any(model.name == name for model in client.search_registered_models(f"name = '{name}'")):
        client.create_registered_model(name, description=description)


def _add(registry: Registry, bundle: Bundle, name: str) -> Version:
    client, manifest = registry.client, bundle.manifest
    tags = {HASH_TAG: manifest.hash, "data_hash": manifest.data_hash, "folds_hash": manifest.folds_hash}
    with _opened_run(registry, "register", manifest.hash) as run:
        uri, model_id = _log(client.tracking_uri, run, bundle)
        _ensure_model(client, name, "SLICE-3D lesion scores; see the bundle's bundle.json")
        created = client.create_model_version(
            name,
            uri,
            run,
            tags=tags | {"git_commit": manifest.git_commit, "pauc": f"{manifest.metrics['pauc']:.5f}"},
            model_id=model_id,  # a server with auth asks whose model the files are
        )
    return Version(name, int(created.version), manifest.hash)


def _log(store: str, run: str, bundle: Bundle) -> tuple[str, str]:
    """Log the bundle as a pyfunc from code under `run`; returns the model's URI and its id."""
    import mlflow

    package = Path(isic.__file__).parent
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    with mlflow.start_run(run_id=run):
        info = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=str(package / "registry" / "pyfunc.py"),
            artifacts={"bundle": str(bundle.folder)},
            code_paths=[str(package)],
            pip_requirements=requirements(bundle),
            signature=_signature(),
            input_example=_example(),
        )
    return str(info.model_uri), str(info.model_id)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = [
        ColSpec("double" if column in NUMERIC else "string", column, required=column not in MAY_BE_MISSING)
        for column in TEST_COLUMNS
    ]
    scores = Schema([ColSpec("string", ID), ColSpec("double", "target")])
    return ModelSignature(Schema([*columns, ColSpec("string", IMAGE, required=False)]), scores)


def _example() -> pd.DataFrame:
    """One lesion as a request may send it; the values are made up."""
    row: dict[str, object] = {column: 1.0 if column in NUMERIC else "unknown" for column in TEST_COLUMNS}
    return pd.DataFrame([row | {ID: "ISIC_0000000", IMAGE: ""}])
