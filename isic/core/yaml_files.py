"""YAML 1.2 as DVC reads and writes it, without what a file from anyone could use against its reader.

PyYAML alone reads YAML 1.1: there `1e-05` is text, `no` a boolean, `010` eight and `1:30` ninety.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from isic.core.errors import InputError

#: Nodes of a document with every alias followed, and its depth: beyond any file of parameters.
_MOST_NODES, _MOST_LEVELS = 100_000, 100


class _Loader(yaml.SafeLoader):
    """Safe loader of YAML 1.2's core schema that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key `{key}` is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file; InputError when it is missing, or as `parse_yaml`."""
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path} not found: run this inside a checkout of the project") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML safely; InputError when it is not YAML, has a key twice in one mapping, refers to
    itself, or is larger than parameters are.
    """
    try:
        document = yaml.load(text, _Loader)
        _count(document, 0, 0)
    except RecursionError:
        raise InputError(f"{where} is not valid YAML: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    return document


def _count(value: Any, seen: int, level: int) -> int:
    """Nodes of `value` and the `seen` ones; ValueError when they are too many or too deep."""
    if level > _MOST_LEVELS or seen > _MOST_NODES:
        raise ValueError("its aliases or levels have no end")
    if isinstance(value, Mapping | list | tuple | set):
        parts = value.values() if isinstance(value, Mapping) else value
        for part in parts:
            seen = _count(part, seen, level + 1)
    return seen + 1
