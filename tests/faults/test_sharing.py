"""One output and one resume folder have one writer at a time; the files of a kill change nothing."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from isic.core import locks
from isic.core.errors import InputError
from isic.image.training import checkpoint
from isic.predict.files import alone
from isic.tracking.inputs import stage_inputs

#: Another process, as of another machine on the same mount: it holds the lock until its input ends.
_HOLD = """
import sys
from pathlib import Path
from isic.image.training.checkpoint import locked
from isic.predict.files import alone
with {"alone": alone, "locked": locked}[sys.argv[1]](Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lock", "line"),
    [(alone, "another process is writing"), (checkpoint.locked, "is training this model")],
)
def test_a_second_writer_is_told(
    tmp_path: Path, lock: Callable[[Path], AbstractContextManager[None]], line: str
) -> None:
    target = tmp_path / "o'ut %41?"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, lock.__name__, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=line), lock(target):
        raise AssertionError("two have it")
    holder.kill()
    holder.wait()
    with lock(target):
        pass


@pytest.mark.parametrize("lock", [alone, checkpoint.locked])
def test_on_a_mount_without_locks_each_writer_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lock: Callable[[Path], AbstractContextManager[None]],
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _machine in range(2):
        locks._note_without.cache_clear()
        with lock(tmp_path / "target"):
            assert "without locks" in capsys.readouterr().err


def test_temporary_files_of_a_kill_make_no_stage_stale(root: Path, checkout: Path) -> None:
    from isic.core.io import TEMPORARY

    for name in ("pipelines", "isic"):
        (checkout / name).symlink_to(root / name)
    (checkout / ".dvcignore").write_bytes((root / ".dvcignore").read_bytes())
    (checkout / "metrics").mkdir()
    (checkout / "metrics" / "validate.json").write_text("{}")
    before = stage_inputs(checkout, "validate")
    (checkout / "data" / "raw" / f"{TEMPORARY}0-1-x").mkdir()
    (checkout / "data" / "raw" / f"{TEMPORARY}0-1-x" / "half.csv").touch()
    (checkout / "data" / "raw" / f"{TEMPORARY}0-1-y.hdf5").touch()
    assert before
    assert stage_inputs(checkout, "validate") == before
