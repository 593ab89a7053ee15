"""An expected error is one line and exit status 2; a bug keeps its traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isic.core.errors import InputError, error_line, run


def _raise(error: BaseException) -> None:
    raise error


def test_input_error_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda: _raise(InputError("tile ISIC_1\n is broken: replace it")))
    assert stop.value.code == 2
    assert capsys.readouterr().err == "isic: error: tile ISIC_1 is broken: replace it\n"


def test_interrupt_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda: _raise(KeyboardInterrupt()))
    assert stop.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_defects_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: _raise(ZeroDivisionError("defect")))
    assert error_line(ZeroDivisionError("defect")) is None


def test_a_path_of_the_wrong_kind_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for broken in (lambda: tmp_path.read_text(), lambda: (tmp_path / ("x" * 300)).write_text("")):
        with pytest.raises(SystemExit) as stop:
            run(broken)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"isic: error: {tmp_path}")
        assert said.count("\n") == 1


_WRITE_PARQUET = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from isic.core.errors import run
from isic.core.io import write_parquet
frame = pd.DataFrame({"a": np.random.default_rng(0).random(200_000)})
run(lambda: write_parquet(Path(sys.argv[1]) / "t.parquet", frame))
"""
_SAMPLE = (
    "from isic.cli import main; import sys; sys.argv = {arguments!r} + [sys.argv[1] + '/raw'];"
    " main()"
)
_SIZES = ["isic", "sample", "--patients", "20", "--lesions", "600", "--positives", "2", "--out"]


@pytest.mark.parametrize(
    ("script", "size"),
    [
        pytest.param(_WRITE_PARQUET, "64k", id="table"),
        pytest.param(_SAMPLE.format(arguments=_SIZES), "64k", id="CSV"),
        pytest.param(_SAMPLE.format(arguments=_SIZES), "17200k", id="tiles half way"),
    ],
)
def test_full_disk_is_told_and_leaves_nothing(tmp_path: Path, script: str, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # A small file system in a mount namespace: the error is the kernel's, not simulated.
    mount = (
        f'mount -t tmpfs -o size={size} tmpfs {disk} && "$@" {disk}; code=$?; find {disk} -type f;'
        " exit $code"
    )
    command = ["unshare", "-rm", "bash", "-c", mount, "bash", sys.executable, "-c", script]
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces for this user")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("isic: error: no disk space left")
    assert done.stderr.count("\n") == 1
    assert not done.stdout
