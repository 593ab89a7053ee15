"""Copy runs and models from one MLflow store to another; repeated copies send only what is missing.

MLflow 3 has no such command: `mlflow migrate-filestore` writes a database on the same machine, and
mlflow-export-import was last released before MLflow 3 and lacks logged models. This copy uses the
client's API. A run gets a new id in the target and a tag with its old one, which later copies look
up. Counts are verified in the target, and the source is not changed.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from isic.core.errors import InputError, redact
from isic.tracking.files import copy_files, repository
from isic.tracking.store import absolute, connect, settle_environment, sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

#: Tag on the copy: its id in the source.
ORIGIN = "copied_from"
#: Tag on a copied run: the state of the source run when it was copied.
_ARRIVED = "copied_state"
_PARENT = "mlflow.parentRunId"
_PAGE = 1000


class _Tally(NamedTuple):
    """Number of items in the source, and how many of them this copy sent."""

    total: int
    sent: int


@dataclass
class Copied:
    """Counts of a copy by kind, and the aliases it did not move."""

    counts: dict[str, _Tally] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    def add(self, kind: str, total: int, sent: int) -> None:
        before = self.counts.get(kind, _Tally(0, 0))
        self.counts[kind] = _Tally(before.total + total, before.sent + sent)

    def text(self) -> str:
        """One line per kind, and one per alias that differs in the target."""
        lines = [
            f"{kind:<14}{tally.total:>8,}  {tally.sent:,} sent"
            for kind, tally in self.counts.items()
        ]
        return "\n".join([*lines, *self.kept])


class Copy:
    """A copy between two stores, with the map from source to target ids."""

    def __init__(self, source: str, target: str, root: Path, say: Callable[[str], None]) -> None:
        self.source, self.target = connect(root, source), connect(root, target)
        self.say, self.copied = say, Copied()
        self.runs: dict[str, str] = {}
        self.models: dict[str, str] = {}
        self._experiments: dict[str, str] = {}
        self._locations: dict[str, tuple[str, str]] = {}
        self._root = root
        self._fallback = (sqlite_file(source) or Path(source)).parent / "mlartifacts"

    def all(self) -> Copied:
        """Experiments, runs, logged models, registered models."""
        import mlflow

        # With a database, creating a model version looks up the model's location in the global
        # store.
        mlflow.set_tracking_uri(self.target.tracking_uri)
        runs = self._open_runs()
        self._logged_models()
        for run in runs:
            self._fill_run(run)
        self._registered_models()
        return self.copied

    def _open_runs(self) -> list[Run]:
        """Create an empty run in the target for each source run, since children refer to parents
        and models to runs.
        """
        every: list[Run] = []
        for experiment in self.source.search_experiments():
            runs = list(_runs(self.source, experiment.experiment_id))
            if not runs:
                continue
            there, made = self._experiment(experiment.name, experiment.tags)
            self._experiments[experiment.experiment_id] = there
            known = {
                run.data.tags[ORIGIN]: run
                for run in _runs(self.target, there)
                if ORIGIN in run.data.tags
            }
            for run in runs:
                copy = known.get(run.info.run_id) or self.target.create_run(
                    there, run.info.start_time, {ORIGIN: run.info.run_id}, run.info.run_name
                )
                self.runs[run.info.run_id] = copy.info.run_id
                self._locations[run.info.run_id] = (run.info.artifact_uri, copy.info.artifact_uri)
            new = sum(run.info.run_id not in known for run in runs)
            self.copied.add("experiments", 1, int(made))
            self.copied.add("runs", len(runs), new)
            every += runs
        return every

    def _experiment(self, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        there = self.target.get_experiment_by_name(name)
        if there is not None:
            return str(there.experiment_id), False
        # A server chooses its artifact location; for an SQLite file it is the folder beside it.
        file = sqlite_file(self.target.tracking_uri)
        location = file.parent / "mlartifacts" / name if file is not None else None
        own = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
        return (
            str(self.target.create_experiment(name, location.as_uri() if location else None, own)),
            True,
        )

    def _logged_models(self) -> None:
        for here, there in self._experiments.items():
            known = {model.tags.get(ORIGIN): model for model in _models(self.target, there)}
            for model in _models(self.source, here):
                copy, sent = known.get(model.model_id), 0
                if copy is None:
                    tags = {
                        key: value
                        for key, value in model.tags.items()
                        if not key.startswith("mlflow.")
                    }
                    copy = self.target.create_logged_model(
                        there,
                        model.name,
                        self.runs.get(model.source_run_id or ""),
                        tags | {ORIGIN: model.model_id},
                        model.params,
                        model.model_type,
                    )
                    sent = 1
                self.models[model.model_id] = copy.model_id
                self._files(
                    f"model {model.name}", (model.artifact_location, copy.artifact_location)
                )
                if str(copy.status) != str(model.status) and str(model.status) in (
                    "READY",
                    "FAILED",
                ):
                    self.target.finalize_logged_model(copy.model_id, str(model.status))
                self.copied.add("logged models", 1, sent)

    def _fill_run(self, run: Run) -> None:
        """Send a run's content unless it was copied in this state, then verify the copy."""
        there = self.runs[run.info.run_id]
        state = f"{run.info.status} {run.info.end_time} {len(run.data.params)} {len(run.data.tags)}"
        history = {
            name: self.source.get_metric_history(run.info.run_id, name) for name in run.data.metrics
        }
        points = [point for name in sorted(history) for point in history[name]]
        state += f" {len(points)} {max((point.timestamp for point in points), default=0)}"
        arrived = self.target.get_run(there).data.tags.get(_ARRIVED) == state
        if not arrived:
            self._send(run, there, points)
            self.say(
                f"run {run.info.run_name}: {len(run.data.params)} parameters, {len(points)} points"
            )
        self.copied.add("parameters", len(run.data.params), 0 if arrived else len(run.data.params))
        self.copied.add("metric points", len(points), 0 if arrived else len(points))
        self._files(f"run {run.info.run_name}", self._locations[run.info.run_id])
        self._check_run(run, there, history)
        if not arrived:
            if run.info.status != "RUNNING":
                self.target.set_terminated(there, run.info.status, run.info.end_time)
            self.target.set_tag(there, _ARRIVED, state)

    def _send(self, run: Run, there: str, points: list[Metric]) -> None:
        from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag

        tags = _own_tags(run)
        if tags.get(_PARENT) in self.runs:
            tags[_PARENT] = self.runs[tags[_PARENT]]
        params = [Param(name, value) for name, value in run.data.params.items()]
        metrics = [
            Metric(p.key, p.value, p.timestamp, p.step, self.models.get(p.model_id or ""))
            for p in points
        ]
        for part in _pages([RunTag(name, value) for name, value in tags.items()], 100):
            self.target.log_batch(there, tags=part)
        for part in _pages(params, 100):
            self.target.log_batch(there, params=part)
        for part in _pages(metrics, _PAGE):
            self.target.log_batch(there, metrics=part)
        self._send_inputs(run, there)
        outputs = run.outputs.model_outputs if run.outputs else []
        copies = self.target.get_run(there).outputs
        linked = {output.model_id for output in (copies.model_outputs if copies else [])}
        missing = [
            (self.models[out.model_id], out.step) for out in outputs if out.model_id in self.models
        ]
        missing = [(model, step) for model, step in missing if model not in linked]
        if missing:
            self.target.log_outputs(
                there, [LoggedModelOutput(model, step) for model, step in missing]
            )

    def _send_inputs(self, run: Run, there: str) -> None:
        """Data sets and models that the run used, and the metrics of models that it scored."""
        from mlflow.entities import LoggedModelInput, Metric

        # A search leaves out the models that a run used.
        inputs = self.source.get_run(run.info.run_id).inputs
        used = [item.model_id for item in (inputs.model_inputs if inputs else [])]
        used = [self.models[model] for model in used if model in self.models]
        if inputs and (inputs.dataset_inputs or used):
            models = [LoggedModelInput(model) for model in used]
            self.target.log_inputs(there, inputs.dataset_inputs, models)

        outputs = run.outputs.model_outputs if run.outputs else []
        for model in {item.model_id for item in outputs if item.model_id in self.models}:
            points = self.source.get_logged_model(model).metrics or []
            metrics = [
                Metric(p.key, p.value, p.timestamp, p.step, self.models[model])
                for p in points
                if p.run_id == run.info.run_id
            ]
            for part in _pages(metrics, _PAGE):
                self.target.log_batch(there, metrics=part)

    def _check_run(self, run: Run, there: str, history: Mapping[str, list[Metric]]) -> None:
        """Raise InputError unless the copy holds every parameter, tag and point of the run."""
        copy = self.target.get_run(there)
        lost = [
            f"parameter {name}"
            for name, value in run.data.params.items()
            if copy.data.params.get(name) != value
        ]
        lost += [f"tag {name}" for name in _own_tags(run) if name not in copy.data.tags]
        for name, points in history.items():
            found = len(self.target.get_metric_history(there, name))
            if found != len(points):
                lost.append(f"metric {name} ({found} of {len(points)} points)")
        if lost:
            raise InputError(
                f"run {run.info.run_name} ({run.info.run_id}) was not copied completely: {lost[0]}"
                " is missing or differs; run the same command again"
            )

    def _files(self, name: str, locations: tuple[str, str]) -> None:
        here = repository(locations[0], self.source.tracking_uri, self._fallback)
        try:
            sent, total = copy_files(
                here, repository(locations[1], self.target.tracking_uri), self._renamed
            )
        except ValueError as error:
            raise InputError(
                f"{name} was not copied completely: {error}; run the same command again"
            ) from error
        self.copied.add("files", total, sent)

    def _renamed(self, text: str) -> str:
        for old, new in (*self.models.items(), *self.runs.items()):
            text = text.replace(old, new)
        return text

    def _registered_models(self) -> None:
        for model in self.source.search_registered_models():
            known = _registered(self.target, model.name)
            if known is None:
                self.target.create_registered_model(model.name, model.tags, model.description)
            self.copied.add("models", 1, int(known is None))
            self._versions(model.name)
            self._aliases(model.name, model.aliases, known.aliases if known else {})

    def _versions(self, name: str) -> None:
        """Copy versions in order and under their own numbers, to which promotions.jsonl refers."""
        there = {
            int(version.version): version
            for version in self.target.search_model_versions(f"name = '{name}'")
        }
        versions = self.source.search_model_versions(f"name = '{name}'")
        for version in sorted(versions, key=lambda item: int(item.version)):
            number = int(version.version)
            copy = there.get(number)
            if copy is None:
                self._version(version)
            elif copy.tags.get(ORIGIN) != _origin(version):
                raise InputError(
                    f"the target has a version {number} of {name} of its own: copy into a server"
                    " without one, or register this one there by `dvc repro register`"
                )
            self.copied.add("versions", 1, int(copy is None))

    def _version(self, version: ModelVersion) -> None:
        number = int(version.version)
        source = self._source_of(version)
        model = source.removeprefix("models:/") if source.startswith("models:/") else None
        while True:
            made = self.target.create_model_version(
                version.name,
                source,
                self.runs.get(version.run_id or ""),
                tags=dict(version.tags) | {ORIGIN: _origin(version)},
                description=version.description,
                model_id=model,  # a server with authentication needs the owner of the files
            )
            if int(made.version) == number:
                return
            # The number of a deleted version stays unused; MLflow does not assign it again.
            self.target.delete_model_version(version.name, made.version)
            if int(made.version) > number:
                raise InputError(
                    f"version {number} of {version.name} would get another number on the target:"
                    " copy into a server that never had this model"
                )

    def _source_of(self, version: ModelVersion) -> str:
        """Location of the copied version's files in the target."""
        if (
            version.source.startswith("models:/")
            and version.source.removeprefix("models:/") in self.models
        ):
            return f"models:/{self.models[version.source.removeprefix('models:/')]}"
        for here, there in self._locations.values():
            if version.source.startswith(f"{here}/"):
                return there + version.source.removeprefix(here)
        raise InputError(
            f"the files of version {version.version} of {version.name} are in"
            f" {redact(version.source)}, which no run owns: register it again, or delete the"
            " version"
        )

    def _aliases(self, name: str, aliases: Mapping[str, str], there: Mapping[str, str]) -> None:
        for alias, number in aliases.items():
            if alias not in there:
                self.target.set_registered_model_alias(name, alias, str(number))
            elif str(there[alias]) != str(number):
                # The target was promoted since the last copy and takes precedence.
                self.copied.kept.append(
                    f"{name}@{alias} stays version {there[alias]} on the target (here: {number})"
                )
            self.copied.add("aliases", 1, int(alias not in there))


def copy(
    source: str, target: str, root: Path, say: Callable[[str], None] = lambda line: None
) -> Copied:
    """Copy all runs and models of the store `source` to the server `target`, and verify the copy.

    Raises InputError when either cannot be used, or the copy is incomplete.
    """
    source, target = _resolved(source, root), _resolved(target, root)
    _refuse(source, target)
    for uri in (source, target):
        _check_server(uri)
    # More retries and a longer timeout: uploads of large models are slow, and one failure must not
    # end a long copy.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    settle_environment(300)
    from mlflow.exceptions import MlflowException

    try:
        return Copy(source, target, root, say).all()
    except MlflowException as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{redact(source)} to {redact(target)}: {redact(line)[:300]}; run the same command"
            " again"
        ) from error


def _own_tags(run: Run) -> dict[str, str]:
    """The run's tags without ORIGIN and _ARRIVED, which a store that is itself a copy has."""
    return {name: value for name, value in run.data.tags.items() if name not in (ORIGIN, _ARRIVED)}


def _resolved(uri: str, root: Path) -> str:
    """`uri`, with the path of a database file resolved: under two names a store would be copied
    into itself.
    """
    file = sqlite_file(absolute(uri, root))
    return uri if file is None else sqlite_uri(file.resolve())


def _check_server(uri: str) -> None:
    """Raise InputError at once when a server does not respond: the copy itself would retry for
    minutes.
    """
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10).close()
        except urllib.error.HTTPError:
            return  # it responds
        except OSError as error:
            raise InputError(
                f"no server responds at {redact(uri)} ({error}): start the server, or check the"
                " address"
            ) from error


def _refuse(source: str, target: str) -> None:
    if source == target:
        raise InputError(f"--from and --to are both {redact(source)}")
    file = sqlite_file(source)
    if file is not None and not file.is_file():
        raise InputError(f"there is no database {file}: --from names the store to copy")
    if not target.startswith(("http://", "https://")) and sqlite_file(target) is None:
        raise InputError(
            f"--to is {redact(target)}: name the server (http://…), not its database, or the"
            " artifacts would stay here"
        )


def _runs(client: MlflowClient, experiment: str) -> Iterable[Run]:
    """All runs that are not deleted, oldest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        if not (token := page.token):
            return


def _models(client: MlflowClient, experiment: str) -> Iterable[LoggedModel]:
    token = None
    while True:
        page = client.search_logged_models([experiment], page_token=token)
        yield from page
        if not (token := page.token):
            return


def _registered(client: MlflowClient, name: str) -> Any:
    return next(iter(client.search_registered_models(f"name = '{name}'")), None)


def _origin(version: ModelVersion) -> str:
    return f"{version.name}/{version.version}/{version.run_id}"


def _pages(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))
