"""Kind 4: values stored in bundles and other folders of models, which may come from anyone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.cases_files import predict
from tests.faults.files import edit_bytes, edit_json, edit_manifest, edit_text, sign
from tests.faults.harness import Case

NAN, INFINITE = float("nan"), float("inf")
CONFIG = "image/*/fold0/config.json"


def cases() -> Iterator[Case]:
    yield from _manifests()
    yield from _networks()
    yield from _stackers()
    yield from _boosters()
    yield from _other_libraries()


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a dotted key; `*` stands for the first key."""

    def change(content: dict[str, Any]) -> None:
        *path, last = key.split(".")
        target: Any = content
        for part in path:
            target = next(iter(target.values())) if part == "*" else target[part]
        target[next(iter(target)) if last == "*" else last] = value

    return change


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key)


def _plain(name: str, data: bytes) -> Callable[[Path], None]:
    """Replace a file of the bundle, without renewing any hash."""

    def prepare(folder: Path) -> None:
        (folder / "bundle" / name).write_bytes(data)

    return prepare


def _manifests() -> Iterator[Case]:
    for name, data in {
        "empty": b"",
        "cut": b'{"format": 2, "hash"',
        "a list": b"[]",
        "a number": b"2",
        "null": b"null",
        "binary": bytes(range(256)),
        "UTF-16": '{"format": 2}'.encode("utf-16"),
        "200,000 brackets": b"[" * 200_000,
        "200,000 nested keys": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        "a number of 9,000 digits": b'{"format": ' + b"9" * 9000 + b"}",
        "format NaN": b'{"format": NaN}',
        "format true": b'{"format": true}',
        "format 1.5": b'{"format": 1.5}',
        "format -1": b'{"format": -1}',
        "format 99": b'{"format": 99}',
        "format 1 without keys": b'{"format": 1, "hash": "x"}',
    }.items():
        yield Case(
            4, f"manifest that is {name}", predict(), _plain("bundle.json", data), line="bundle"
        )
    values: dict[str, tuple[Any, ...]] = {
        "folds": ([], [-1], ["0"], [0.5], [0, 0], [0, 7], 3, None, [True, 1], [NAN]),
        "backbones": (
            ["../x"],
            ["/etc"],
            [""],
            ["."],
            [".."],
            [3],
            "vit",
            None,
            ["other"],
            ["a/b"],
        ),
        "families": (["unknown"], [1], None, "raw", []),
        "files": ({}, {"../x.json": "0"}, {"/etc/passwd.json": "0"}, {"a.pkl": "0"}, [], None),
        "metrics": ({"pauc": NAN}, None, [], {"pauc": INFINITE}),
        "params": (None, [], {"stack": 3}, {"stack": {"images": {"embeddings": "distance"}}}),
        "models": (None, 3),
        "features": (None, [1], "all"),
        "libraries": (None, [], {"numpy": 2}),
        "code_hash": (None, 3),
        "format": (None, "2", [2]),
    }
    for key, options in values.items():
        for value in options:
            yield Case(
                4,
                f"manifest with {key} {json.dumps(value)[:40]}",
                predict(),
                edit_manifest(_set(key, value)),
                expected="either" if (key, value) in ((("features"), "all"),) else "refused",
            )
    for key in ("folds", "backbones", "files", "params", "licence", "families"):
        yield Case(4, f"manifest without {key}", predict(), edit_manifest(_drop(key)))
    yield Case(
        4,
        "manifest with a further key",
        predict(),
        edit_manifest(_set("later", {"x": 1})),
        "done",
    )

    def link(folder: Path) -> None:
        file = folder / "bundle" / "calibration.json"
        (folder / "elsewhere.json").write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(folder / "elsewhere.json")

    yield Case(4, "a bundle with a link out of it", predict(), link, line="link")
    for name, model in {
        "absent": "none",
        "a file": "m.csv",
        "empty text": "",
        "a model without version": "models:/isic-2024",
        "a URI of another kind": "s3://x/y",
        "a folder without manifest": ".",
    }.items():
        command = ("isic", "predict", "--model", model, *predict()[4:])
        yield Case(4, f"a bundle that is {name}", command)


def _networks() -> Iterator[Case]:
    values: dict[str, tuple[Any, ...]] = {
        "size": (0, -5, 1_000_000, 48.5, "48", None, True, NAN, [48]),
        "mean": ([0.5], [NAN, 0, 0], ["a", 0, 0], [1e40, 0, 0], None, 0.5, [INFINITE, 0, 0]),
        "std": ([0, 0, 0], [0.2, 0.2], [-1, 1, 1], [NAN, 1, 1], [0.1, 0.1, 0], "x", None),
        "interpolation": ("magic", 3, None, ""),
        "width": (0, -1, 7, 10**9, "64", None),
        "groups": (-1, 3, 10**9, "x"),
        "model": ("none", "", 3, None, "../x", "hf-hub:a/b", "resnet18", "local-dir:/tmp"),
        "model_args": (
            [],
            {"pretrained": True},
            {"checkpoint_path": "/x"},
            {"depth": 10**9},
            {"in_chans": -1},
            {"unknown": 1},
            {"img_size": 0},
            3,
        ),
        "tta": ("magic", None, 3, True),
        "scoring_precision": ("fp8", None, 16),
    }
    for key, options in values.items():
        for value in options:
            yield Case(
                4,
                f"network with {key} {json.dumps(value)[:40]}",
                predict(),
                edit_json(CONFIG, _set(key, value)),
            )
    for name, content in {
        "a list": [],
        "a number": 3,
        "deep": "deep",
        "empty": {},
    }.items():
        yield Case(
            4,
            f"network's config that is {name}",
            predict(),
            edit_json(CONFIG, lambda _, content=content: content),
        )
    weights = "image/*/fold0/model.safetensors"
    for name, change in {
        "cut": lambda data: data[:-1000],
        "empty": lambda data: b"",
        "of zeros": lambda data: b"\0" * 2000,
        "with a huge header": lambda data: (2**62).to_bytes(8, "little") + data[8:],
        "of text": lambda data: b"hello" * 100,
        "of NaN": lambda data: data[:-4000] + b"\xff\xff\xff\x7f" * 1000,
    }.items():
        yield Case(4, f"weights {name}", predict(), edit_bytes(weights, change))


def _stackers() -> Iterator[Case]:
    values: dict[str, tuple[Any, ...]] = {
        "format": (1, 99, None, "2", NAN, True),
        "columns": ({}, {"a": "raw"}, None, [], {"a": 3}),
        "numeric": ([], ["a"], None, "x", [3]),
        "levels": ({}, None, {"sex": []}, {"sex": [3]}, {"sex": "male"}),
        "images": (None, {}, {"scale": "x"}, {"noise": NAN}),
        "images.embeddings": ("aligned", "distance", 3),
        "images.components": (0, -1, 10**9),
        "chains": ({}, None, [], {"x": {}}, {"0": {}}, {"-1": None}),
        "chains.0.offset": (NAN, INFINITE, None, "1", [1], 1e300),
        "chains.0.members": ({}, {"none": []}, {"lightgbm": []}, {"lightgbm": ["../x.txt"]}, None),
        "chains.0.members.lightgbm": (
            ["/etc/hostname"],
            ["nothing.txt"],
            [3],
            [".."],
            [""],
            ["stack.json"],
        ),
        "chains.0.scales": ({}, None, {"other": {"mean": 0, "sd": 1}}),
        "chains.0.scales.*.sd": (0, -1, NAN, INFINITE, None, "1"),
        "chains.0.scales.*.mean": (NAN, INFINITE, None, "x", 1e300),
        "chains.0.scales.*.knots": ([NAN], ["x"], [1.0, 0.0], None, 3),
        "chains.0.blend": (
            None,
            {},
            {"weights": {}, "references": {}},
            {"weights": {"lightgbm": NAN}, "references": {}},
        ),
        "chains.0.blend.weights": (
            {"xgboost": 1.0},
            {"lightgbm": INFINITE},
            {"lightgbm": "1"},
            {"a": 1, "b": 1},
        ),
        "chains.0.fitted": ({"unknown": {}}, None, [], {"encoding": {}}, {"kmeans": {"x": 1}}),
        "metrics": (None, [], 3),
    }
    for key, options in values.items():
        for value in options:
            # A standard deviation of 0 is what one fold of equal logits gives.
            fine = (key.endswith(".sd") and value == 0) or key == "images.components"
            yield Case(
                4,
                f"stacker with {key} {json.dumps(value)[:40]}",
                predict(),
                edit_json("stack/stack.json", _set(key, value)),
                "either" if fine else "refused",
            )
    for name, content in {"a list": [], "null": None, "text": "stack"}.items():

        def prepare(folder: Path, content: Any = content) -> None:
            (folder / "bundle" / "stack" / "stack.json").write_text(json.dumps(content))
            sign(folder / "bundle")

        yield Case(4, f"stacker that is {name}", predict(), prepare)
    yield Case(
        4,
        "stacker without fold 1",
        predict(),
        edit_json("stack/stack.json", lambda content: content["chains"].pop("1") and None),
    )
    yield Case(
        4,
        "stacker of exchanged boosters",
        predict(),
        edit_text(
            "stack/fold0-lightgbm-0.txt",
            lambda text: text.replace("feature_names=", "feature_names=x ", 1),
        ),
    )


def _booster(change: Callable[[str], str]) -> Callable[[Path], None]:
    return edit_text("stack/fold0-lightgbm-0.txt", change)


def _field(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    """Change the values of a field of the first tree that has more than two."""

    def edit(text: str) -> str:
        pattern = re.compile(rf"^{name}=(\S+ \S+ .*)$", re.MULTILINE)
        return pattern.sub(
            lambda found: f"{name}={' '.join(change(found[1].split()))}", text, count=1
        )

    return edit


def _boosters() -> Iterator[Case]:
    for share in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        yield Case(
            4,
            f"booster cut at {share:.0%}",
            predict(),
            _booster(lambda text, share=share: text[: int(len(text) * share)]),
            "either" if share > 0.95 else "refused",  # only the training parameters are lost
        )
    for seed in range(8):

        def noise(text: str, seed: int = seed) -> str:
            random = np.random.default_rng(seed)
            at = int(random.integers(len(text) * 9 // 10))
            length = int(random.integers(1, 400))
            return (
                text[:at]
                + "".join(map(chr, random.integers(32, 127, length)))
                + text[at + length :]
            )

        yield Case(4, f"booster with noise {seed}", predict(), _booster(noise))
    fields = (
        "split_feature",
        "split_gain",
        "threshold",
        "decision_type",
        "left_child",
        "right_child",
        "leaf_value",
        "leaf_weight",
        "leaf_count",
        "internal_value",
        "internal_weight",
        "internal_count",
    )
    for name in fields:
        yield Case(
            4,
            f"booster with too few {name}",
            predict(),
            _booster(_field(name, lambda values: values[:-1])),
        )
        yield Case(
            4,
            f"booster with words in {name}",
            predict(),
            _booster(_field(name, lambda values: ["x", *values[1:]])),
        )
    for name, value in (
        ("split_feature", "99999"),
        ("split_feature", "-1"),
        ("left_child", "0"),
        ("left_child", "99999"),
        ("left_child", "-99999"),
        ("right_child", "0"),
        ("right_child", "-99999"),
        ("leaf_value", "nan"),
        ("leaf_value", "inf"),
        ("leaf_value", "1e400"),
        ("threshold", "nan"),
        ("decision_type", "1"),
        ("decision_type", "255"),
    ):
        yield Case(
            4,
            f"booster with {name} {value}",
            predict(),
            _booster(_field(name, lambda values, value=value: [value, *values[1:]])),
        )
    for name, pattern, value in (
        ("no tree sizes", r"^tree_sizes=.*\n", ""),
        ("wrong tree sizes", r"^tree_sizes=\d+", "tree_sizes=7"),
        ("no classes", r"^num_class=1$", "num_class=0"),
        ("9 classes", r"^num_class=1$", "num_class=9"),
        ("another objective", r"^objective=.*$", "objective=multiclass num_class:3"),
        ("no objective", r"^objective=.*\n", ""),
        ("-1 leaves", r"^num_leaves=\d+", "num_leaves=-1"),
        ("0 leaves", r"^num_leaves=\d+", "num_leaves=0"),
        ("a billion leaves", r"^num_leaves=\d+", "num_leaves=1000000000"),
        ("categories", r"^num_cat=0", "num_cat=3"),
        ("linear leaves", r"^is_linear=0", "is_linear=1"),
        ("fewer columns", r"^max_feature_idx=\d+", "max_feature_idx=3"),
        ("more columns", r"^max_feature_idx=\d+", "max_feature_idx=999999999"),
        ("a shrinkage of nan", r"^shrinkage=.*$", "shrinkage=nan"),
    ):
        yield Case(
            4,
            f"booster with {name}",
            predict(),
            _booster(
                lambda text, pattern=pattern, value=value: re.sub(
                    pattern, value, text, count=1, flags=re.MULTILINE
                )
            ),
            "either"
            if name in ("a shrinkage of nan", "no objective", "another objective")
            else "refused",
        )


def _other_library(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A preparation that lets a small model of `name` replace the first fold's, and changes it."""

    def prepare(folder: Path) -> None:
        from isic.stack.members import library
        from isic.stack.members.base import MemberTask, Pool

        stack = folder / "bundle" / "stack"
        content = json.loads((stack / "stack.json").read_text())
        chain = content["chains"]["0"]
        random = np.random.default_rng(0)
        params = {"max_depth" if name == "xgboost" else "depth": 3}
        members: dict[str, list[str]] = {}
        for part, files in chain["members"]["lightgbm"].items():
            for file in files or ():
                (stack / file).unlink()
            names = content["lesion_columns" if part == "lesion" else "columns"]
            columns = {column: random.normal(size=200).astype(np.float32) for column in names}
            target = (next(iter(columns.values())) > 0).astype(np.int8)
            task = MemberTask(Pool(columns, target, 32), np.arange(200), params, 4, 0)
            file = f"fold0-{name}-{part}-0{library(name).suffix}"
            library(name).save(library(name).train(task), stack / file)
            members[part] = [file]
        chain["members"], chain["blend"]["weights"] = {name: members}, {name: 1.0}
        (stack / "stack.json").write_text(json.dumps(content))
        changed = stack / members["whole"][0]
        changed.write_bytes(change(changed.read_bytes()))
        sign(folder / "bundle")

    return prepare


def _other_libraries() -> Iterator[Case]:
    def put(place: float, data: bytes) -> Callable[[bytes], bytes]:
        def change(model: bytes) -> bytes:
            start = int(len(model) * place)
            return model[:start] + data + model[start + len(data) :]

        return change

    def number(key: str, value: str) -> Callable[[bytes], bytes]:
        pattern = rf'("{key}":\[?"?)[^,\]"]+'.encode()
        return lambda model: re.sub(pattern, rb"\g<1>" + value.encode(), model, count=1)

    changes: dict[str, dict[str, Callable[[bytes], bytes]]] = {
        "xgboost": {
            f"{key} {value}": number(key, value)
            for key, value in (
                ("left_children", "99999"),
                ("left_children", "0"),
                ("right_children", "-2"),
                ("split_indices", "99999"),
                ("split_conditions", "1e99"),
                ("base_weights", "NaN"),
                ("num_trees", "9"),
                ("num_nodes", "-1"),
                ("num_feature", "1"),
                ("num_class", "3"),
                ("base_score", "7"),
                ("tree_info", "5"),
                ("iteration_indptr", "4"),
            )
        },
        "catboost": {
            f"{len(data)} bytes of {data[0]} at {place:.0%}": put(place, data)
            for place in (0.0, 0.002, 0.3, 0.6, 0.95)
            for data in (b"\xff" * 4, b"\x00" * 64)
        },
    }
    for name, edits in changes.items():
        yield Case(
            4,
            f"member of {name}",
            predict(),
            _other_library(name, lambda model: model),
            "done",
        )
        for share in (0.0, 0.5, 0.99):
            yield Case(
                4,
                f"member of {name} cut at {share:.0%}",
                predict(),
                _other_library(name, lambda model, share=share: model[: int(len(model) * share)]),
            )
        for text, change in edits.items():
            # Lengths of a tree are counted anew, not read.
            refused = name == "xgboost" and not text.startswith(("num_nodes", "num_feature"))
            yield Case(
                4,
                f"member of {name} with {text}",
                predict(),
                _other_library(name, change),
                "refused" if refused else "either",
            )
