"""The errors of the cluster's verbs are one line, with and without Ray."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from isic.core.errors import InputError, run
from isic.scale.cluster import connected
from isic.scale.folds import fold_resources
from isic.scale.resources import Resources


def _isic(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str]:
    from isic.cli import app

    monkeypatch.setattr(sys, "argv", ["isic", *words])
    with pytest.raises(SystemExit) as stop:
        run(app)
    return int(stop.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("predict", "--on", "ray", "--model", "m", "--out", "o"), "--on ray takes --input"),
        (
            ("predict", "--on", "mars", "--model", "m", "--out", "o"),
            "--on is 'mars': use here or ray",
        ),
        (("predict", "--model", "m", "--out", "o"), "--metadata is needed"),
        (("predict", "--on", "ray", "--model", "none", "--input", "i", "--out", "o"), "none"),
        (("shard", "--out", "o"), "give --metadata"),
        (("shard", "--metadata", "absent.csv", "--out", "o"), "absent.csv not found"),
        (("shard", "--index", "absent"), "absent holds no .parquet file"),
        (("shard", "--index", "i", "--out", "o"), "--index takes no other option"),
        (
            ("shard", "--metadata", "m.csv", "--out", "o", "--megabytes", "nan"),
            "give positive numbers",
        ),
        (
            ("shard", "--metadata", "m.csv", "--out", "/dev/null"),
            "/dev/null is a file: name a folder",
        ),
    ],
)
def test_misuse_is_one_line(
    words: tuple[str, ...],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = _isic(capsys, monkeypatch, *words)
    assert code == 2
    assert error.count("\n") == 1
    assert line in error
    assert not list(tmp_path.iterdir())


def test_without_ray_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="make setup-scale"), connected():
        pass


def test_nobody_can_have_no_cpu() -> None:
    with pytest.raises(InputError, match="--cpus"):
        Resources(cpus=0).as_options()
    assert Resources(2, 1, 3).as_options() == {
        "num_cpus": 2,
        "num_gpus": 1,
        "memory": 3_000_000_000,
    }


@pytest.mark.parametrize(
    ("cluster", "workers", "expected"),
    [
        ({"CPU": 8.0}, None, Resources(1, 0, 2)),
        ({"CPU": 64.0, "GPU": 8.0}, None, Resources(8, 1, 2)),
        ({"CPU": 64.0, "GPU": 8.0}, 4, Resources(5, 1, 6)),
        ({"CPU": 8.0}, 0, Resources(1, 0, 2)),
    ],
)
def test_a_fold_requests_the_resources_it_uses(
    cluster: dict[str, float], workers: int | None, expected: Resources
) -> None:
    assert fold_resources(cluster, workers, None, None) == expected


def test_a_cluster_that_does_not_answer_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "ray://me:SECRET@cluster:10001"

    def init(**options: object) -> None:
        raise ConnectionError(f"nobody at {address}")

    fake = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(
            InputError, match=r"RAY_ADDRESS=ray://me:\*\*\*@cluster:10001 \(nobody at"
        ) as caught,
        connected(),
    ):
        pass
    assert "SECRET" not in str(caught.value)
