"""Check of LightGBM's model text before LightGBM reads it.

LightGBM 4.7 reads trees in threads that end the process at a malformed one, and follows children in
circles without end. Written are models of one class, numerical splits and constant leaves; no other
is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite, isnan
from typing import Any

#: Keys of the text before the first tree; `feature_infos` holds each column's range.
_HEADER = {
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "feature_infos",
    "tree_sizes",
}
#: Lists of a tree by their length, of whole numbers and of others.
_OF_SPLITS = {
    "split_feature": int,
    "split_gain": float,
    "threshold": float,
    "decision_type": int,
    "left_child": int,
    "right_child": int,
    "internal_value": float,
    "internal_weight": float,
    "internal_count": int,
}
_OF_LEAVES = {"leaf_value": float, "leaf_weight": float, "leaf_count": int}
#: Bit 2: missing values go left. Bits 4 and 8: what counts as missing. Bit 1, a split by category,
#: is not used.
_DECISIONS = frozenset((0, 2, 4, 6, 8, 10))
_INT64 = range(-(1 << 63), 1 << 63)


def check_text(data: bytes, columns: Sequence[str]) -> str:
    """The part of a model's text that scores: header and trees, without the training parameters.

    Raises ValueError, with the reason, unless `data` is a whole model of these columns.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("it is not ASCII text") from None
    head, _, body = text.partition("\n\n")
    header = _fields(head.removeprefix("tree\n"))
    if not head.startswith("tree\n") or header.keys() != _HEADER:
        raise ValueError("its header is not complete")
    known = {
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "max_feature_idx": str(len(columns) - 1),
        "feature_names": " ".join(columns),
    }
    wrong = [key for key, value in known.items() if header[key] != value]
    if wrong:
        raise ValueError(f"its {wrong[0]} is of other columns than the stacker")
    if not re.fullmatch(r"binary sigmoid:\d+(\.\d+)?", header["objective"]):
        raise ValueError("its objective is not binary")
    if len(header["feature_infos"].split(" ")) != len(columns):
        raise ValueError("its feature_infos are incomplete")

    listed = header["tree_sizes"]
    sizes = _numbers("tree_sizes", listed, int) if listed else []
    start = 0
    for number, size in enumerate(sizes):
        tree = body[start : start + size]
        start += size
        if size < 1 or len(tree) < size or not tree.startswith(f"Tree={number}\n"):
            raise ValueError(f"its tree {number} is not where its header has it")
        try:
            _check_tree(_fields(tree.partition("\n")[2]), len(columns))
        except (ValueError, KeyError) as error:
            raise ValueError(f"tree {number}: {error}") from None
    end = "end of trees\n"
    if not body[start:].startswith(end):
        raise ValueError("it does not end where its header has it")
    return f"{head}\n\n{body[:start]}{end}"


def _fields(text: str) -> dict[str, str]:
    pairs = [line.partition("=") for line in text.split("\n") if line]
    fields = {name: value for name, _, value in pairs}
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice")
    return fields


def _check_tree(tree: dict[str, str], columns: int) -> None:
    if tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError("it splits by category or has linear leaves")
    leaves = int(_numbers("num_leaves", tree["num_leaves"], int)[0])
    if not 1 <= leaves <= 1 << 20:
        raise ValueError(f"it has {leaves} leaves")
    _numbers("shrinkage", tree["shrinkage"], float)
    if leaves == 1:
        _list(tree, "leaf_value", float, 1)
        return

    lists = {name: _list(tree, name, kind, leaves - 1) for name, kind in _OF_SPLITS.items()}
    for name, kind in _OF_LEAVES.items():
        _list(tree, name, kind, leaves)
    features = lists["split_feature"]
    if min(features) < 0 or max(features) >= columns:
        raise ValueError("it splits by a column that there is not")
    if not _DECISIONS.issuperset(lists["decision_type"]):
        raise ValueError("it has a split of an unknown kind")
    # Nodes are numbered as they were made, below their parents; leaf n is -1 - n.
    children = [lists["left_child"], lists["right_child"]]
    if any(0 <= child <= parent for side in children for parent, child in enumerate(side)):
        raise ValueError("a child comes before its parent")
    if sorted([*children[0], *children[1]]) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise ValueError("it is no tree")


def _list(tree: dict[str, str], name: str, kind: type[float], length: int) -> list[Any]:
    values = _numbers(name, tree[name], kind)
    if len(values) != length:
        raise ValueError(f"{name} has {len(values)} values, not {length}")
    return values


def _numbers(name: str, text: str, kind: type[float]) -> list[Any]:
    # Lists: for the few values of a tree, arrays take longer than the reading.
    try:
        values = [*map(kind, text.split(" "))]
    except ValueError:
        raise ValueError(f"{name} holds a word") from None
    if kind is int:
        if min(values) not in _INT64 or max(values) not in _INT64:
            raise ValueError(f"{name} holds a number of more than 64 bits")
    # A split between missing and all other values has an infinite threshold.
    elif not all(map(isfinite, values)) and (name != "threshold" or any(map(isnan, values))):
        raise ValueError(f"{name} is not finite")
    return values
