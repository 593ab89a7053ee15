"""Check of XGBoost's JSON before XGBoost reads it: it trusts the indices of children and columns, and
a wrong one ends the process.

Written are models of one class, numerical splits and constant leaves; no other is accepted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from isic.core.io import parse_json

#: Index of the parent of a root, and of the column of a node that pruning deleted.
_NONE = 2**31 - 1
_LARGEST_FLOAT = 3.4e38


def check_json(data: bytes, columns: Sequence[str]) -> bytearray:
    """The parts of a model's JSON that score.

    Raises ValueError, with the reason, unless `data` is a whole model of these columns.
    """
    try:
        return _check(parse_json(data), columns)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"a part is absent or of another type: {error}") from None


def _check(content: Any, columns: Sequence[str]) -> bytearray:
    learner = content["learner"]
    booster, objective = learner["gradient_booster"], learner["objective"]
    model, number = booster["model"], len(booster["model"]["trees"])
    param = learner["learner_model_param"]
    size = str(len(columns))
    score = float(param["base_score"].strip("[]"))
    expected = {
        "feature_names": (learner["feature_names"], list(columns)),
        "objective": (objective["name"], "binary:logistic"),
        "booster": (booster["name"], "gbtree"),
        "num_feature": (param["num_feature"], size),
        "num_class": (param["num_class"], "0"),
        "num_target": (param["num_target"], "1"),
        "num_parallel_tree": (model["gbtree_model_param"]["num_parallel_tree"], "1"),
        "num_trees": (model["gbtree_model_param"]["num_trees"], str(number)),
        "iteration_indptr": (model["iteration_indptr"], list(range(number + 1))),
        "tree_info": (model["tree_info"], [0] * number),
        "base_score": (0 < score < 1, True),
        "version": (re.fullmatch(r"(\d{1,3} ){3}", f"{_text(content['version'])} ") is None, False),
    }
    wrong = [name for name, (found, wanted) in expected.items() if found != wanted]
    if wrong:
        raise ValueError(f"its {wrong[0]} is not that of a stacker of {size} columns")
    weight = _floats([float(objective["reg_loss_param"]["scale_pos_weight"])], "scale_pos_weight")
    trees = []
    for index, tree in enumerate(model["trees"]):
        try:
            trees.append(_tree(tree, index, len(columns)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"tree {index}: {error}") from None
    checked = {
        "learner": {
            "attributes": {},
            "feature_names": list(columns),
            "feature_types": [],
            "gradient_booster": {
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(number)},
                    "iteration_indptr": model["iteration_indptr"],
                    "tree_info": model["tree_info"],
                    "trees": trees,
                },
                "name": "gbtree",
            },
            "learner_model_param": {
                "base_score": param["base_score"],
                "boost_from_average": "1",
                "num_class": "0",
                "num_feature": size,
                "num_target": "1",
            },
            "objective": {
                "name": "binary:logistic",
                "reg_loss_param": {"scale_pos_weight": repr(weight[0])},
            },
        },
        "version": content["version"],
    }
    return bytearray(json.dumps(checked, separators=(",", ":")).encode())


def _text(version: list[int]) -> str:
    return " ".join(map(str, version))


def _tree(tree: Mapping[str, Any], index: int, columns: int) -> dict[str, Any]:
    left, right = (_integers(tree[f"{side}_children"], side) for side in ("left", "right"))
    splits = _integers(tree["split_indices"], "split_indices")
    nodes = len(left)
    defaults = _integers(tree["default_left"], "default_left")
    names = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")
    floats = {name: _floats(tree[name], name) for name in names}
    lengths = {len(right), len(splits), len(defaults), *map(len, floats.values())}
    if not nodes or lengths != {nodes}:
        raise ValueError("its lists have other lengths")
    if set(tree["split_type"]) - {0} or tree["categories_nodes"]:
        raise ValueError("it splits by category")

    parents = [_NONE] * nodes
    reached, waiting = {0}, [0]
    while waiting:
        node = waiting.pop()
        children = (left[node], right[node])
        if children == (-1, -1):
            continue
        if not 0 <= splits[node] < columns or defaults[node] not in (0, 1):
            raise ValueError("it splits by a column that there is not")
        if floats["sum_hessian"][node] <= 0:
            raise ValueError("it splits no row")
        for child in children:
            if not 0 < child < nodes or child in reached or floats["sum_hessian"][child] < 0:
                raise ValueError("it is no tree")
            reached.add(child)
            parents[child] = node
            waiting.append(child)
    deleted = [node for node in range(nodes) if node not in reached]
    if any(splits[node] != _NONE for node in deleted):
        raise ValueError("it has nodes without a parent")
    for node in deleted:
        left[node] = right[node] = -1
    return {
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": defaults,
        "id": index,
        "left_children": left,
        "parents": parents,
        "right_children": right,
        "split_indices": splits,
        "split_type": [0] * nodes,
        "tree_param": {
            "num_deleted": str(len(deleted)),
            "num_feature": str(columns),
            "num_nodes": str(nodes),
            "size_leaf_vector": "1",
        },
        **floats,
    }


def _integers(values: Any, name: str) -> list[int]:
    if not all(type(value) is int and -1 <= value <= _NONE for value in values):
        raise ValueError(f"{name} holds no index")
    return list(values)


def _floats(values: Any, name: str) -> list[float]:
    numbers = [float(value) for value in values if type(value) in (int, float)]
    if len(numbers) != len(values) or not all(
        math.isfinite(number) and abs(number) < _LARGEST_FLOAT for number in numbers
    ):
        raise ValueError(f"{name} holds no finite number")
    return numbers
