"""Train one network without one fold (two with `early_stop`), resuming after an interruption.

The weights are a function of recipe, rows and tiles alone: a run that is killed anywhere resumes
from its last saved step and ends with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from isic.core.early_stopping import early_stopping_fold
from isic.core.errors import InputError
from isic.core.params import ImageRecipe
from isic.core.schema import ID, TARGET
from isic.core.tracker import NullTracker, Tracker
from isic.data.tiles import TileStore
from isic.image.clock import Clock
from isic.image.console import Console, TimeEstimate, red_flags
from isic.image.network import device as machine
from isic.image.network.artifact import save_model
from isic.image.network.cache import Tiles, decoded
from isic.image.network.loader import Batch, batches, default_workers
from isic.image.training import checkpoint
from isic.image.training.augment import Augmenter
from isic.image.training.parallel import ProcessGroup, SingleProcess, join, process_group
from isic.image.training.run import Run, prepare, restore, save
from isic.image.training.sampler import Slot
from isic.image.training.step import take_step
from isic.image.training.train_only import JoinedTiles, TrainOnly, describe_train_only
from isic.image.training.validation import (
    DECIDING_NEGATIVES,
    Validation,
    ValidationSet,
    make_validation_set,
)

#: Consecutive steps without a finite loss that end a run in fp16, where the scaler skips such
#: steps.
_SKIPS = 8


@dataclass(frozen=True)
class Limits:
    """Time, processes and disk of a run. They affect run time only (`devices` also rounding)."""

    max_hours: float | None = None
    workers: int | None = None
    devices: int = 1
    cache_gb: float = 0.0


@dataclass(frozen=True)
class Job:
    """Inputs of a run, equal in all of its processes."""

    tiles: TileStore
    folds: pd.DataFrame
    fold: int
    recipe: ImageRecipe
    resume: Path
    name: str
    diagnoses: Sequence[object] | None
    limits: Limits
    train_only: TrainOnly | None = None

    @property
    def stopping_fold(self) -> int | None:
        """The fold whose score ends training, kept out of it; None without `early_stop`."""
        return stopping_fold(self.folds, self.fold, self.recipe)

    @property
    def training(self) -> NDArray[np.bool_]:
        """Whether each row of `folds` is trained on."""
        held_out = [fold for fold in (self.fold, self.stopping_fold) if fold is not None]
        return ~np.isin(self.folds["fold"], held_out)

    @property
    def ids(self) -> NDArray[np.str_]:
        """Of the training rows: those of `folds`, then those that only train."""
        return self._joined(self.folds.loc[self.training, ID].to_numpy(str), ID)

    @property
    def target(self) -> NDArray[np.int64]:
        """Of the training rows, as all below."""
        return self._joined(self.folds.loc[self.training, TARGET].to_numpy(np.int64), TARGET)

    @property
    def known_diagnoses(self) -> list[str] | None:
        if self.diagnoses is None:
            return None
        own = np.asarray(self.diagnoses, dtype=str)[self.training]
        return list(self._joined(own, "diagnosis").tolist())

    @property
    def archive(self) -> NDArray[np.bool_] | None:
        """Whether each training row is of another source; None without any."""
        if self.train_only is None or not self.train_only.rows["archive"].any():
            return None
        return self._joined(np.zeros(int(self.training.sum()), dtype=bool), "archive")

    def _joined(self, own: NDArray[Any], column: str) -> NDArray[Any]:
        if self.train_only is None:
            return own
        return np.concatenate([own, self.train_only.rows[column].to_numpy(own.dtype.type)])

    def validation_set(self, run: Run, fold: int, negatives: int) -> ValidationSet:
        """A sample of `fold` with this many negatives."""
        rows = self.folds[self.folds["fold"] == fold]
        return make_validation_set(self.tiles, rows, negatives, self.recipe.seed, run.spec)


class OutOfTime(InputError):
    """The time budget is used up; the state is saved."""


def train_fold(
    tiles: TileStore,
    folds: pd.DataFrame,
    fold: int,
    recipe: ImageRecipe,
    out_dir: Path,
    resume_dir: Path,
    tracker: Tracker,
    limits: Limits | None = None,
    name: str = "image",
    diagnoses: Sequence[object] | None = None,
    estimate: TimeEstimate | None = None,
    processes: ProcessGroup | None = None,
    backbone: str | None = None,
    train_only: TrainOnly | None = None,
) -> list[dict[str, Any]]:
    """Train on the rows of `folds` (isic_id, target, fold) outside `fold` and write the model's
    folder. Returns the history, one row per epoch.

    A recipe with `early_stop` keeps one more fold out and stops by its score, never by that of
    `fold`.

    resume_dir: holds the states of unfinished runs.
    name: stands in printed lines.
    diagnoses: `iddx_full` (n,) of the rows, for an auxiliary head or soft targets of indeterminate
        lesions.
    estimate: printed at the start and kept current.
    processes: those that a cluster started, `limits.devices` of them, each of which calls this;
        None: this process starts the others.
    backbone: name in config.json (default: `name`).
    train_only: pictures beside those of `folds`, read for this fold.

    Raises InputError for tiles that are missing or broken, a loss that is not finite, weights that
    cannot be loaded, `early_stop` with two folds; OutOfTime when `limits.max_hours` is used up.
    """
    limits = limits or Limits()
    known = None if diagnoses is None else [str(text) for text in diagnoses]
    key = _key(tiles, folds, fold, recipe, known, limits, train_only)
    own = processes or SingleProcess()
    unusable = machine.unseen_gpu()
    precision, note = own.broadcast(
        lambda: _precision(recipe.precision, own.device, resume_dir, key)
    )
    folder = _state(resume_dir, key, precision)
    settled = recipe.model_copy(update={"precision": precision})
    job = Job(tiles, folds, fold, settled, folder, name, known, limits, train_only)
    first = processes is None or processes.rank == 0

    with ExitStack() as stack:
        if first:
            stack.enter_context(checkpoint.locked(folder))
        started = process_group(limits.devices, _train_in_group, (job,))
        group = processes or stack.enter_context(started)
        console = Console(name, recipe.all_epochs, estimate, quiet=not first)
        for line in (note, f"warning: {unusable}" if unusable else ""):
            if line:
                console.write(line)

        run, scoring = _train(job, group, tracker if first else NullTracker(), console)

        if first:
            extra = {
                "tta": recipe.tta,
                "fold": fold,
                "watched_fold": job.stopping_fold,
                "backbone": backbone or name,
                "precision": precision,
                "scoring_precision": scoring,
                "train_only": train_only.sources if train_only else [],
                "recipe": recipe.model_dump(exclude={"tta"}),
            }
            save_model(out_dir, run.scored, run.spec, extra, run.progress.history)
            checkpoint.discard(folder)
    return run.progress.history


def _train_in_group(job: Job) -> None:
    """Training in a process that is not the first."""
    console = Console(job.name, job.recipe.all_epochs, quiet=True)
    _train(job, join(job.limits.devices), NullTracker(), console)


def _key(
    tiles: TileStore,
    folds: pd.DataFrame,
    fold: int,
    recipe: ImageRecipe,
    known: Any,
    limits: Limits,
    train_only: TrainOnly | None,
) -> str:
    rows = [folds[column].tolist() for column in (ID, TARGET, "fold")]
    if train_only is not None:
        rows += [train_only.rows[column].tolist() for column in train_only.rows]
        rows.append([train_only.content])
    return checkpoint.resume_key(
        recipe.training_config(),
        [*rows, fold, stopping_fold(folds, fold, recipe), known],
        tiles.path,
        limits.devices,
    )


def _state(resume_dir: Path, key: str, precision: str) -> Path:
    return resume_dir / f"{key}-{precision}"


def _precision(wanted: str, device: torch.device, resume_dir: Path, key: str) -> tuple[str, str]:
    """The number format to train in, and a line to print ("": none).

    A state saved on a machine where `auto` was another format is resumed in that format if this
    machine has it. If not, the state is kept for a machine that has.
    """
    own = machine.pick_precision(wanted, device)
    others = [
        precision
        for precision in machine.PRECISIONS
        if precision != own and checkpoint.exists(_state(resume_dir, key, precision))
    ]
    if not others or checkpoint.exists(_state(resume_dir, key, own)):
        return own, ""
    for precision in others:
        if machine.has_precision(precision, device):
            return precision, f"resumes in {precision}, as its state was saved, instead of {own}"
    lacking = f"its state was saved in {others[0]}, which this GPU lacks"
    return own, f"{lacking}: starts anew in {own} and keeps that state"


def stopping_fold(folds: pd.DataFrame, fold: int, recipe: ImageRecipe) -> int | None:
    """The fold kept out of training beside `fold`, for early stopping; None without it."""
    if recipe.early_stop is None:
        return None
    return early_stopping_fold(folds["fold"], fold, recipe.seed, "image.train.early_stop")


def _train(
    job: Job, processes: ProcessGroup, tracker: Tracker, console: Console
) -> tuple[Run, str]:
    """The trained run, and the number format for its scores."""
    recipe = job.recipe
    run = prepare(job.target, recipe, job.fold, job.known_diagnoses, processes, job.archive)
    if restore(run, job.resume):
        progress = run.progress
        console.write(f"resumes in epoch {progress.epoch + 1}, step {progress.step} of {run.steps}")
    for source in job.train_only.sources if job.train_only else ():
        console.write(describe_train_only(source))
    stopping = job.stopping_fold
    if stopping is not None:
        console.write(f"fold {stopping} is kept out of training too, for early stopping")
    console.start(run.progress.step / run.steps)

    validation = Validation(
        job.validation_set(run, job.fold, recipe.validate_negatives),
        None if stopping is None else job.validation_set(run, stopping, DECIDING_NEGATIVES),
    )
    # Each lesion is a training lesion of some fold, so all folds and backbones share one cache.
    ids, folder = job.folds[ID].to_numpy(str), job.resume.parent.parent / "decoded"
    cached = decoded(job.tiles, ids, job.limits.cache_gb, folder, console.write)
    with cached as tiles, _sigterm() as stop:
        every = JoinedTiles(tiles, job.train_only) if job.train_only else tiles
        _loop(run, job, every, validation, tracker, console, stop)
    return run, _scoring_precision(job, run)


def _scoring_precision(job: Job, run: Run) -> str:
    if run.device.type == "cpu":
        return "fp32"
    return job.validation_set(run, job.fold, DECIDING_NEGATIVES).scoring_precision(run)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM, sent on preemption, sets instead of ending the process."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can install handlers.
        yield stop
        return

    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


class _Decision(NamedTuple):
    """Whether the run must stop and whether its state is to be saved: the same in every process."""

    stop: bool
    save: bool

    def __or__(self, other: _Decision) -> _Decision:
        return _Decision(self.stop or other.stop, self.save or other.save)


_CONTINUE = _Decision(stop=False, save=False)


def _loop(
    run: Run,
    job: Job,
    tiles: Tiles,
    validation: Validation,
    tracker: Tracker,
    console: Console,
    stop: threading.Event,
) -> None:
    clock = Clock(run.progress.seconds, run.progress.step)
    pending: tuple[Sequence[Batch[Slot]], machine.Fetched] | None = None
    for group in _steps(run, job, tiles, clock):
        losses = take_step(run, group, console.write)

        # Losses are counted one step late, so that a GPU has the next step queued while the CPU
        # waits for them.
        decision = _count(run, pending, job, clock, stop) if pending else _CONTINUE
        pending = (group, losses)
        slot = group[-1].slot
        # Several processes learn by `_count` that one of them must save; a single one knows now.
        alone = run.processes.size == 1
        now = alone and (clock.save_due() or stop.is_set())
        if slot.ends_epoch or decision != _CONTINUE or now:
            decision |= _count(run, pending, job, clock, stop)
            pending = None
        console.step(run, slot, clock)

        if slot.ends_epoch:
            _end_epoch(run, validation, tracker, console, clock)
            if _no_better(run.progress.history, run.recipe.early_stop):
                return
        if run.progress.step == run.steps:
            return

        if pending is None and decision != _CONTINUE:
            run.progress.seconds = clock.total()
            clock.saving(lambda: save(run, job.resume))
        if decision.stop:
            _stop(run, job, console, stop)


def _stop(run: Run, job: Job, console: Console, stop: threading.Event) -> None:
    """Raise KeyboardInterrupt after a SIGTERM, else OutOfTime."""
    step = f"step {run.progress.step} of {run.steps}"
    if stop.is_set():
        console.write(f"stopped by SIGTERM at {step}; the state is saved")
        raise KeyboardInterrupt
    raise OutOfTime(
        f"{job.name}: image.max_hours ({job.limits.max_hours}) is used up at {step}; the state is"
        " saved, `dvc repro` resumes"
    )


def _steps(run: Run, job: Job, tiles: Tiles, clock: Clock) -> Iterator[list[Batch[Slot]]]:
    """The micro-batches of each optimiser step, from the run's current step on."""
    augment = Augmenter(run.recipe.augment, run.sampling.seed).augment_slot
    workers = job.limits.workers
    if workers is None:
        workers = default_workers(run.device, run.processes.local_size)
    group: list[Batch[Slot]] = []
    loaded = batches(tiles, job.ids, run.slots(), workers, run.device.type == "cuda", augment)
    for batch in clock.waiting(loaded):
        group.append(batch)
        if batch.slot.ends_step:
            yield group
            group = []


def _count(
    run: Run,
    pending: tuple[Sequence[Batch[Slot]], machine.Fetched],
    job: Job,
    clock: Clock,
    stop: threading.Event,
) -> _Decision:
    """Add the losses of a step to the sums of the epoch.

    A loss that is not finite raises InputError naming the tiles; in fp16 only `_SKIPS` steps in a
    row do, because the scaler leaves the weights of such a step unchanged.
    """
    group, losses = pending
    values = losses.numpy().astype(np.float64)
    rows = np.concatenate([batch.slot.rows for batch in group])
    positives = float((run.sampling.target[rows] == 1).sum())
    broken = ~np.isfinite(values)
    late = job.limits.max_hours is not None and clock.here() > job.limits.max_hours * 3600

    # All processes must save and stop at the same step, but their clocks differ: any of them
    # decides for all.
    own = (
        values[~broken].sum(),
        (~broken).sum(),
        positives,
        len(values),
        late or stop.is_set(),
        clock.save_due(),
        broken.sum(),
    )
    *sums, stopping, saving, failed = run.processes.sum(
        torch.tensor(own, dtype=torch.float64)
    ).tolist()
    progress, slot = run.progress, group[-1].slot
    progress.skipped = progress.skipped + 1 if failed else 0
    if failed and progress.skipped >= (_SKIPS if run.scaler.is_enabled() else 1):
        raise InputError(_not_finite(run, job, rows[broken], group[0].slot.epoch + 1))

    for name, value in zip(("loss", "finite", "positives", "tiles"), sums, strict=True):
        progress.epoch_sums[name] = progress.epoch_sums.get(name, 0.0) + value
    if slot.ends_epoch:
        progress.epoch, progress.micro = slot.epoch + 1, 0
    else:
        progress.epoch, progress.micro = slot.epoch, slot.micro + 1
    return _Decision(stop=stopping > 0, save=saving > 0)


def _not_finite(run: Run, job: Job, rows: NDArray[np.int64], epoch: int) -> str:
    """The error line, naming the tiles of all processes."""
    marked = torch.zeros(len(job.ids), dtype=torch.float64)
    marked[rows] = 1
    ids = job.ids[run.processes.sum(marked).numpy() > 0]
    names = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    return (
        f"{job.name}: the loss is not finite in epoch {epoch} for {names}: look at these tiles,"
        f" lower image.train.lr or set clip_grad{_wider(run)}"
    )


def _wider(run: Run) -> str:
    """Advice to train in a format of larger range, where the device has one."""
    if run.precision != "fp16":
        return ""
    wider = "bf16" if machine.has_precision("bf16", run.device) else "fp32"
    return f", or set precision to {wider}"


#: Names in the log of scores on the sampled validation lesions, which are not the fold's own.
_LOGGED = {"pauc": "val_pauc", "auc": "val_auc"}


def _end_epoch(
    run: Run, validation: Validation, tracker: Tracker, console: Console, clock: Clock
) -> None:
    row = _row(run, clock)
    row |= run.processes.broadcast(lambda: validation.score(run, row["epoch"]))
    progress = run.progress
    progress.history.append(row)
    progress.epoch_sums = {}
    values = {_LOGGED.get(name, name): value for name, value in row.items() if value is not None}
    tracker.metrics({name: float(value) for name, value in values.items()}, row["epoch"])
    # Pre-training has other pictures, another share of positives and another loss.
    training = progress.history[run.recipe.pretraining_epochs :]
    flags = red_flags(training, 1 / (1 + run.recipe.negatives_per_positive)) if training else {}
    if fresh := console.warn(flags):
        tracker.tags({f"red_flag.{name}": text for name, text in fresh.items()})
    console.epoch(row, run, clock)
    clock.restart_epoch()


def _row(run: Run, clock: Clock) -> dict[str, Any]:
    """The epoch's row of history.csv, without validation scores."""
    sums = run.progress.epoch_sums
    seconds, wait = clock.epoch()
    return {
        "epoch": run.progress.epoch,
        "loss": sums["loss"] / max(1.0, sums["finite"]),
        "pauc": None,
        "auc": None,
        "lr": max(group["lr"] for group in run.optimiser.param_groups),
        "images_per_second": sums["tiles"] / seconds,
        "positive_share": sums["positives"] / sums["tiles"],
        "data_wait": wait / seconds,
        "gpu_memory_gb": machine.peak_memory_gb(run.device),
        "seconds": seconds,
    }


def _no_better(history: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` validations of the early-stopping fold did not raise its pAUC.

    The scored fold is not used: choosing an epoch by it inflates its score. The last
    weights are kept.
    """
    scores = [row["pauc_watched"] for row in history if row.get("pauc_watched") is not None]
    return (
        patience is not None
        and len(scores) > patience
        and max(scores[-patience:]) <= max(scores[:-patience])
    )
