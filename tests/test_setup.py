"""`make setup` with a fake Python: the printed lines, and removal of an incomplete .venv."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

#: A fake Python: `venv` copies it, and its pip prints many lines.
PYTHON = r"""#!/bin/bash
echo "$@" >> "$CALLS"
case "$*" in
    *print*) echo python3.12 ;;
    *libgomp*) [ -z "$NO_LIBGOMP" ] ;;
    *ensurepip*) [ -z "$NO_ENSUREPIP" ] ;;
    "-m venv "*)
        mkdir -p "$3/bin"
        [ -z "$BROKEN_VENV" ] || exit 1
        cp "$0" "$3/bin/python" ;;
    "-m pip --version") ;;
    "-m pip install "*)
        seq -f 'Collecting package-%g' 500
        case "$*" in *"$FAILING"*) [ -z "$FAILING" ] || { echo 'ERROR: no space left'; exit 1; } ;; esac ;;
esac
"""


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / ".git").mkdir(parents=True)
    for name in ("Makefile", "setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, folder / name)
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    return folder


def make(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make setup` with the fake Python as python3."""
    tools = {
        "PATH": f"{clone.parent}:/usr/bin:/bin",
        "CALLS": str(clone.parent / "calls"),
        "NO_ENSUREPIP": "",
        "NO_LIBGOMP": "",
        "BROKEN_VENV": "",
        "FAILING": "",
    }
    # Started by `make test`, this would be a make within a make, which prints its folder.
    outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", "setup"],
        cwd=clone,
        env={**outer, **tools, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def calls(clone: Path) -> str:
    return (clone.parent / "calls").read_text()


def test_the_screen_has_a_line_a_step_and_the_log_the_rest(clone: Path) -> None:
    done = make(clone)
    assert done.returncode == 0, done.stderr
    assert [line[:13] for line in done.stdout.splitlines()[:3]] == [
        f"set-up {number} of 3" for number in (1, 2, 3)
    ]
    assert "Collecting" not in done.stdout + done.stderr
    assert "Collecting package-500" in (clone / ".venv" / "setup.log").read_text()
    before = calls(clone)
    assert make(clone).returncode == 0
    assert calls(clone) == before


@pytest.mark.parametrize("half_made", [False, True])
def test_without_ensurepip_the_package_is_named_and_nothing_is_left(
    clone: Path, half_made: bool
) -> None:
    if half_made:
        (clone / ".venv" / "bin").mkdir(parents=True)
        (clone / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    done = make(clone, NO_ENSUREPIP="yes")
    assert done.returncode != 0
    assert "sudo apt install python3.12-venv" in done.stderr
    assert not (clone / ".venv").exists()
    assert make(clone).returncode == 0


def test_what_the_system_lacks_comes_before_the_installs(clone: Path) -> None:
    done = make(clone, NO_LIBGOMP="yes")
    assert done.returncode != 0
    assert "sudo apt install libgomp1" in done.stderr
    (clone / ".git").rmdir()
    done = make(clone)
    assert done.returncode == 0, done.stderr
    note, first = done.stdout.splitlines()[:2]
    assert "git init && git add . && git commit" in note
    assert first.startswith("set-up 1 of 3")


@pytest.mark.parametrize("name", ['a "b', "$HOME", "{c}", "d:e", "f\\g", "`h`"])
def test_a_path_that_scripts_or_dvc_cannot_use_is_refused(clone: Path, name: str) -> None:
    done = make(clone.rename(clone.with_name(name)))
    assert done.returncode != 0
    assert "set-up: the path" in done.stderr
    assert "pip" not in done.stdout


def test_another_path_is_used(clone: Path) -> None:
    done = make(clone.rename(clone.with_name("o'dd %41?x=1&y#z é [c];")))
    assert done.returncode == 0, done.stderr


def test_a_half_made_environment_is_made_again(clone: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (clone / ".venv" / "bin" / "python").chmod(0o755)
    done = make(clone)
    assert done.returncode == 0, done.stderr
    assert ".venv has no working pip: removed" in done.stdout
    assert (clone / ".venv" / ".ready").exists()


def test_a_venv_that_fails_leaves_nothing(clone: Path) -> None:
    assert make(clone, BROKEN_VENV="yes").returncode != 0
    assert not (clone / ".venv").exists()


def test_a_failed_download_is_named_and_resumed(clone: Path) -> None:
    done = make(clone, FAILING="editable")
    assert done.returncode != 0
    assert "ERROR: no space left" in done.stderr
    assert "pip failed in step 2 of 3; the whole log is .venv/setup.log" in done.stderr
    assert not (clone / ".venv" / ".ready").exists()
    assert make(clone).returncode == 0
    assert calls(clone).count("-m venv") == 1
