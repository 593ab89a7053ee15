"""Edits of params.yaml that keep comments and order, and return the difference."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isic.core.errors import InputError
from isic.core.io import atomic_file
from isic.core.params import check_params
from isic.core.yaml_files import parse_yaml, read_yaml


def overlay(text: str, values: Mapping[str, Any]) -> str:
    """`text` (YAML) with `values` laid over it, comments kept.

    Mappings merge key by key; anything else replaces. A mapping written `{__replace__: …}` replaces
    as a whole, for a preset that replaces the demo's backbones.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    # As DVC writes it, so that neither changes the lines of the other.
    yaml.default_flow_style = False
    document = yaml.load(text)
    _merge(document, values)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _merge(document: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and "__replace__" in value:
            document[key] = value["__replace__"]
        elif isinstance(value, Mapping) and isinstance(document.get(key), Mapping):
            _merge(document[key], value)
        elif isinstance(value, list | tuple) and list(document.get(key) or ()) == list(value):
            continue  # kept with its comments, however it is written
        else:
            document[key] = list(value) if isinstance(value, tuple) else value


def write_overlay(path: Path, values: Mapping[str, Any]) -> str:
    """Lay `values` over the params file at `path` and return the unified diff ("" if nothing
    changed).

    The result is checked before it is written: InputError, and the old file untouched, when it is
    not valid.
    """
    if not isinstance(read_yaml(path), dict):
        raise InputError(
            f"{path} holds no keys: take the committed file back (git checkout {path.name})"
        )
    content = path.read_bytes().decode("utf-8-sig")
    before = content.replace("\r\n", "\n")
    after = overlay(before, values)
    check_params(parse_yaml(after, f"{path} with the new values"), f"{path} with the new values")
    if after != before:
        with atomic_file(path) as temporary:
            newline = "\r\n" if "\r\n" in content else "\n"
            temporary.write_text(after, encoding="utf-8", newline=newline)
    lines = difflib.unified_diff(
        before.splitlines(True), after.splitlines(True), str(path.name), str(path.name), n=1
    )
    return "".join(lines)


def preset_names(folder: Path) -> list[str]:
    """Names of the presets in `folder`."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def apply_preset(path: Path, folder: Path, name: str) -> str:
    """Lay preset `name` of `folder` over the params file at `path`; returns the diff.

    Raises InputError for an unknown name, listing the known ones.
    """
    known = preset_names(folder)
    if name not in known:
        raise InputError(f"no preset {name!r} in {folder}: choose one of {', '.join(known)}")
    return write_overlay(path, read_yaml(folder / f"{name}.yaml"))
