"""A lock is held by one process, ends with it, and is skipped on file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isic.core.locks import locked

_HOLD = """
import sys
from pathlib import Path
from isic.core.locks import locked
with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path, how: str = "alone") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", _HOLD, str(path), how]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_lock_that_another_process_holds_is_not_had_until_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "lock"
    with holder(path) as process:
        with locked(path, patience=0) as mine:
            assert not mine
        process.kill()
        process.wait()
        with locked(path) as mine:
            assert mine


def test_readers_share_a_lock_and_keep_a_writer_out(tmp_path: Path) -> None:
    with holder(tmp_path / "lock", "shared"):
        with locked(tmp_path / "lock", patience=0, shared=True) as reads:
            assert reads
        with locked(tmp_path / "lock", patience=0.1) as writes:
            assert not writes


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
@pytest.mark.parametrize("patience", [0.0, float("inf")])
def test_a_file_system_without_locks_is_named_and_lets_everybody_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    patience: float,
    number: int,
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for lock in (locked(tmp_path / "lock", patience), locked(tmp_path / "another", patience)):
        with lock as mine:
            assert mine
    line = capsys.readouterr().err
    assert line.startswith(f"isic: note: {tmp_path} is on a file system without locks: two")
    assert line.count("\n") == 1
