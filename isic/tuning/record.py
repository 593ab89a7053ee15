"""Record of a search: the table of all trials and plots of its progress."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from isic.core.io import write_csv
from isic.core.tracker import Tracker
from isic.tuning.storage import open_storage
from isic.tuning.tune import TuningResult

#: Panels side by side in the slice plot.
_ACROSS = 6


def record_study(
    tracker: Tracker, name: str, folder: Path, result: TuningResult | None = None
) -> None:
    """Write the study's table of trials to its journal's folder; log it, the plots and the gain to
    `tracker`.

    Does nothing when the study does not exist yet.
    """
    if name not in optuna.get_all_study_names(open_storage(folder)):
        return
    write_csv(folder / f"{name}.csv", trial_table(name, folder))
    tracker.artifact(folder / f"{name}.csv")
    for plot, figure in study_figures(name, folder).items():
        tracker.figure(figure, f"{plot}.png")
    done = study_values(name, folder)
    tracker.metrics({"trials": len(done), **({"trial_pauc": max(done)} if done else {})})
    if result is not None and result.difference is not None:
        tracker.metrics(
            {f"gain_{part}": value for part, value in result.difference._asdict().items()}
        )


def study_values(name: str, folder: Path) -> list[float]:
    """The value of every trial that ran to its end."""
    study = optuna.load_study(study_name=name, storage=open_storage(folder))
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [float(trial.value) for trial in ended if trial.value is not None]


def trial_table(name: str, folder: Path) -> pd.DataFrame:
    """Every trial of a study: number, state, value, values searched, seconds taken."""
    study = optuna.load_study(study_name=name, storage=open_storage(folder))
    frame = study.trials_dataframe(
        attrs=("number", "state", "value", "params", "duration", "user_attrs")
    )
    seconds = frame.pop("duration").dt.total_seconds()
    return frame.assign(seconds=np.round(seconds, 2))


def study_figures(name: str, folder: Path) -> dict[str, Any]:
    """History, importance and slice plots of a study as matplotlib figures; fewer when trials are
    too few.
    """
    study = optuna.load_study(study_name=name, storage=open_storage(folder))
    made: dict[str, Any] = {}
    for plot, draw in (
        ("history", plots.plot_optimization_history),
        ("importance", plots.plot_param_importances),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                made[plot] = np.ravel(draw(study))[0].figure
            except (ValueError, RuntimeError):
                continue  # importance needs more than one finished trial, and trials that differ
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return made | ({"slice": _slices(finished)} if finished else {})


def _slices(trials: list[optuna.trial.FrozenTrial]) -> Figure:
    """Value against each searched value, a panel each (Optuna puts all of them in one row); later
    trials darker.
    """
    names = sorted(
        {name for trial in trials for name in trial.params},
        key=lambda name: (name[:4] == "use_", name),
    )
    down = math.ceil(len(names) / _ACROSS)
    figure = Figure(figsize=(2.4 * _ACROSS, 2.1 * down), layout="constrained")
    panels = figure.subplots(down, _ACROSS, sharey=True, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        chosen = [trial for trial in trials if name in trial.params]
        numbers = [trial.number for trial in chosen]
        kind = chosen[0].distributions[name]
        values = [trial.params[name] for trial in chosen]
        if isinstance(kind, CategoricalDistribution):
            values = [kind.choices.index(value) for value in values]
            panel.set_xticks(range(len(kind.choices)), [str(choice) for choice in kind.choices])
            panel.margins(x=0.3)
        elif getattr(kind, "log", False):
            panel.set_xscale("log")
        panel.scatter(values, [trial.value for trial in chosen], c=numbers, cmap="viridis_r", s=14)
        panel.tick_params(axis="x", which="both", labelsize=7)
        panel.set_xlabel(name)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supylabel("pooled out-of-fold pAUC")
    return figure
