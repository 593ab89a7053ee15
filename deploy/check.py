"""Check the files of this folder without containers or a cluster; called by `make check`.

Schemas: of the compose file, the Compose specification's from check-jsonschema; of core Kubernetes
objects and Ray's pod templates, Kubernetes' strict ones from kubernetes-validate. No package has
the schemas of KubeRay's RayCluster and RayJob: `kuberay.schema.json` allows the fields documented
in KubeRay's API v1 and no others.
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
#: Names of variables with secrets: their values must be references to the environment.
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|KEY$")


def main() -> None:
    """Raise InputError with file, path and message of the first error."""
    check_compose(HERE / "compose.yaml")
    for path in sorted((HERE / "kubernetes").glob("*.yaml")):
        check_kubernetes(path)


def check_compose(path: Path) -> None:
    """Check the schema, exact image versions, secrets from the environment, and health checks of
    the servers.
    """
    document = _load(path)
    schema = json.loads(
        (files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text()
    )
    _validate(path, document, schema)
    for name, service in document["services"].items():
        _pinned(path, service["image"])
        if "restart" in service and "healthcheck" not in service:
            raise InputError(f"{path.name}: service {name} has no healthcheck")
        for variable, value in service.get("environment", {}).items():
            if _SECRET_NAME.search(variable) and not str(value).startswith("${"):
                raise InputError(
                    f"{path.name}: {variable} of service {name} has a literal value: take it from"
                    " .env"
                )
        for required in re.findall(r"\$\{(\w+):\?", json.dumps(service)):
            if not re.search(rf"^{required}=$", (HERE / ".env.example").read_text(), re.MULTILINE):
                raise InputError(
                    f"{path.name}: {required} is missing in .env.example, or has a value there"
                )


def check_kubernetes(path: Path) -> None:
    """Check every document of a file with the schema of its kind."""
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if str(document.get("apiVersion", "")).startswith("ray.io/"):
            _validate(path, document, json.loads((HERE / "kuberay.schema.json").read_text()))
            for location, template in _templates(document):
                pod = {
                    "apiVersion": "v1",
                    "kind": "PodTemplate",
                    "metadata": {"name": "pod"},
                    "template": template,
                }
                _kubernetes(path, pod, location)
                for container in template["spec"]["containers"]:
                    _pinned(path, container["image"])
        else:
            _kubernetes(path, document, "")
        if document["kind"] == "Secret" and any(
            value for name, value in document["stringData"].items() if _SECRET_NAME.search(name)
        ):
            raise InputError(f"{path.name}: the example contains a secret")


def _templates(node: Any, location: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Pod templates anywhere in a document, with their location."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("template", "submitterPodTemplate"):
                yield f"{location}.{key}", value
            else:
                yield from _templates(value, f"{location}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _templates(value, f"{location}[{index}]")


def _kubernetes(path: Path, document: dict[str, Any], location: str) -> None:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        raise InputError(f"{path.name}: {location} {where}: {error.message}") from error


def _validate(path: Path, document: Any, schema: dict[str, Any]) -> None:
    from jsonschema import validators

    validator = validators.validator_for(schema)
    first = next(
        iter(sorted(validator(schema).iter_errors(document), key=lambda error: len(error.path))),
        None,
    )
    if first is not None:
        where = ".".join(str(part) for part in first.path) or "top level"
        raise InputError(f"{path.name}: {where}: {first.message[:200]}")


def _pinned(path: Path, image: str) -> None:
    if not re.search(r":v?\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", image):
        raise InputError(f"{path.name}: image {image} has no exact version")


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main)
