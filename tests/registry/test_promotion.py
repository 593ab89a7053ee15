"""Registering, judging, promoting and rolling back, checked through MLflow and the history."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import read_json, write_json, write_parquet
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.registry import journal, versions
from isic.registry.register import Registration, register, register_backbones
from isic.registry.versions import HASH_TAG, Registry, resolve_model
from pipelines.register import bundle_of
from tests.commands import list_moves, promote, rollback
from tests.pipeline import move_store

MODEL = "isic-2024"


@pytest.fixture(scope="module")
def version_1(made: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose bundle is version 1; read only."""
    layout = Layout(tmp_path_factory.mktemp("version") / "checkout")
    shutil.copytree(made, layout.root, copy_function=os.link)
    shutil.copy(store, layout.root / "mlflow.db")
    register(layout.root, bundle_of(layout, load_params(layout.params)), MODEL)
    return layout.root


@pytest.fixture
def registered(layout: Layout, version_1: Path) -> Registration:
    """Version 1, the challenger."""
    for name in ("models/bundle", "mlartifacts"):
        shutil.copytree(version_1 / name, layout.root / name)
    shutil.copy(version_1 / "mlflow.db", layout.root / "mlflow.db")
    move_store(layout.root, version_1)
    version = Registry(layout.root).find_alias(MODEL, "challenger")
    assert version is not None
    return Registration(version, reused=False)


def better(layout: Layout, params: Params, by: float = 0.3, **metrics: float) -> Registration:
    """Another version, whose stored out-of-fold scores are shifted towards the truth (or away from
    it).
    """
    oof = pd.read_parquet(layout.oof)
    score = np.clip(oof["score"] * (1 + by * np.where(oof["target"] == 1, 1, -1)), 0, 1)
    write_parquet(layout.oof, oof.assign(score=score))
    write_json(layout.evaluate_metrics, read_json(layout.evaluate_metrics) | {"by": by} | metrics)
    return register(layout.root, bundle_of(layout, params), MODEL)


@pytest.fixture
def without_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the fresh process, which has a test of its own and would fail for `better`."""
    from isic.predict.reproduce import Reload
    from isic.registry import gate

    monkeypatch.setattr(gate, "reload_elsewhere", lambda *_: Reload(64, 0.0, 0.001))


def aliases(layout: Layout) -> dict[str, int | None]:
    registry = Registry(layout.root)
    found = {
        alias: registry.find_alias(MODEL, alias) for alias in ("challenger", "champion", "previous")
    }
    return {alias: version.number if version else None for alias, version in found.items()}


def test_the_same_bundle_is_one_version(
    layout: Layout, params: Params, registered: Registration
) -> None:
    again = register(layout.root, bundle_of(layout, params), MODEL)
    assert (again.version, again.reused) == (registered.version, True)
    assert aliases(layout) == {"challenger": 1, "champion": None, "previous": None}


def test_first_promotion_reloads_in_a_fresh_process(
    layout: Layout, registered: Registration
) -> None:
    with pytest.raises(InputError, match="champion yet: run `make promote`"):
        resolve_model(f"models:/{MODEL}@champion", layout.root)
    result = promote(layout)
    assert result.verdict is not None
    assert "reload reproduces stored scores" in result.verdict.table()
    assert aliases(layout) == {"challenger": 1, "champion": 1, "previous": None}
    assert read_json(layout.root / "metrics" / "gate.json")["passed"]
    assert promote(layout).record is None, "promoting the champion again is no move"
    folder = resolve_model(f"models:/{MODEL}@champion", layout.root)
    assert folder == resolve_model(f"models:/{MODEL}/1", layout.root)
    assert (
        json.loads((folder / "bundle.json").read_text())["hash"] == registered.version.bundle_hash
    )


@pytest.mark.slow
def test_scores_that_do_not_come_back_are_refused(
    layout: Layout, params: Params, registered: Registration
) -> None:
    better(layout, params, by=0.01)
    with pytest.raises(InputError, match="reload reproduces stored scores: largest difference"):
        promote(layout)


@pytest.mark.usefixtures("without_reload", "registered")
def test_promotion_rollback_and_their_history(layout: Layout, params: Params) -> None:
    promote(layout)
    better(layout, params)
    result = promote(layout, reason="more trees")
    assert result.verdict is not None
    assert aliases(layout) == {"challenger": 2, "champion": 2, "previous": 1}
    rollback(layout, reason="complaints")
    assert aliases(layout) == {"challenger": 2, "champion": 1, "previous": 2}
    moves = list_moves(layout)
    assert [(move.act, move.before, move.after, move.reason) for move in moves] == [
        ("promote", None, 1, ""),
        ("promote", 1, 2, "more trees"),
        ("rollback", 2, 1, "complaints"),
    ]
    assert moves[1].gate == result.verdict.to_json()


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_worse_challenger_is_refused_unless_forced(layout: Layout, params: Params) -> None:
    promote(layout)
    better(layout, params, by=-0.5)
    with pytest.raises(InputError, match="pAUC gain"):
        promote(layout)
    assert aliases(layout)["champion"] == 1
    assert not read_json(layout.root / "metrics" / "gate.json")["passed"]
    with pytest.raises(InputError, match="--reason"):
        promote(layout, force=True)
    promote(layout, force=True, reason="the old one leaks")
    assert aliases(layout)["champion"] == 2
    assert (list_moves(layout)[-1].forced, list_moves(layout)[-1].reason) == (
        True,
        "the old one leaks",
    )


@pytest.mark.usefixtures("without_reload")
def test_a_bundle_that_dvc_brought_back_is_the_one_that_is_judged(
    layout: Layout, params: Params, registered: Registration, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parameters A, then B, then A again: the run cache restores models/bundle without a stage."""
    kept = Path(shutil.copytree(layout.bundle, layout.root / "kept"))
    better(layout, params)
    shutil.rmtree(layout.bundle)
    kept.rename(layout.bundle)
    capsys.readouterr()
    assert promote(layout).champion == registered.version
    assert aliases(layout) == {"challenger": 1, "champion": 1, "previous": None}
    assert [move.after for move in list_moves(layout)] == [1]
    assert _notes(capsys) == [
        f"isic: note: models/bundle was not the challenger ({MODEL} version 2): it was registered"
        f" before and is, as {MODEL} version 1"
    ]
    better(layout, params)
    shutil.rmtree(layout.bundle)  # without one, the alias decides which version is judged
    assert promote(layout).champion.number == 3
    assert _notes(capsys) == []


def _notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines printed by isic. MLflow also prints there, depending on earlier tests."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("isic:")]


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_bundle_that_a_new_store_does_not_know_is_registered_first(
    layout: Layout, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = Layout(layout.root.rename(layout.root.with_name("clone")))
    # MLflow's own memory of the store, which ends with a process.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.rmtree(clone.root / "mlartifacts")
    shutil.copy(store, clone.root / "mlflow.db")
    clone.report.parent.mkdir(exist_ok=True)
    clone.report.with_name("model_card.md").write_text("# Card\n\nMade of trees.\n")
    capsys.readouterr()
    champion = promote(clone).champion
    assert aliases(clone) == {"challenger": 1, "champion": 1, "previous": None}
    assert "(there was none): it is registered now" in capsys.readouterr().err
    assert "Made of trees." in Registry(clone.root).description(champion)


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_damaged_bundle_is_not_registered(layout: Layout, params: Params) -> None:
    write_json(layout.evaluate_metrics, read_json(layout.evaluate_metrics) | {"other": 1})
    bundle = bundle_of(layout, params)
    (bundle.folder / "calibration.json").write_text("{}")
    with pytest.raises(InputError, match=r"calibration\.json is not the file"):
        promote(layout)
    assert [version.number for version in Registry(layout.root).versions(MODEL)] == [1]
    assert aliases(layout) == {"challenger": 1, "champion": None, "previous": None}


@pytest.mark.usefixtures("without_reload", "registered")
def test_other_data_are_not_compared(layout: Layout, params: Params) -> None:
    promote(layout)
    metadata = read_metadata(layout.train_metadata, train=True)
    layout.train_metadata.unlink()
    metadata.assign(tbp_lv_x=0.5).to_csv(layout.train_metadata, index=False)
    better(layout, params)
    with pytest.raises(InputError, match="champion was judged on: other data or folds"):
        promote(layout)


#: str.splitlines ends a line at each; JSON does not escape them.
LINE_ENDS = ("\x85", "\u2028", "\u2029")


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_reason_of_several_lines_is_one_line_of_the_journal(
    layout: Layout, params: Params
) -> None:
    reason = f"schöner{'als'.join(LINE_ENDS)}\nzuvor"
    promote(layout, reason=reason)
    text = layout.promotions.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1
    assert "schöner" in text, "people read it too"
    better(layout, params)
    promote(layout)
    assert [move.reason for move in list_moves(layout)] == [reason, ""]
    # As lines were written before.
    for end in LINE_ENDS:
        assert f"\\u{ord(end):04x}" in text
        text = text.replace(f"\\u{ord(end):04x}", end)
    layout.promotions.write_text(text, encoding="utf-8")
    assert [move.reason for move in list_moves(layout)] == [reason]


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_broken_journal_stops_a_move_before_anything_changes(
    layout: Layout, params: Params
) -> None:
    promote(layout)
    better(layout, params)
    promote(layout)
    write_json(layout.evaluate_metrics, read_json(layout.evaluate_metrics) | {"other": 1})
    bundle_of(layout, params)  # not registered yet
    layout.register_metrics.with_name("gate.json").unlink()
    content = layout.promotions.read_bytes()
    for broken, act in product((b"<<<<<<< HEAD\n", b"\xff\n"), (promote, rollback)):
        layout.promotions.write_bytes(content + broken)
        with pytest.raises(
            InputError, match="line 3 is not a promotion: restore the file from git"
        ):
            act(layout)
    assert aliases(layout) == {"challenger": 2, "champion": 2, "previous": 1}
    assert not layout.promotions.with_name(".pending.json").exists()
    assert not layout.register_metrics.with_name("gate.json").exists()
    layout.promotions.write_bytes(content)
    assert rollback(layout).after == 1


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_champion_deleted_in_the_ui_is_no_reason_to_stay_without_one(
    layout: Layout,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from isic.cli import registry as cli

    promote(layout)
    better(layout, params)
    promote(layout)
    Registry(layout.root).client.delete_model_version(MODEL, "2")
    assert aliases(layout) == {"challenger": None, "champion": None, "previous": 1}
    monkeypatch.chdir(layout.root)
    cli.rollback()
    assert capsys.readouterr().out == f"{MODEL} version 1 is the champion again (was none)\n"
    assert aliases(layout) == {"challenger": None, "champion": 1, "previous": None}
    assert (list_moves(layout)[-1].before, list_moves(layout)[-1].after) == (None, 1)
    with pytest.raises(InputError, match="no previous champion"):
        rollback(layout)


class Cut(BaseException):
    """Simulates a SIGKILL: nothing catches it."""


@pytest.mark.usefixtures("without_reload", "registered")
@pytest.mark.parametrize(
    ("step", "champion"),
    [
        ("intent", 1),
        ("champion", 2),
        # A rollback is cut at every step by another test.
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("previous", 1), ("line", 2), ("end", 2))
        ),
    ],
)
def test_a_move_cut_at_any_step_is_repaired(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch, step: str, champion: int
) -> None:
    promote(layout)
    better(layout, params)
    with monkeypatch.context() as patch:
        cut_after(patch, step)
        with pytest.raises(Cut):
            promote(layout)
    seen = aliases(layout)["champion"]
    assert seen == champion, "a reader sees the old champion or the new one"
    moves = list_moves(layout)
    assert aliases(layout)["champion"] == champion, "repair never moves what readers see"
    assert aliases(layout)["previous"] == (1 if champion == 2 else None)
    assert [move.after for move in moves] == ([1, 2] if champion == 2 else [1])
    assert list_moves(layout) == moves, "repaired once"
    promote(layout)
    assert aliases(layout) == {"challenger": 2, "champion": 2, "previous": 1}
    assert [move.after for move in list_moves(layout)] == [1, 2]


@pytest.mark.usefixtures("without_reload")
def test_networks_follow_after_a_promotion_that_was_cut_before_them(
    layout: Layout, params: Params, registered: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = register_backbones(layout.root, bundle_of(layout, params), registered.version)
    registry = Registry(layout.root)

    def champions() -> set[int | None]:
        found = [registry.find_alias(version.name, "champion") for version in networks]
        return {version.number if version else None for version in found}

    with monkeypatch.context() as patch:
        cut_after(patch, "end")
        with pytest.raises(Cut):
            promote(layout)
    assert champions() == {None}
    promote(layout)
    assert champions() == {1}


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_rollback_cut_at_any_step_is_repaired(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(layout)
    better(layout, params)
    promote(layout)
    champion, line = 2, [1, 2]
    for step, moved in (
        ("intent", False),
        ("previous", False),
        ("champion", True),
        ("line", True),
        ("end", True),
    ):
        with monkeypatch.context() as patch:
            cut_after(patch, step)
            with pytest.raises(Cut):
                rollback(layout)
        if moved:
            champion = 3 - champion
            line.append(champion)
        assert aliases(layout)["champion"] == champion, (
            f"{step}: a reader sees the old champion or the new one"
        )
        assert [move.after for move in list_moves(layout)] == line, step
        assert aliases(layout) == {
            "challenger": 2,
            "champion": champion,
            "previous": 3 - champion,
        }, step
        # The next call resumes from there.
        champion = rollback(layout).after
        line.append(champion)
        assert aliases(layout) == {
            "challenger": 2,
            "champion": champion,
            "previous": 3 - champion,
        }, step


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_reader_never_misses_the_champion(layout: Layout, params: Params) -> None:
    promote(layout)
    better(layout, params)
    seen: set[int | None] = set()
    moving = threading.Event()
    moving.set()

    def read() -> None:
        registry = Registry(layout.root)
        while moving.is_set():
            version = registry.find_alias(MODEL, "champion")
            seen.add(version.number if version else None)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        promote(layout)
        for _ in range(2):
            rollback(layout)
    finally:
        moving.clear()
        reader.join()
    assert seen == {1, 2}


def cut_after(patch: pytest.MonkeyPatch, step: str) -> None:
    """Simulate the end of the process right after a step of `apply_record`."""

    def then_cut(function: Callable, when: Callable[..., bool] = lambda *_: True) -> Callable:
        def run(*arguments: object, **options: object) -> None:
            function(*arguments, **options)
            if when(*arguments):
                raise Cut

        return run

    if step == "intent":
        patch.setattr(journal, "write_json", then_cut(journal.write_json))
    elif step in ("previous", "champion"):
        patch.setattr(
            Registry,
            "set_alias",
            then_cut(Registry.set_alias, lambda _, __, alias, ___: alias == step),
        )
    elif step == "line":
        patch.setattr(journal, "append", then_cut(journal.append))
    else:
        patch.setattr(
            Path, "unlink", then_cut(Path.unlink, lambda path: path.name == ".pending.json")
        )


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_version_whose_files_are_gone_is_named(layout: Layout) -> None:
    promote(layout)
    shutil.rmtree(layout.root / "mlartifacts")
    with pytest.raises(
        InputError, match="isic-2024 version 1 is registered, but its files are gone"
    ):
        resolve_model(f"models:/{MODEL}@champion", layout.root)


@pytest.mark.usefixtures("registered")
def test_a_version_whose_files_are_gone_from_a_server_is_named(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Emptied:
        artifact_uri = "http://server/artifacts"

        def download_artifacts(self, _: str, dst_path: str) -> str:
            return dst_path

    monkeypatch.setattr(versions, "repository", lambda *_: Emptied())
    for _ in range(2):  # no partial bundle is left
        with pytest.raises(
            InputError, match="version 1 is registered, but its files are gone from http://server"
        ):
            resolve_model(f"models:/{MODEL}/1", layout.root)


class Server:
    """Simulates the artifacts of a remote store by a folder."""

    artifact_uri = "http://server/artifacts"

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, 0

    def download_artifacts(self, _: str, dst_path: str) -> str:
        self.asked += 1
        return str(shutil.copytree(self.folder, dst_path, dirs_exist_ok=True))


@pytest.mark.parametrize("tag", ["../../data", "", "ABCDEF" * 10 + "ABCD", "0" * 63])
def test_a_tag_that_is_no_hash_names_no_folder(
    layout: Layout, registered: Registration, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    before = sorted((layout.root / "data").rglob("*"))
    server = Server(layout.bundle)
    monkeypatch.setattr(versions, "repository", lambda *_: server)
    resolve_model(
        f"models:/{MODEL}/1", layout.root
    )  # a cache that must not be used for another version
    Registry(layout.root).tag(registered.version, {HASH_TAG: tag})
    with pytest.raises(
        InputError, match=f"version 1 has the tag bundle_hash '{tag}', which is no hash"
    ):
        resolve_model(f"models:/{MODEL}/1", layout.root)
    assert server.asked == 1
    assert sorted((layout.root / "data").rglob("*")) == before


def test_files_from_a_server_are_those_of_the_tag(
    layout: Layout, params: Params, registered: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Server(Path(shutil.copytree(layout.bundle, layout.root / "first")))
    monkeypatch.setattr(versions, "repository", lambda *_: first)
    for _ in range(2):
        folder = resolve_model(f"models:/{MODEL}/1", layout.root)
        assert read_json(folder / "bundle.json")["hash"] == registered.version.bundle_hash
    assert first.asked == 1
    write_json(layout.evaluate_metrics, read_json(layout.evaluate_metrics) | {"other": 1})
    second = Server(bundle_of(layout, params).folder)
    shutil.copy(
        second.folder / "bundle.json", folder / "bundle.json"
    )  # a cache with other contents
    assert resolve_model(f"models:/{MODEL}/1", layout.root) == folder
    assert first.asked == 2
    assert read_json(folder / "bundle.json")["hash"] == registered.version.bundle_hash
    shutil.rmtree(folder)
    monkeypatch.setattr(versions, "repository", lambda *_: second)
    with pytest.raises(
        InputError, match="version 1 has other files at http://server/artifacts than its tag"
    ):
        resolve_model(f"models:/{MODEL}/1", layout.root)
    assert not folder.exists()


@pytest.mark.usefixtures("without_reload", "registered")
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_champion_that_cannot_be_loaded_is_refused_as_a_rival_and_can_be_overruled(
    layout: Layout, params: Params, damage: str
) -> None:
    promote(layout)
    better(layout, params)
    folder = resolve_model(f"models:/{MODEL}/1", layout.root)
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "calibration.json").write_text("{}")
    words = "its files are gone" if damage == "gone" else r"calibration\.json is not the file"
    with pytest.raises(InputError, match=f"champion can be loaded: .*{words}.*--force"):
        promote(layout)
    assert aliases(layout)["champion"] == 1
    result = promote(layout, force=True, reason="the champion is lost")
    assert aliases(layout) == {"challenger": 2, "champion": 2, "previous": 1}
    assert result.verdict is not None
    assert "champion can be loaded" in result.verdict.table()
    assert list_moves(layout)[-1].forced


@pytest.mark.usefixtures("registered")
def test_a_champion_that_does_not_run_here_can_be_overruled(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.predict.reproduce import Reload
    from isic.registry import gate

    champion = resolve_model(f"models:/{MODEL}/1", layout.root)

    def reload(folder: Path, *_: object) -> Reload:
        if folder == champion and aliases(layout)["champion"] == 1:
            raise InputError(f"{folder} cannot be used in a fresh process: stacker format 1")
        return Reload(64, 0.0, 0.001)

    monkeypatch.setattr(gate, "reload_elsewhere", reload)
    promote(layout)
    better(layout, params)
    with pytest.raises(InputError, match=r"time: .*stacker format 1"):
        promote(layout)
    promote(layout, force=True, reason="the champion is of another time")
    assert aliases(layout)["champion"] == 2


@pytest.mark.usefixtures("without_reload", "registered")
def test_a_checkout_that_was_moved_finds_its_versions(
    layout: Layout, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(layout)
    second = better(layout, params).version
    moved = Layout(layout.root.rename(layout.root.with_name("elsewhere")))
    # MLflow's own memory of the store, which ends with a process.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = resolve_model(f"models:/{MODEL}@challenger", moved.root)
    assert folder.is_relative_to(moved.root)
    assert read_json(folder / "bundle.json")["hash"] == second.bundle_hash
    assert register(moved.root, bundle_of(moved, params), MODEL) == (second, True)
    promote(moved)
    rollback(moved)
    assert aliases(moved) == {"challenger": 2, "champion": 1, "previous": 2}
    with pytest.raises(InputError, match=rf"no version 9 of {MODEL}: there is 1, 2$"):
        resolve_model(f"models:/{MODEL}/9", moved.root)


def test_nothing_to_promote_or_to_go_back_to(layout: Layout, store: Path) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    with pytest.raises(InputError, match="no challenger: run `dvc repro`"):
        promote(layout)
    with pytest.raises(InputError, match="no previous champion"):
        rollback(layout)
    assert list_moves(layout) == []


def test_a_store_that_is_down_does_not_undo_the_run(
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    stage: Callable,
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.chdir(layout.root)
    outcome = stage("register")
    assert outcome.code == 0
    assert "not registered: the MLflow store at http://127.0.0.1" in outcome.error
    assert read_json(layout.register_metrics)["version"] is None
    assert (layout.bundle / "bundle.json").is_file()


def test_backbones_are_registered_once(layout: Layout, params: Params, store: Path) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    bundle = bundle_of(layout, params)
    first = register_backbones(layout.root, bundle)
    assert [version.name for version in first] == [
        f"isic-image-{backbone}" for backbone in params.image.backbones
    ]
    assert register_backbones(layout.root, bundle) == first
    client = Registry(layout.root).client
    folder = Path(client.get_model_version_download_uri(first[0].name, "1").removeprefix("file://"))
    assert (folder / "fold1" / "model.safetensors").is_file()


def test_backbones_whose_files_are_gone_are_registered_again(
    layout: Layout, params: Params, store: Path
) -> None:
    shutil.copy(store, layout.root / "mlflow.db")
    bundle = bundle_of(layout, params)
    first = register_backbones(layout.root, bundle)
    client = Registry(layout.root).client
    place = client.get_model_version_download_uri(first[0].name, "1").removeprefix("file://")
    (Path(place) / "fold1" / "model.safetensors").unlink()
    again = register_backbones(layout.root, bundle)
    assert [version.number for version in again] == [2, *(1 for _ in first[1:])]
    place = client.get_model_version_download_uri(again[0].name, "2").removeprefix("file://")
    assert (Path(place) / "fold1" / "model.safetensors").is_file()


def test_a_backbone_that_cannot_be_sent_leaves_a_failed_run(
    layout: Layout, params: Params, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    shutil.copy(store, layout.root / "mlflow.db")
    bundle = bundle_of(layout, params)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", refuse)
        with pytest.raises(OSError, match="No space left"):
            register_backbones(layout.root, bundle)
    client = Registry(layout.root).client
    (experiment,) = (
        one.experiment_id for one in client.search_experiments() if one.name == "isic-2024-registry"
    )
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]
    register_backbones(layout.root, bundle)
    assert {run.info.status for run in client.search_runs([experiment])} == {"FINISHED"}
