"""`make check` on the files of this folder, without containers or a cluster.

The compose file is checked against the Compose specification's schema, which the package check-jsonschema ships; core
Kubernetes objects and the pod templates inside Ray's against Kubernetes' own strict schemas, from kubernetes-validate.
The schemas of KubeRay's RayCluster and RayJob come in no package: `kuberay.schema.json` here is our own writing of the
fields that KubeRay's API v1 documents, refusing all others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from isic.core.errors import InputError, run

HERE = Path(__file__).parent
KUBERNETES = "1.34"
#: What is secret must come from outside: these names may only refer to it.
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|KEY$")


def main() -> None:
    """Raise InputError naming the first file, place and fault."""
    check_compose(HERE / "compose.yaml")
    for path in sorted((HERE / "kubernetes").glob("*.yaml")):
        check_kubernetes(path)


def check_compose(path: Path) -> None:
    """The specification's schema, images with exact versions, secrets from the environment, a check of every server."""
    document = _load(path)
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    _validate(path, document, schema)
    for name, service in document["services"].items():
        _pinned(path, service["image"])
        if "restart" in service and "healthcheck" not in service:
            raise InputError(f"{path.name}: service {name} has no healthcheck")
        for variable, value in service.get("environment", {}).items():
            if _SECRET_NAME.search(variable) and not str(value).startswith("${"):
                raise InputError(f"{path.name}: {variable} of service {name} is written out: take it from .env")
        for named in re.findall(r"\$\{(\w+):\?", json.dumps(service)):
            if not re.search(rf"^{named}=$", (HERE / ".env.example").read_text(), re.MULTILINE):
                raise InputError(f"{path.name}: {named} is not in .env.example, or has a value there")


def check_kubernetes(path: Path) -> None:
    """Every document of a file against the schema of its kind."""
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if str(document.get("apiVersion", "")).startswith("ray.io/"):
            _validate(path, document, json.loads((HERE / "kuberay.schema.json").read_text()))
            for place, template in _templates(document):
                pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
                _kubernetes(path, pod, place)
                for container in template["spec"]["containers"]:
                    _pinned(path, container["image"])
        else:
            _kubernetes(path, document, "")
        if document["kind"] == "Secret" and any(
            value for name, value in document["stringData"].items() if _SECRET_NAME.search(name)
        ):
            raise InputError(f"{path.name}: the example holds a secret")


def _templates(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Pod templates anywhere in a document, with where they are."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("template", "submitterPodTemplate"):
                yield f"{place}.{key}", value
            else:
                yield from _templates(value, f"{place}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _templates(value, f"{place}[{number}]")


def _kubernetes(path: Path, document: dict[str, Any], place: str) -> None:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        raise InputError(f"{path.name}: {place} {where}: {error.message}") from error


def _validate(path: Path, document: Any, schema: dict[str, Any]) -> None:
    from jsonschema import validators

    validator = validators.validator_for(schema)
    fault = next(iter(sorted(validator(schema).iter_errors(document), key=lambda one: len(one.path))), None)
    if fault is not None:
        where = ".".join(str(part) for part in fault.path) or "top level"
        raise InputError(f"{path.name}: {where}: {fault.message[:200]}")


def _pinned(path: Path, image: str) -> None:
    if not re.search(r":v?\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", image):
        raise InputError(f"{path.name}: image {image} has no exact version")


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main)
