"""A file is the old version or the new one, never a partial one."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import (
    TEMPORARY,
    atomic_dir,
    atomic_file,
    read_json,
    read_parquet,
    refuse_output,
    sha256,
    write_json,
    write_parquet,
)


def _fail_half_way(writer: AbstractContextManager[Path], name: str) -> None:
    with writer as temporary:
        (temporary / name).write_text("half")
        raise RuntimeError


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        _fail_half_way(atomic_file(path), "")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["scores.csv"]


def test_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(RuntimeError):
        _fail_half_way(atomic_dir(path), "weights")
    assert (path / "weights").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_new_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "stale").write_text("old")
    with atomic_dir(path) as temporary:
        (temporary / "weights").write_text("new")
    assert sorted(file.name for file in path.iterdir()) == ["weights"]
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def _nodes(folder: Path) -> dict[str, Path]:
    """A pipe, a socket and, where that is permitted, devices; all of them in `folder`."""
    assert folder.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
    kinds = {
        "pipe": (stat.S_IFIFO, 0),
        "socket": (stat.S_IFSOCK, 0),
        "null": (stat.S_IFCHR, os.makedev(1, 3)),
        "disk": (stat.S_IFBLK, os.makedev(240, 1)),
    }
    made = {}
    for name, (kind, device) in kinds.items():
        with contextlib.suppress(PermissionError):
            os.mknod(folder / name, kind | 0o600, device)
            made[name] = folder / name
    return made


@pytest.mark.parametrize("writer", [atomic_file, atomic_dir])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_never_replaced(
    tmp_path: Path, writer: Callable[[Path], AbstractContextManager[Path]], linked: bool
) -> None:
    for name, node in _nodes(tmp_path).items():
        before = node.lstat()
        target = node
        if linked:
            target = tmp_path / f"to-{name}"
            target.symlink_to(name)
        assert target.parent == tmp_path
        with pytest.raises(InputError, match=f"{target} is a device, pipe or socket"):
            refuse_output(target)
        with pytest.raises(InputError, match="device, pipe or socket"), writer(target):
            pass
        assert node.lstat() == before
        assert target.is_symlink() == linked


@pytest.mark.parametrize("target", ["old.csv", "new.csv", "sub/new.csv"])
def test_a_link_is_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "hop").symlink_to(target)
    (tmp_path / "link").symlink_to("hop")
    write_json(tmp_path / "link", [1])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "hop").is_symlink()
    assert json.loads((tmp_path / target).read_text()) == [1]


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "raw").symlink_to("disk")
    with atomic_dir(tmp_path / "raw") as temporary:
        (temporary / "a").write_text("new")
    assert (tmp_path / "raw").is_symlink()
    assert (tmp_path / "disk" / "a").read_text() == "new"


def test_a_link_into_a_cache_is_replaced_and_the_cache_kept(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("old")
    cached.chmod(0o444)
    (tmp_path / "link").symlink_to(cached)
    write_json(tmp_path / "link", [1])
    assert cached.read_text() == "old"
    assert json.loads((tmp_path / "link").read_text()) == [1]


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="leads nowhere"):
        write_json(tmp_path / "a", [1])


def test_an_output_inside_its_input_or_nowhere_is_refused_before_work(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for output in (
        bundle / "scores.csv",
        bundle / "sub" / "scores.csv",
        bundle / ".." / "bundle" / "x",
    ):
        with pytest.raises(InputError, match="into its own input"):
            refuse_output(output, bundle)
    refuse_output(tmp_path / "bundle.csv", bundle)
    with pytest.raises(OSError, match=r"scores\.csv"):
        refuse_output(Path("/proc/none/scores.csv"))
    refuse_output(tmp_path / "new" / "folder" / "scores.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_makes_is_not(
    tmp_path: Path,
) -> None:
    left = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert left.returncode == -9, left.stderr
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / f"{TEMPORARY}00000000-1-other-machine").touch()
    with atomic_file(tmp_path / "a"), atomic_file(tmp_path / "b"):
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"{TEMPORARY}00000000-1-other-machine",
        "a",
        "b",
    ]


_KILLED = """
import os, pathlib, sys
from isic.core.io import atomic_dir, atomic_file, scratch_dir
folder = pathlib.Path(sys.argv[1])
with atomic_file(folder / "a"), atomic_dir(folder / "b"), scratch_dir():
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[-Infinity]",
        '{"a": 1e999}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 6000,
        "",
        "\x00",
    ],
)
def test_what_is_no_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"pauc": float("nan")})
    assert not path.exists()
    write_json(path, {"pauc": 0.15})
    assert json.loads(path.read_text()) == {"pauc": 0.15} == read_json(path)


@pytest.mark.parametrize("content", ["", "{", "\x00\xff"])
def test_broken_json_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json is not valid JSON"):
        read_json(path)


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "folds.parquet"
    write_parquet(path, pd.DataFrame({"a": range(1000)}))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"folds\.parquet cannot be read"):
        read_parquet(path)
    with pytest.raises(InputError, match="not found"):
        read_parquet(tmp_path / "none.parquet")


def test_folder_hash_sees_names_and_bytes(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b") != sha256(tmp_path / "c")
    (tmp_path / "b" / "file").rename(tmp_path / "b" / "other")
    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_files_of_a_folder_are_as_readable_as_the_user_wants(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_dir(tmp_path / "model") as folder:
            (folder / "inner").mkdir(mode=0o700)
            for name, mode in (("a", 0o600), ("inner/b", 0o600), ("cached", 0o444)):
                (folder / name).touch()
                (folder / name).chmod(mode)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*")}
    assert modes == {
        "inner": 0o777 & ~mask,
        "a": 0o666 & ~mask,
        "b": 0o666 & ~mask,
        "cached": 0o444,
    }
