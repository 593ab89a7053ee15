"""`make tune`: a search can be stopped and joined, and params.yaml changes only for a real gain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

from isic.core.io import sha256_json
from isic.core.metric import pauc
from isic.core.params import StackSettings
from isic.core.tracker import NullTracker
from isic.stack.encoder import rows
from isic.stack.fit import fit_stack
from isic.stack.training_data import TrainingData, build_training_data
from isic.tuning import tune as home
from isic.tuning.limits import size_limit
from isic.tuning.record import record_study, study_figures, trial_table
from isic.tuning.search import (
    HALFWAY_REPORTS,
    TrialEvaluator,
    as_trial,
    changes,
    suggest,
    switchable,
)
from isic.tuning.study import DONE, join_study, open_storage, pruner
from isic.tuning.tune import Candidate, assess_gain, tune, winners
from pipelines.tune import study_name
from tests.conftest import ROOT
from tests.stack.population import Population, make, settings

#: Names of real features, so that columns have families to switch.
NAMES = (
    "tbp_lv_A",
    "tbp_lv_B",
    "tbp_lv_H",
    "age_approx",
    "color_uniformity",
    "hue_contrast",
    "lesion_size_ratio",
    "border_complexity",
)


@pytest.fixture(scope="module")
def people() -> Population:
    plain = make()
    names = {f"measure_{number}": name for number, name in enumerate(NAMES)}
    return plain._replace(features=plain.features.rename(columns=names))


@pytest.fixture
def data(people: Population) -> TrainingData:
    return build_training_data(*people, settings().images, settings().params.max_bin)


def finished(folder: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(folder)).get_trials(states=DONE)


def test_a_candidate_scores_what_the_stage_would(people: Population, data: TrainingData) -> None:
    family = switchable(data)[0]
    chosen = settings(seeds=1, drop=(family,))
    dropped = fit_stack(*people, chosen)
    assert TrialEvaluator(data, seeds=1).score(chosen) == pytest.approx(
        dropped.metrics["pauc"], abs=1e-9
    )
    gone = [feature for feature in NAMES if data.families[feature] == family]
    assert gone
    assert not set(gone) & set(dropped.names)


def test_a_candidate_may_be_surer_than_a_probability_can_say(
    people: Population, data: TrainingData
) -> None:
    params = settings().params.model_dump()
    # Steps far too long: log-odds beyond 37, where a probability in double precision is 1.
    bold = settings(
        seeds=1,
        combine="columns",
        params={**params, "learning_rate": 12.0, "scale_pos_weight": 1.0},
    )
    stage = fit_stack(*people, bold)
    evaluator = TrialEvaluator(data, seeds=1)
    margins = evaluator.out_of_fold(bold)
    assert np.abs(margins).max() > 40
    for fold, chain in stage.chains.items():
        mine = np.flatnonzero(data.fold == fold)
        (model,) = chain.members["lightgbm"]["whole"]
        raw = model.predict(rows(data.columns, mine), raw_score=True)
        np.testing.assert_allclose(margins[mine], raw + chain.offset, atol=1e-9)
    assert evaluator.score(bold) == pytest.approx(pauc(data.target, margins), abs=1e-12)


@pytest.mark.parametrize("zeros", [(), ("lambda_l1", "lambda_l2", "negatives")])
def test_current_values_survive_the_way_through_a_trial(
    data: TrainingData, zeros: tuple[str, ...]
) -> None:
    plain = settings()
    params = {
        name: 0.0 if name in zeros else value for name, value in plain.params.model_dump().items()
    }
    families, current = (
        switchable(data),
        settings(params=params, **{"negatives": 0} if zeros else {}),
    )
    trial = optuna.trial.FixedTrial(as_trial(current, families))
    assert changes(suggest(trial, current, families), current) == {}
    asked = optuna.create_study().ask()
    assert changes(suggest(asked, current, families), current)


def test_who_leaves_while_others_are_at_the_last_trial_does_not_judge(
    data: TrainingData, tmp_path: Path
) -> None:
    text: list[str] = []
    with join_study("study", tmp_path, as_trial(settings(), switchable(data))) as other:
        trial = other.study.ask()
        trial.set_user_attr("worker", other.identity)
        trial.set_user_attr("host", socket.gethostname())
        assert tune(data, settings(), "study", tmp_path, 1, seeds=1, say=text.append) is None
    assert text == [
        "the last trials are still running in other processes: the one that ends last judges"
    ]


def test_search_starts_from_current_values_resumes_and_tells(
    data: TrainingData, tmp_path: Path
) -> None:
    text: list[str] = []
    children: list[tuple[int, dict[str, Any]]] = []

    class Notes(NullTracker):
        def __init__(self, number: int) -> None:
            self.number = number

        def metrics(self, values: Any, step: int | None = None) -> None:
            children.append((self.number, dict(values)))

    @contextmanager
    def child(number: int) -> Iterator[Notes]:
        yield Notes(number)

    for trials in (3, 6):
        result = tune(
            data, settings(), "study", tmp_path, trials, seeds=2, open_child=child, say=text.append
        )
    assert result is not None
    done = finished(tmp_path, "study")
    assert len(done) == sum("trials/min" in line for line in text) == 6
    assert sum("fitted on fresh seeds" in line for line in text) == 2
    assert done[0].params == pytest.approx(as_trial(settings(), switchable(data)))
    assert "trials/min" in text[0]
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    assert len(children) == len(done)
    scored = {number: values for number, values in children if "trial_pauc" in values}
    assert {number: values["trial_pauc"] for number, values in scored.items()} == {
        trial.number: trial.value for trial in complete
    }
    assert all("trial_pauc_so_far" in values for _, values in children)
    frame = trial_table("study", tmp_path)
    assert len(frame) == 6
    assert {"number", "value", "params_learning_rate", "seconds"} <= set(frame.columns)
    assert set(study_figures("study", tmp_path)) >= {"history", "slice"}


def test_a_study_is_recorded_and_one_left_before_it_began_is_passed_over(
    data: TrainingData, tmp_path: Path
) -> None:
    class Artifacts(NullTracker):
        def __init__(self) -> None:
            self.names: list[str] = []

        def artifact(self, path: Path, folder: str = "") -> None:
            self.names.append(path.name)

        def figure(self, figure: Any, name: str) -> None:
            self.names.append(name)

    notes = Artifacts()
    record_study(notes, "study", tmp_path)
    assert notes.names == []
    tune(data, settings(), "study", tmp_path, 3, seeds=1)
    record_study(notes, "study", tmp_path)
    assert {"study.csv", "history.png", "slice.png"} <= set(notes.names)
    assert len((tmp_path / "study.csv").read_text(encoding="utf-8").splitlines()) == 4


def test_hopeless_candidates_are_pruned(data: TrainingData, tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", pruner=pruner())
    evaluator = TrialEvaluator(data, seeds=2)
    study.optimize(lambda trial: evaluator.score(settings(), trial), n_trials=1)
    weak = settings(rounds=1, negatives=1)
    study.optimize(lambda trial: evaluator.score(weak, trial), n_trials=1)
    assert study.trials[1].state == TrialState.PRUNED
    assert len(study.trials[1].intermediate_values) == HALFWAY_REPORTS


def test_a_glimpse_is_what_half_of_the_rounds_would_score(data: TrainingData) -> None:
    evaluator = TrialEvaluator(data, seeds=1)
    half = [values for _, values in evaluator.members(settings(rounds=10))]
    seen = [values for _, values in evaluator.members(settings(rounds=20), halfway_reports=2)][:2]
    for fold, glimpse, margins in zip(evaluator.folds, seen, half, strict=False):
        target = data.target[data.fold == fold]
        assert pauc(target, glimpse) == pauc(target, margins)


def test_a_member_that_fails_before_its_glimpse_ends_the_trial(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("isic.tuning.search.compose", fail)
    study = optuna.create_study(direction="maximize")
    with pytest.raises(MemoryError, match="no room"):
        TrialEvaluator(data, seeds=1).score(settings(), study.ask())


def test_interrupting_keeps_finished_trials_and_queues_the_running_one(
    data: TrainingData, tmp_path: Path
) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(data, settings(), "study", tmp_path, 5, seeds=1, say=interrupt)
    assert len(finished(tmp_path, "study")) == 2
    tune(data, settings(), "study", tmp_path, 4, seeds=1)
    assert len(finished(tmp_path, "study")) == 4


def test_no_gain_changes_nothing_and_a_real_gain_is_named(
    data: TrainingData, tmp_path: Path
) -> None:
    families = switchable(data)
    # A late combination would rest on the image logit, which no boosting spoils.
    good, bad = (
        settings(combine="columns"),
        settings(combine="columns", rounds=1, negatives=1, seeds=1),
    )

    def against(one: StackSettings, other: StackSettings, number: int) -> list[Candidate]:
        """The current values as trial 0, and a trial that is better on every fold."""
        return [
            Candidate(at, as_trial(values, families), dict.fromkeys(range(3), score))
            for at, values, score in ((0, one, 0.1), (number, other, 0.11))
        ]

    better = assess_gain(data, bad, 3, against(bad, good, 3), families)
    assert better.difference is not None
    assert better.difference.low > 0
    assert better.change == {"rounds": good.rounds, "negatives": good.negatives}
    worse = assess_gain(data, good, 4, against(good, bad, 4), families)
    assert worse.difference is not None
    assert worse.difference.high < 0
    assert worse.change == {}
    assert "stays as it is" in worse.line
    assert assess_gain(data, good, 5, against(good, good, 5), families).difference is None


def test_what_the_gate_would_refuse_for_its_size_is_not_trained(tmp_path: Path) -> None:
    bundle = {"stack/a.txt": 300, "features_only/a.txt": 100, "image/vit/model.safetensors": 400}
    for name, size in bundle.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    limit = size_limit(tmp_path, growth=3.0)
    assert limit is not None
    now = settings(rounds=20)
    # Half of the bytes are trees: five times as many make the bundle three times as large.
    assert limit.excess(settings(rounds=100), now) == pytest.approx(0)
    study = optuna.create_study()
    with pytest.raises(optuna.TrialPruned):
        limit.check(study.ask(), settings(rounds=101), now)
    allowed = study.ask()
    limit.check(allowed, settings(rounds=99), now)
    assert study.trials[allowed.number].constraints["bundle_size"] < 0
    assert size_limit(tmp_path / "none", 3.0) is None


def test_a_folds_own_score_has_no_say_in_who_scores_it() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 5))
    found = winners(
        [Candidate(number, {}, dict(enumerate(row))) for number, row in enumerate(table)]
    )
    for fold in range(5):
        assert found[fold].number == int(np.argmax(np.delete(table, fold, axis=1).mean(axis=1)))
        changed = table.copy()
        changed[:, fold] = rng.normal(size=50) * 100
        again = winners(
            [Candidate(number, {}, dict(enumerate(row))) for number, row in enumerate(changed)]
        )
        assert again[fold].number == found[fold].number


def test_lucky_lesions_of_many_equal_trials_are_no_gain(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials that differ by the lesions that they rank well by chance; the best is best by chance
    only.
    """
    families, current = switchable(data), settings()
    rng, target, folds = np.random.default_rng(0), data.target, range(3)
    gains: dict[str, list[float]] = {"best": [], "searching": []}
    for _ in range(12):
        trials = [settings(rounds=40 + number) for number in range(30)]
        scores = {one.rounds: rng.normal(size=len(target)) + 1.5 * target for one in trials}
        monkeypatch.setattr(
            home,
            "refit_oof",
            lambda _, one, known=scores: pd.DataFrame({"score": known[one.rounds]}),
        )
        candidates = [
            Candidate(
                number,
                as_trial(one, families),
                {
                    f: pauc(target[data.fold == f], scores[one.rounds][data.fold == f])
                    for f in folds
                },
            )
            for number, one in enumerate(trials)
        ]
        best = max(range(1, 30), key=lambda number: pauc(target, scores[40 + number]))
        found = assess_gain(data, current, best, candidates, families)
        assert found.difference is not None
        gains["searching"].append(found.difference.value)
        gains["best"].append(pauc(target, scores[40 + best]) - pauc(target, scores[40]))
    assert np.mean(gains["best"]) > 0.01
    assert abs(np.mean(gains["searching"])) < 0.4 * np.mean(gains["best"])


def test_processes_share_one_study_and_a_killed_one_loses_only_its_trial(tmp_path: Path) -> None:
    total = 8

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.tuning.worker", str(tmp_path), str(total)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )

    victim, *others = [start() for _ in range(3)]
    assert victim.stdout is not None
    for line in victim.stdout:
        if "trials ·" in line:  # it has finished one trial and is in the next
            break
    time.sleep(0.3)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    text = [process.communicate(timeout=120)[0] for process in others]
    assert all(process.returncode == 0 for process in others), text
    # If the worker was killed within a trial, a later worker repeats that trial, and the study is
    # complete. A trial without a worker's name may be a living worker's: for some seconds it is not
    # repeated.
    left = optuna.load_study(study_name="shared", storage=open_storage(tmp_path)).trials
    if any(trial.state == TrialState.RUNNING and "host" not in trial.user_attrs for trial in left):
        time.sleep(20)
    survivor = start()
    survivor.communicate(timeout=120)
    assert survivor.returncode == 0
    trials = optuna.load_study(study_name="shared", storage=open_storage(tmp_path)).trials
    states = Counter(trial.state for trial in trials)
    # One more if two workers took the last trial at once; an orphan may still be queued.
    assert total <= states[TrialState.COMPLETE] + states[TrialState.PRUNED] <= total + 2
    assert states[TrialState.RUNNING] + states[TrialState.FAIL] <= 1
    ran = [tuple(sorted(trial.params.items())) for trial in trials if trial.state in DONE]
    assert len(set(ran)) == len(ran)
    # The killed process's trial was repeated or is queued: no values are lost.
    again = [trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs]
    assert again == [
        trial.number for trial in trials if trial.state == TrialState.FAIL and trial.params
    ]


def test_params_file_keeps_its_comments(tmp_path: Path) -> None:
    from isic.core.presets import write_overlay

    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    diff = write_overlay(
        path, {"stack": {"rounds": 77, "drop": ["age"], "params": {"num_leaves": 7}}}
    )
    assert "-    num_leaves: 12" in diff
    assert "+    num_leaves: 7" in diff
    before, after = ((file.read_text(encoding="utf-8")) for file in (ROOT / "params.yaml", path))
    assert after.count("#") == before.count("#")
    stack = yaml.safe_load(after)["stack"]
    assert (stack["rounds"], stack["drop"], stack["params"]["num_leaves"]) == (77, ["age"], 7)


def test_a_study_stored_before_the_rename_of_evidence_continues() -> None:
    stack = {"rounds": 150, "images": {"scale": "ranked"}}
    before = {"stack": {"rounds": 150, "evidence": {"scale": "ranked"}}, "inputs": "abc"}

    name = study_name({"stack": stack, "inputs": "abc"})

    assert name == f"stack-{sha256_json([before, HALFWAY_REPORTS])[:8]}"
