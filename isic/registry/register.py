"""Register a bundle as a version of the model with alias `challenger`; a bundle is registered only
once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

import isic
from isic.core.io import sha256_json
from isic.core.schema import ID, IDENTITIES, MAY_BE_MISSING, NUMERIC, TEST_COLUMNS
from isic.predict.bundle import Bundle
from isic.predict.manifest import FILE
from isic.predict.requests import IMAGE
from isic.registry.description import from_card, headline
from isic.registry.source import link_networks, log_model_metrics, network_run, stack_run
from isic.registry.versions import (
    BUNDLE,
    CHALLENGER,
    HASH_TAG,
    Registry,
    Version,
    translate_mlflow_errors,
)
from isic.tracking.context import run_tags
from isic.tracking.oof import scalar_metrics
from isic.tracking.runs import RunSpec, finish, flatten, start
from isic.tracking.store import checkout_lock

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

#: Lock file of registration and promotion in a checkout.
LOCK = "mlflow.db.registry-lock"
#: Start of the names of registered models of image networks; the backbone follows.
IMAGE_MODEL = "isic-image-"
#: Metrics that are tags of a version too, so that the table of versions shows them.
_HEADLINE = ("pauc", "pauc_low", "pauc_high", "auc")
#: Script that MLflow copies into a version and runs to load it.
LOADER = Path(__file__).with_name("pyfunc.py")


class Registration(NamedTuple):
    """A registered bundle; `reused` when it already was a version whose files are complete."""

    version: Version
    reused: bool


def register(root: Path, bundle: Bundle, name: str, card: str = "") -> Registration:
    """Make `bundle` a version of model `name` described by `card` (Markdown), with alias
    `challenger`.

    `root` is the checkout whose MLflow store is used.

    Raises InputError when the MLflow store cannot be reached.
    """
    registry = Registry(root)
    with checkout_lock(root, LOCK):
        return make_challenger(registry, bundle, name, card)


def make_challenger(registry: Registry, bundle: Bundle, name: str, card: str = "") -> Registration:
    """`register` without its lock: call with the registry's lock held."""
    existing = _find_complete(
        registry, name, bundle.manifest.hash, [FILE, *bundle.manifest.files], BUNDLE
    )
    challenger = existing or _add(registry, bundle, name, card)
    if card and not registry.description(challenger):
        registry.set_description(challenger, from_card(card))
    registry.set_alias(name, CHALLENGER, challenger.number)
    return Registration(challenger, existing is not None)


def register_backbones(root: Path, bundle: Bundle, of: Version | None = None) -> list[Version]:
    """Make each backbone's folds a version of `isic-image-BACKBONE` with alias `challenger`, unless
    the same weights already are one.

    `of`, the version of the bundle, is tagged with them. Raises InputError when the MLflow store
    cannot be reached.
    """
    registry = Registry(root)
    with checkout_lock(root, LOCK):
        found = [
            _register_backbone(registry, bundle, backbone) for backbone in bundle.manifest.backbones
        ]
        for version in found:
            registry.set_alias(version.name, CHALLENGER, version.number)
        if of is not None:
            registry.tag(of, {version.name: str(version.number) for version in found})
    return found


def requirements(bundle: Bundle) -> list[str]:
    """Exact versions, at the time of building, of the packages for serving and scoring."""
    pins = {"mlflow": version("mlflow"), **bundle.manifest.libraries}
    return [f"{package}=={number}" for package, number in pins.items()]


def _find_complete(
    registry: Registry, name: str, digest: str, names: Sequence[str], inside: str = ""
) -> Version | None:
    """The newest version with this hash whose files `names` all exist."""
    for candidate in reversed(registry.versions(name)):
        if candidate.bundle_hash == digest and registry.has_files(candidate, names, inside):
            return candidate
    return None


def _register_backbone(registry: Registry, bundle: Bundle, backbone: str) -> Version:
    """Register the folder of all folds, for inspection and import. It is not a model that scores
    lesions.
    """
    name, client, folder = f"{IMAGE_MODEL}{backbone}", registry.client, f"image/{backbone}"
    weights = {
        file: digest
        for file, digest in bundle.manifest.files.items()
        if file.startswith(f"{folder}/")
    }
    digest = sha256_json(weights)
    existing = _find_complete(
        registry, name, digest, [file.removeprefix(f"{folder}/") for file in weights]
    )
    if existing is not None:
        return existing

    with open_check(registry, "register", digest, f"register-{backbone}-{digest[:8]}") as check:
        source = network_run(client, bundle, backbone) or stack_run(registry, bundle)
        run = client.get_run(source)
        model_id = _log_networks(client, run, name, bundle.folder / folder)
        _use_store(client.tracking_uri)
        _ensure_model(client, name, f"Image networks of backbone {backbone}, one a fold")
        hashes = {"folds_hash": bundle.manifest.folds_hash, HASH_TAG: digest}
        values = {key: run.data.metrics[key] for key in _HEADLINE if key in run.data.metrics}
        text = ""
        if "pauc" in values:
            text = headline(values, {"folds": hashes["folds_hash"]}, _links([run]), gate=False)
        created = client.create_model_version(
            name,
            f"models:/{model_id}",
            source,
            tags=hashes | {key: f"{value:.5f}" for key, value in values.items()},
            description=text,
            model_id=model_id,
        )
        _log_check(client, check, created, bundle.folder / folder)
    return Version(name, int(created.version), digest)


def _log_networks(client: MlflowClient, run: Run, name: str, folder: Path) -> str:
    """Make the networks in `folder` a model of `run` with its parameters and metrics."""
    from mlflow.entities import LoggedModelOutput

    model = client.create_logged_model(
        run.info.experiment_id, name, run.info.run_id, None, run.data.params, "networks"
    )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
    log_model_metrics(client, run.info.run_id, model.model_id, {})
    return str(model.model_id)


def _log_check(client: MlflowClient, run: str, version: ModelVersion, folder: Path) -> None:
    """Log what was registered to the run of the registration."""
    from mlflow.entities import Metric, RunTag
    from mlflow.utils.time import get_current_time_millis

    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    now = get_current_time_millis()
    values = {"files": len(sizes), "megabytes": sum(sizes) / 2**20}
    tags = {"version": f"{version.name}/{version.version}", "source_run": version.run_id}
    client.log_batch(
        run,
        metrics=[Metric(key, float(value), now, 0) for key, value in values.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


@contextmanager
def open_check(
    registry: Registry,
    family: str,
    digest: str,
    name: str,
    params: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The run, with id, of a registration or a gate: FINISHED at the end, FAILED after an exception.

    Logged by this process, which has MLflow loaded already.
    """
    client, root = registry.client, registry.root
    spec = RunSpec(family, digest, name, outer=os.environ.get("MLFLOW_RUN_ID"))
    with translate_mlflow_errors(client.tracking_uri):
        run = start(client, root, spec, cache(lambda: run_tags(root)), params)
        try:
            yield run
        except BaseException:
            finish(client, root, spec, run, "FAILED")
            raise
        finish(client, root, spec, run, "FINISHED")


def _ensure_model(client: MlflowClient, name: str, description: str) -> None:
    if not any(model.name == name for model in client.search_registered_models(f"name = '{name}'")):
        client.create_registered_model(name, description=description)


def _add(registry: Registry, bundle: Bundle, name: str, card: str) -> Version:
    client, manifest = registry.client, bundle.manifest
    with open_check(registry, "register", manifest.hash, f"register-{manifest.hash[:8]}") as check:
        source = stack_run(registry, bundle)
        uri, model_id = _log(client.tracking_uri, source, bundle)
        log_model_metrics(client, source, model_id, scalar_metrics(manifest.metrics))
        networks = [network_run(client, bundle, backbone) for backbone in manifest.backbones]
        runs = [client.get_run(run) for run in (source, *networks) if run]
        link_networks(client, source, bundle, runs[1:])

        _ensure_model(client, name, "SLICE-3D lesion scores; see the bundle's bundle.json")
        hashes = {"data": manifest.data_hash, "folds": manifest.folds_hash}
        text = headline(manifest.metrics, hashes, _links(runs), gate=True)
        created = client.create_model_version(
            name,
            uri,
            source,
            tags={
                HASH_TAG: manifest.hash,
                "data_hash": manifest.data_hash,
                "folds_hash": manifest.folds_hash,
                "git_commit": manifest.git_commit,
                **{
                    key: f"{manifest.metrics[key]:.5f}"
                    for key in _HEADLINE
                    if isinstance(manifest.metrics.get(key), float)
                },
            },
            description=f"{text}\n\n{from_card(card)}".strip(),
            model_id=model_id,  # a server with authentication needs the owner of the files
        )
        client.set_tag(source, "version", f"{name}/{created.version}")
        _log_check(client, check, created, bundle.folder)
    return Version(name, int(created.version), manifest.hash)


def _links(runs: Sequence[Run]) -> dict[str, str]:
    """Name of each run -> its address below a server's."""
    return {
        str(run.info.run_name): f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        for run in runs
    }


def _log(store: str, run: str, bundle: Bundle) -> tuple[str, str]:
    """Log the bundle as a pyfunc from code under `run`; returns the model's URI and its id."""
    import mlflow

    package = Path(isic.__file__).parent
    _use_store(store)
    with mlflow.start_run(run_id=run):
        info = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=str(LOADER),
            # As a URI, since MLflow takes a path with % or ? for one.
            artifacts={"bundle": bundle.folder.resolve().as_uri()},
            code_paths=[str(package)],
            pip_requirements=requirements(bundle),
            signature=_signature(),
            input_example=_example(bundle.stack.encoder.levels),
            params=flatten(bundle.manifest.params),
        )
    return str(info.model_uri), str(info.model_id)


def _use_store(store: str) -> None:
    """Set this process's store: MLflow looks up the model of a new version there, not at the
    client's.
    """
    import mlflow

    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = [
        ColSpec(
            "double" if column in NUMERIC else "string",
            column,
            required=column not in MAY_BE_MISSING,
        )
        for column in TEST_COLUMNS
    ]
    scores = Schema([ColSpec("string", ID), ColSpec("double", "target")])
    return ModelSignature(Schema([*columns, ColSpec("string", IMAGE, required=False)]), scores)


def _example(levels: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """An example request, two lesions of a patient: made-up values that pass the rules of a row,
    and the first of the `levels` of each category in training.
    """
    row: dict[str, object] = {
        column: 1.0 if column in NUMERIC else next(iter(levels.get(column, ())), "unknown")
        for column in TEST_COLUMNS
    }
    example = pd.DataFrame(
        [row | {ID: name, IMAGE: ""} for name in ("ISIC_0000000", "ISIC_0000001")]
    )
    return example.assign(**{name: formula(example) for name, formula in IDENTITIES.items()})
