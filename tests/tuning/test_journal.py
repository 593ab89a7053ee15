"""Optuna's journal after a worker was killed while it wrote."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from isic.core.errors import InputError
from isic.tuning.storage import open_storage


def _study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        study_name="it", storage=open_storage(folder), load_if_exists=True, direction="maximize"
    )


def _filled(folder: Path) -> Path:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _study(folder).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    return folder / "journal.log"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_torn_tail_is_cut_and_work_goes_on(tmp_path: Path, share: float) -> None:
    journal = _filled(tmp_path)
    *whole, last = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole) + last[: int(len(last) * share)])
    _study(tmp_path).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    for _ in range(2):
        assert len(_study(tmp_path).trials) == 5
    assert journal.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("damage", [b"x\n", b"[]\n", b"\0\0\0\n", b'{"op_code": 99}\n'])
def test_damage_elsewhere_is_one_line(tmp_path: Path, damage: bytes) -> None:
    journal = _filled(tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    for _ in range(2):
        with pytest.raises(InputError, match=r"journal\.log.* is not a record"):
            open_storage(tmp_path)
