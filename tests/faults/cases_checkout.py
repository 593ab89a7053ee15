"""Kinds 5 to 7: params.yaml, tables and JSON of a checkout, the MLflow store, append-only files."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from isic.tracking import pipe
from tests.faults.harness import Case, Expected

PRESET = ("isic", "preset", "full")
PROMOTE = ("isic", "promote")
HISTORY = ("isic", "history")
ROLLBACK = ("isic", "rollback")
CHAMPION = (
    *("isic", "predict", "--model", "models:/isic-2024@champion", "--out", "out.csv"),
    *("--metadata", "data/raw/test-metadata.csv", "--images", "data/raw/test-image.hdf5"),
)

Prepare = Callable[[Path], Any]


def cases() -> Iterator[Case]:
    yield from _params()
    yield from _stage_inputs()
    yield from _stores()
    yield from _read_only()
    yield from _environments()
    yield from _journals()


def _write(name: str, data: bytes | str) -> Prepare:
    def prepare(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return prepare


def _replace(name: str, old: str, new: str) -> Prepare:
    def prepare(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text, (name, old)
        (folder / name).write_text(text.replace(old, new, 1))

    return prepare


# --- 5: params.yaml


def _params() -> Iterator[Case]:
    bad = {
        "empty": "",
        "a list": "- 1\n",
        "text": "hello\n",
        "a number": "3\n",
        "binary": bytes(range(256)),
        "UTF-16": "a: 1".encode("utf-16"),
        "brackets": "[" * 60_000,
        "a tab": "\ta: 1\n",
        "a loop": "a: &a [*a]\n",
        "a bomb": "a0: &a0 [x,x]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "Python": "a: !!python/object/apply:os.system [true]\n",
        "a date that is none": "a: !!timestamp 2024-99-99\n",
        "of two documents": "a: 1\n---\nb: 2\n",
    }
    commands = {
        "preset": PRESET,
        "stage folds with": ("stage", "folds"),
        "stage train_image with": ("stage", "train_image", "--backbone", "convnext", "--fold", "0"),
    }
    for name, data in bad.items():
        for verb, command in commands.items():
            if verb != "history of":
                yield Case(
                    5,
                    f"{verb} params.yaml that is {name}",
                    command,
                    _write("params.yaml", data),
                    base="checkout",
                )
    values = {
        "seed: 0": ("-1", "1.5", "x", "true", "2147483648", ".nan", ".inf", "[1]", ""),
        "num_leaves: 12": ("0", "1", "99999", "'12'", "1e99"),
        "learning_rate: 0.05": ("0", "-1", ".inf", "nan", "null"),
        "source: sample": ("folder", "both", "no", "3"),
        "blend: rank": ("yes", "weights2"),
        "model: isic-2024": ("null", "3", "[a]"),
    }
    for line, options in values.items():
        key = line.split(":")[0]
        for value in options:
            yield Case(
                5,
                f"stage folds with {key} of {value or 'nothing'}",
                ("stage", "folds"),
                _replace("params.yaml", line, f"{key}: {value}"),
                base="checkout",
                line="params.yaml",
            )
    for key, value in {
        "num_leaves: 12": "1.2e1",
        "seed: 0": "0o0",
        "learning_rate: 0.05": "5e-2",
    }.items():
        name = key.split(":")[0]
        yield Case(
            5,
            f"preset over {name} of {value}",
            PRESET,
            _replace("params.yaml", key, f"{name}: {value}"),
            "done",
            base="checkout",
        )
    for name in ("", "../full", "full.yaml", "/etc/passwd", "none", "a\0b"):
        yield Case(5, f"preset called {name!r}", ("isic", "preset", name), base="checkout")
    yield Case(5, "a preset twice", PRESET, lambda _: None, "done", base="checkout")
    yield Case(5, "a preset outside of a checkout", PRESET, base="empty")


# --- tables and JSON between the stages


def _frame(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Prepare:
    def prepare(folder: Path) -> None:
        change(pd.read_parquet(folder / name)).to_parquet(folder / name)

    return prepare


def _stage_inputs() -> Iterator[Case]:
    damage: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda data: b"",
        "cut": lambda data: data[: len(data) // 2],
        "of noise": lambda data: b"PAR1" + bytes(range(256)) * 4 + b"PAR1",
        "of text": lambda data: b"a,b\n1,2\n",
    }
    tables = {
        "data/folds.parquet": ("stage", "embed", "--backbone", "convnext", "--fold", "0"),
        "data/features/train.parquet": ("stage", "stack"),
        "data/embeddings/convnext/fold0.parquet": ("stage", "stack"),
        "data/oof/stack.parquet": ("stage", "evaluate"),
    }
    for table, command in tables.items():
        for name, change in damage.items():

            def prepare(folder: Path, table: str = table, change: Any = change) -> None:
                path = folder / table
                path.write_bytes(change(path.read_bytes()))

            yield Case(4, f"{table} {name}", command, prepare, base="checkout")
        yield Case(
            4,
            f"{table} absent",
            command,
            lambda folder, table=table: (folder / table).unlink(),
            base="checkout",
        )
        yield Case(
            4,
            f"{table} without its first column",
            command,
            _frame(table, lambda frame: frame.iloc[:, 1:]),
            base="checkout",
        )
        yield Case(
            4,
            f"{table} of half the rows",
            command,
            _frame(table, lambda frame: frame.iloc[::2]),
            "either",
            base="checkout",
        )
        yield Case(
            4,
            f"{table} without rows",
            command,
            _frame(table, lambda frame: frame.head(0)),
            base="checkout",
        )
    for value in (-1, 7, None):
        yield Case(
            4,
            f"a fold of {value}",
            ("stage", "stack"),
            _frame("data/folds.parquet", lambda frame, value=value: frame.assign(fold=value)),
            base="checkout",
        )
    for name, file, data in (
        ("metrics that are a list", "metrics/evaluate.json", "[]"),
        ("metrics of NaN", "metrics/evaluate.json", '{"pauc": NaN}'),
        ("metrics without values", "metrics/evaluate.json", "{}"),
        ("metrics of text", "metrics/evaluate.json", '{"pauc": "high"}'),
        ("metrics cut", "metrics/evaluate.json", '{"pauc": 0.1'),
    ):
        yield Case(
            4, f"summary of {name}", ("isic", "summary"), _write(file, data), base="checkout"
        )
    for name, options in {
        "an unknown backbone": ("--backbone", "none", "--fold", "0"),
        "a fold of 9": ("--backbone", "convnext", "--fold", "9"),
        "a fold of -1": ("--backbone", "convnext", "--fold", "-1"),
        "a backbone that is a path": ("--backbone", "../../x", "--fold", "0"),
    }.items():
        for stage in ("train_image", "embed"):
            yield Case(5, f"stage {stage} of {name}", ("stage", stage, *options), base="checkout")
    for name in ("../../etc/passwd", "", "ISIC_none", "<script>"):
        yield Case(4, f"explain {name!r}", ("isic", "explain", name), base="checkout")
    for a, b in (
        ("none", "x"),
        ("models:/a@b", "x"),
        ("'; drop table runs", "x"),
        ("..", "x"),
        ("a%b", "c?d"),
    ):
        yield Case(6, f"compare {a}", ("isic", "compare", a, b), base="checkout")


# --- 6: the store


def _sql(*statements: str) -> Prepare:
    def prepare(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "mlflow.db")) as store:
            for statement in statements:
                store.execute(statement)
            store.commit()

    return prepare


def _uri(value: str) -> Prepare:
    def prepare(folder: Path) -> None:
        os.environ["MLFLOW_TRACKING_URI"] = value

    return prepare


def _locked_store(folder: Path) -> None:
    read, write = os.pipe()
    if not os.fork():
        store = sqlite3.connect(folder / "mlflow.db")
        store.execute("begin exclusive")
        os.write(write, b"x")
        import time

        time.sleep(100)
        os._exit(0)
    os.read(read, 1)


def _stores() -> Iterator[Case]:
    def folder_store(folder: Path) -> None:
        (folder / "mlflow.db").unlink()
        (folder / "mlflow.db").mkdir()

    def cut(folder: Path) -> None:
        os.truncate(folder / "mlflow.db", 5000)

    stores: dict[str, Prepare] = {
        "empty": _write("mlflow.db", b""),
        "text": _write("mlflow.db", "not a database\n" * 90),
        "cut": cut,
        "a folder": folder_store,
        "of another schema": _sql("update alembic_version set version_num='ffffffffffff'"),
        "of a newer schema": _sql("delete from alembic_version"),
        "without tables": _sql("drop table model_versions", "drop table registered_models"),
        "without runs": _sql("drop table experiments"),
        "locked": _locked_store,
        "a broken link": lambda folder: (
            (folder / "mlflow.db").unlink()
            or (folder / "mlflow.db").symlink_to("/proc/none/mlflow.db")
        ),
        "without files": lambda folder: shutil.rmtree(folder / "mlartifacts"),
        "without experiment": _sql("update experiments set lifecycle_stage='deleted'"),
        "without models": _sql("delete from registered_model_aliases"),
        "without tags": _sql("delete from model_version_tags"),
        "with a version of nothing": _sql(
            "update model_versions set storage_location='', source=''"
        ),
        "with another hash": _sql(
            "update model_version_tags set value='../x' where key='bundle_hash'"
        ),
        "with an alias of nothing": _sql("update registered_model_aliases set version=99"),
    }
    for name, prepare in stores.items():
        fine = name in (
            "without experiment",
            "without tags",
            "with another hash",
            "of a newer schema",
        )
        yield Case(
            6,
            f"predict with a store that is {name}",
            CHAMPION,
            prepare,
            "either" if fine else "refused",
            base="checkout",
        )
        yield Case(6, f"rollback with a store that is {name}", ROLLBACK, prepare, base="checkout")
    uris = {
        "a server that is none": "http://127.0.0.1:9",
        "a name that is none": "http://none.invalid",
        "no driver": "postgresql://me:secret@127.0.0.1:9/x",
        "another driver": "mysql+none://a/b",
        "a folder": "file:///tmp/none",
        "a word": "word",
        "of no scheme": "://",
        "s3": "s3://bucket/x",
        "of a port that is none": "http://127.0.0.1:99999",
        "SQLite nowhere": "sqlite:////proc/none/x.db",
        "SQLite of a folder": "sqlite:////tmp",
        "SQLite with a query": "sqlite:///a?b=c#d%20e.db",
    }
    for name, uri in uris.items():
        yield Case(
            6, f"predict with a tracking URI that is {name}", CHAMPION, _uri(uri), base="checkout"
        )
    for model in (
        "models:/isic-2024",
        "models:/isic-2024@none",
        "models:/isic-2024/99",
        "models:/isic-2024/99999999999999999999",
        "models:/o'hara@champion",
        "models:/a%20b?c#d@champion",
        "models:/" + "n" * 3000 + "@champion",
        "models:/../x/1",
        "models:",
    ):
        command = (*CHAMPION[:3], model, *CHAMPION[4:])
        yield Case(6, f"predict with {model[:40]}", command, base="checkout")


def _read_only_mount(*names: str) -> Prepare:
    """Make files or folders read-only for root too: mounts of this process alone."""

    def prepare(folder: Path) -> None:
        pipe._PATIENCE = 50.0
        system = ctypes.CDLL(None, use_errno=True)
        assert system.unshare(_NEW_MOUNTS) == 0, os.strerror(ctypes.get_errno())
        assert system.mount(b"none", b"/", None, _PRIVATE, None) == 0
        for name in names:
            path = os.fsencode(folder / name)
            assert system.mount(path, path, None, _BIND, None) == 0
            assert system.mount(b"none", path, None, _BIND | _REMOUNT | _READ_ONLY, None) == 0
        os.chdir(folder)  # through the mount

    return prepare


#: Numbers of linux/sched.h and linux/mount.h.
_NEW_MOUNTS = 0x20000
_READ_ONLY, _REMOUNT, _BIND, _PRIVATE = 1, 32, 4096, (1 << 18) | (1 << 14)


def _read_only() -> Iterator[Case]:
    """The store, its files, the folder of the decisions or the whole checkout."""
    places = {
        "the store": ("mlflow.db",),
        "the store and its files": ("mlflow.db", "mlartifacts"),
        "the registry": ("registry",),
        "the checkout": (".",),
    }
    for name, mounted in places.items():
        mount = _read_only_mount(*mounted)
        whole = name == "the checkout"
        expected: Expected = "refused" if whole else "done"
        for verb, command, wanted in (
            ("predict", CHAMPION, expected),
            ("history", HISTORY, "done"),
            ("rollback", ROLLBACK, "refused"),
            ("promote", PROMOTE, "refused"),
        ):
            prepare = _both(_unpromote, mount) if verb == "promote" else mount
            yield Case(
                6, f"{verb} with {name} read-only", command, prepare, wanted, base="checkout"
            )
    for name in ("the store", "the store and its files"):
        yield Case(
            6,
            f"stack with {name} read-only",
            ("stage", "stack"),
            _read_only_mount(*places[name]),
            "done",
            base="checkout",
            check=_unlogged,
        )


#: Leaves the challenger without its promotion, so that one has something to write.
_unpromote = _sql("delete from registered_model_aliases where alias != 'challenger'")


def _both(first: Prepare, second: Prepare) -> Prepare:
    return lambda folder: (first(folder), second(folder))


def _unlogged(folder: Path) -> str | None:
    text = (folder.parent / "output.txt").read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.startswith("isic: tracking: ")]
    return None if lines else "said nothing of what was not logged"


def _environments() -> Iterator[Case]:
    """Variables of MLflow that another project left in the shell."""
    stale = {
        "MLFLOW_RUN_ID": "0" * 32,
        "MLFLOW_EXPERIMENT_ID": "98765",
        "MLFLOW_EXPERIMENT_NAME": "of another project",
        "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
        "MLFLOW_TRACKING_TOKEN": "stale",
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_SERVER_CERT_PATH": "/proc/none",
        "MLFLOW_TRACKING_CLIENT_CERT_PATH": "/proc/none",
        "MLFLOW_TRACKING_INSECURE_TLS": "true",
        "MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "MLFLOW_ARTIFACTS_DESTINATION": "/proc/none",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "soon",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "many",
        "MLFLOW_LOGGING_LEVEL": "loud",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "perhaps",
        "MLFLOW_DISABLE_TELEMETRY": "perhaps",
        "MLFLOW_WORKSPACE": "none",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "many",
    }
    for name, value in stale.items():
        read = name == "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"  # by MLflow, for a local store too
        yield Case(
            6,
            f"predict with {name}",
            CHAMPION,
            _variables({name: value}),
            "refused" if read else "done",
            line="unset the variables" if read else "",
            base="checkout",
        )
    yield Case(
        6,
        "stack with every variable",
        ("stage", "stack"),
        _variables(stale),
        "done",
        base="checkout",
    )
    everything = stale | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    for verb, command in {"predict": CHAMPION, "rollback": ROLLBACK, "promote": PROMOTE}.items():
        yield Case(
            6, f"{verb} with every variable", command, _variables(everything), base="checkout"
        )
    yield Case(
        6,
        "stack with every variable and an address",
        ("stage", "stack"),
        _variables(everything),
        "done",
        base="checkout",
        check=_unlogged,
    )


def _variables(values: Mapping[str, str]) -> Prepare:
    return lambda folder: os.environ.update(values)


# --- 7: append-only files


def _journals() -> Iterator[Case]:
    line = (
        '{"id": "a", "act": "promote", "model": "isic-2024", "at": "2024-01-01T00:00:00+00:00", "who":'
        ' "me", "before": null, "after": 1, "previous": null, "reason": "", "forced": false, "gate": null}\n'
    )
    journals = {
        "torn": line + line[:60],
        "torn at its start": line + "{",
        "damaged in the middle": line + "x\n" + line,
        "a list": "[]\n",
        "a number": "3\n",
        "binary": bytes(range(256)),
        "deep": "[" * 60_000 + "\n",
        "of NUL": line + "\0" * 500,
        "of another type": line.replace('"after": 1', '"after": "one"'),
        "of NaN": line.replace('"after": 1', '"after": NaN'),
    }
    for name, data in journals.items():
        torn = name.startswith("torn") or name == "of NUL"
        for verb, command in {"history": HISTORY, "rollback": ROLLBACK}.items():
            yield Case(
                7,
                f"{verb} with promotions {name}",
                command,
                _write("registry/promotions.jsonl", data),
                "done" if torn and verb == "history" else "refused",
                base="checkout",
            )

        pending = data if isinstance(data, bytes) else data.strip()
        if name not in ("torn", "damaged in the middle"):
            yield Case(
                7,
                f"history with a pending record {name}",
                HISTORY,
                _write("registry/.pending.json", pending),
                "either",
                base="checkout",
            )
    hostile = {
        "escape codes": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
        "line ends": "one\ntwo\rthree\u2028four",
        "a long text": "x" * 100_000,
        "controls": "".join(map(chr, range(32))),
        "reversed text": "\u202eevil",
    }
    for name, text in hostile.items():
        import json

        entry = line.replace('"reason": ""', f'"reason": {json.dumps(text)}')
        yield Case(
            7,
            f"history with {name}",
            HISTORY,
            _write("registry/promotions.jsonl", entry),
            "done",
            base="checkout",
            check=_no_codes,
        )


def _no_codes(folder: Path) -> str | None:
    text = (folder.parent / "output.txt").read_text(errors="replace")
    bad = [c for c in text if (ord(c) < 32 and c != "\n") or c in "\x7f\x9b\u202e\u2028"]
    if bad:
        return f"printed {bad[0]!r}"
    return None if text.count("\n") == 1 else f"printed {text.count(chr(10))} lines"
