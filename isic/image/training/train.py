"""Trains one network on all folds but one (two with `early_stop`), and survives what happens to
long runs.

The loop is a function of recipe, rows and tiles alone: killed anywhere, it goes on from its last
saved step to the same weights, bit for bit on a CPU.
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
from isic.image.training.parallel import ProcessGroup, SingleProcess, join, world_of
from isic.image.training.run import Run, prepare, restore, save
from isic.image.training.step import take_step
from isic.image.training.validation import Exams, make_exam

#: Steps in a row without a finite loss that end a run in fp16, whose scaler skips such steps.
_SKIPS = 8


@dataclass(frozen=True)
class Limits:
    """What a run may cost; changes nothing about its weights (but `devices` by rounding)."""

    max_hours: float | None = None
    workers: int | None = None
    devices: int = 1
    cache_gb: float = 0.0


@dataclass(frozen=True)
class Job:
    """What is trained on what: equal in every process that works on it."""

    tiles: TileStore
    folds: pd.DataFrame
    fold: int
    recipe: ImageRecipe
    resume: Path
    name: str
    diagnoses: Sequence[object] | None
    limits: Limits

    @property
    def watched(self) -> int | None:
        """The fold that decides when training stops, kept out of it like the scored one; None:
        epochs are fixed.
        """
        return _watched(self.folds, self.fold, self.recipe)

    @property
    def training(self) -> NDArray[np.bool_]:
        return ~np.isin(
            self.folds["fold"], [one for one in (self.fold, self.watched) if one is not None]
        )

    @property
    def ids(self) -> NDArray[np.str_]:
        return self.folds.loc[self.training, ID].to_numpy(str)


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
    outlook: TimeEstimate | None = None,
    world: ProcessGroup | None = None,
    backbone: str | None = None,
) -> list[dict[str, Any]]:
    """Train on the rows of `folds` (isic_id, target, fold) outside `fold` and write the model's
    folder.

    A recipe with `early_stop` keeps one more fold out and stops by its scores, never by those of
    `fold`.

    `diagnoses` (n,) are the rows' `iddx_full`, for recipes with an auxiliary head or a target of
    their own for indeterminate lesions. `resume_dir` holds states of earlier, unfinished runs;
    `outlook` are estimates to say at the start and to keep current. `world`: processes that a
    cluster started, `limits.devices` of them, each calling this; None: this process starts what it
    needs. `name` is how lines call the run, `backbone` (default: `name`) what config.json keeps.
    Returns the history, one row per epoch. Raises InputError for tiles that are missing or broken,
    a loss that is not finite, weights that cannot be had, `early_stop` with two folds, and
    OutOfTime.
    """
    limits = limits or Limits()
    known = None if diagnoses is None else [str(one) for one in diagnoses]
    key = _key(tiles, folds, fold, recipe, known, limits)
    here = world or SingleProcess()
    unseen = machine.unseen_gpu()
    precision, note = here.first(lambda: _precision(recipe.precision, here.device, resume_dir, key))
    folder = _state(resume_dir, key, precision)
    settled = recipe.model_copy(update={"precision": precision})
    job = Job(tiles, folds, fold, settled, folder, name, known, limits)
    helps = world is not None and world.rank > 0
    with ExitStack() as held:
        if not helps:
            held.enter_context(checkpoint.locked(folder))
        own = world or held.enter_context(world_of(limits.devices, _help, (job,)))
        console = Console(name, recipe.epochs, outlook, quiet=helps)
        for line in (note, f"warning: {unseen}" if unseen else ""):
            if line:
                console.say(line)
        run, scoring = _train(job, own, NullTracker() if helps else tracker, console)
        if not helps:
            extra = {
                "tta": recipe.tta,
                "fold": fold,
                "watched_fold": job.watched,
                "backbone": backbone or name,
                "precision": precision,
                "scoring_precision": scoring,
                "recipe": recipe.model_dump(exclude={"tta"}),
            }
            save_model(out_dir, run.scored, run.spec, extra, run.progress.history)
            checkpoint.discard(folder)
    return run.progress.history


def _help(job: Job) -> None:
    """The work of a process that is not the first."""
    _train(
        job,
        join(job.limits.devices),
        NullTracker(),
        Console(job.name, job.recipe.epochs, quiet=True),
    )


def _key(
    tiles: TileStore,
    folds: pd.DataFrame,
    fold: int,
    recipe: ImageRecipe,
    known: Any,
    limits: Limits,
) -> str:
    rows = [folds[column].tolist() for column in (ID, TARGET, "fold")]
    watched = _watched(folds, fold, recipe)
    return checkpoint.resume_key(
        recipe.model_dump(exclude={"tta"}),
        [*rows, fold, watched, known],
        tiles.path,
        limits.devices,
    )


def _state(resume_dir: Path, key: str, precision: str) -> Path:
    return resume_dir / f"{key}-{precision}"


def _precision(wanted: str, device: torch.device, resume_dir: Path, key: str) -> tuple[str, str]:
    """The number format to train in, and what to say of it ("": nothing).

    A state of another machine, where `auto` was another format, goes on in that one where this
    machine has it. Where not, it stays for a machine that has.
    """
    own = machine.pick_precision(wanted, device)
    others = [
        one
        for one in machine.PRECISIONS
        if one != own and checkpoint.exists(_state(resume_dir, key, one))
    ]
    if not others or checkpoint.exists(_state(resume_dir, key, own)):
        return own, ""
    usable = [one for one in others if machine.has_precision(one, device)]
    if usable:
        return usable[0], f"its state is in {usable[0]}: goes on in that instead of {own}"
    return (
        own,
        (
            f"its state is in {others[0]}, which this GPU lacks: starts afresh in {own}, that state"
            " stays"
        ),
    )


def _watched(folds: pd.DataFrame, fold: int, recipe: ImageRecipe) -> int | None:
    if recipe.early_stop is None:
        return None
    return early_stopping_fold(folds["fold"], fold, recipe.seed, "image.train.early_stop")


def _train(job: Job, world: ProcessGroup, tracker: Tracker, console: Console) -> tuple[Run, str]:
    """The run at its end, and the number format for its scores."""
    training, recipe = job.training, job.recipe
    known = None if job.diagnoses is None else np.asarray(job.diagnoses)[training].tolist()
    run = prepare(
        job.folds.loc[training, TARGET].to_numpy(np.int64), recipe, job.fold, known, world
    )
    if restore(run, job.resume):
        console.say(
            f"goes on in epoch {run.progress.epoch + 1}, step {run.progress.step} of {run.steps}"
        )
    if job.watched is not None:
        console.say(f"fold {job.watched} is kept out of training as well and decides when it stops")
    console.start(run.progress.step / run.steps)
    exams = _exams(job, run)
    # Every lesion is training data of some fold: one cache of all serves every fold and backbone.
    every, place = job.folds[ID].to_numpy(str), job.resume.parent.parent / "decoded"
    with decoded(job.tiles, every, job.limits.cache_gb, place, console.say) as tiles:
        _loop(run, job, tiles, exams, tracker, console)
    return run, exams.scored.scoring_precision(run)


def _exams(job: Job, run: Run) -> Exams:
    made = [
        make_exam(
            job.tiles,
            job.folds[job.folds["fold"] == number],
            job.recipe.validate_negatives,
            job.recipe.seed,
            run.spec,
        )
        for number in (job.fold, job.watched)
        if number is not None
    ]
    return Exams(made[0], made[1] if len(made) > 1 else None)


def _loop(
    run: Run, job: Job, tiles: Tiles, exams: Exams, tracker: Tracker, console: Console
) -> None:
    with _termination() as asked:
        _steps(run, job, tiles, exams, tracker, console, asked)


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process: a machine that is taken back sends
    it.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set handlers; elsewhere the signal ends the process as ever.
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _steps(
    run: Run,
    job: Job,
    tiles: Tiles,
    exams: Exams,
    tracker: Tracker,
    console: Console,
    asked: threading.Event,
) -> None:
    clock = Clock(run.progress.seconds, run.progress.step)
    pending: tuple[Sequence[Batch], machine.Fetched] | None = None
    for group in _groups(run, job, tiles, clock):
        losses = take_step(run, group, console.say)
        # One step behind, so that a GPU has the next step queued while the CPU waits for the
        # numbers of this one.
        verdict = _count(run, pending, job, clock, asked) if pending else _GO_ON
        pending = (group, losses)
        slot = group[-1].slot
        # MultiProcess processes learn from each other's counts that one wants to save; alone it is
        # known at once.
        if (
            slot.ends_epoch
            or verdict != _GO_ON
            or (run.world.size == 1 and (clock.save_due() or asked.is_set()))
        ):
            verdict = verdict.joined(_count(run, pending, job, clock, asked))
            pending = None
        console.step(run, slot, clock)
        if slot.ends_epoch:
            _end_epoch(run, exams, tracker, console, clock)
            if _no_better(run.progress.history, run.recipe.early_stop):
                return
        if run.progress.step == run.steps:
            return
        if pending is None and verdict != _GO_ON:
            run.progress.seconds = clock.total()
            clock.saving(lambda: save(run, job.resume))
        if verdict.over and asked.is_set():
            console.say(
                f"was told to end at step {run.progress.step} of {run.steps}; the state is saved"
            )
            raise KeyboardInterrupt
        if verdict.over:
            raise OutOfTime(
                f"{job.name}: image.max_hours ({job.limits.max_hours}) is used up at step"
                f" {run.progress.step} of {run.steps}; the state is saved, `dvc repro` goes on"
            )


class _Verdict(NamedTuple):
    """Whether time is up and whether the state wants saving: the same in every process."""

    over: bool
    due: bool

    def joined(self, other: _Verdict) -> _Verdict:
        return _Verdict(self.over or other.over, self.due or other.due)


_GO_ON = _Verdict(over=False, due=False)


def _groups(run: Run, job: Job, tiles: Tiles, clock: Clock) -> Iterator[list[Batch]]:
    """The micro-batches of one optimiser step at a time, from where training stands."""
    augment = Augmenter(run.recipe.augment, run.sampling.seed).augment_slot
    slots = run.sampling.slots(run.recipe.epochs, run.progress.epoch, run.progress.micro)
    workers = (
        default_workers(run.device, run.world.size)
        if job.limits.workers is None
        else job.limits.workers
    )
    group: list[Batch] = []
    loaded = batches(tiles, job.ids, slots, workers, run.device.type == "cuda", augment)
    for batch in clock.waiting(loaded):
        group.append(batch)
        if batch.slot.ends_step:
            yield group
            group = []


def _count(
    run: Run,
    pending: tuple[Sequence[Batch], machine.Fetched],
    job: Job,
    clock: Clock,
    asked: threading.Event,
) -> _Verdict:
    """Add a step to the epoch's sums.

    A loss that is not finite ends the run and names the tiles; in fp16 only so many steps in a row
    do, for the scaler leaves the weights of such a step as they are.
    """
    group, losses = pending
    values = losses.numpy().astype(np.float64)
    rows = np.concatenate([batch.slot.rows for batch in group])
    positives = float((run.sampling.target[rows] == 1).sum())
    broken = ~np.isfinite(values)
    late = job.limits.max_hours is not None and clock.here() > job.limits.max_hours * 3600
    over = late or asked.is_set()
    # Clocks differ between processes, and all must save and stop at the same step: what one wants,
    # all do.
    here = (
        values[~broken].sum(),
        (~broken).sum(),
        positives,
        len(values),
        over,
        clock.save_due(),
        broken.sum(),
    )
    *sums, over, due, failed = run.world.sum(torch.tensor(here, dtype=torch.float64)).tolist()
    progress, slot = run.progress, group[-1].slot
    progress.skipped = progress.skipped + 1 if failed else 0
    if failed and progress.skipped >= (_SKIPS if run.scaler.is_enabled() else 1):
        raise InputError(_not_finite(run, job, rows[broken], group[0].slot.epoch + 1))
    for name, value in zip(("loss", "finite", "positives", "tiles"), sums, strict=True):
        progress.epoch_sums[name] = progress.epoch_sums.get(name, 0.0) + value
    progress.epoch, progress.micro = (
        (slot.epoch + 1, 0) if slot.ends_epoch else (slot.epoch, slot.micro + 1)
    )
    return _Verdict(over=over > 0, due=due > 0)


def _not_finite(run: Run, job: Job, rows: NDArray[np.int64], epoch: int) -> str:
    """The one line that names the tiles, whichever process had them."""
    marked = torch.zeros(len(job.ids), dtype=torch.float64)
    marked[rows] = 1
    guilty = job.ids[run.world.sum(marked).numpy() > 0]
    named = ", ".join(guilty[:8]) + (f" and {len(guilty) - 8} more" if len(guilty) > 8 else "")
    return (
        f"{job.name}: the loss is not finite in epoch {epoch} for {named}: look at these tiles,"
        f" lower image.train.lr or set clip_grad{_wider(run)}"
    )


def _wider(run: Run) -> str:
    """Advice to train in a format with larger numbers, where the device has one."""
    if run.precision != "fp16":
        return ""
    return (
        f", or set precision to {'bf16' if machine.has_precision('bf16', run.device) else 'fp32'}"
    )


def _end_epoch(run: Run, exams: Exams, tracker: Tracker, console: Console, clock: Clock) -> None:
    row = _row(run, clock)
    if row["epoch"] % exams.every(run.sampling.tiles) == 0 or row["epoch"] == run.recipe.epochs:
        row |= run.world.first(lambda: exams.score(run))
    progress = run.progress
    progress.history.append(row)
    progress.epoch_sums = {}
    tracker.metrics(
        {name: float(value) for name, value in row.items() if value is not None}, row["epoch"]
    )
    flags = red_flags(progress.history, 1 / (1 + run.recipe.negatives_per_positive))
    if fresh := console.warn(flags):
        tracker.tags({f"red_flag.{name}": text for name, text in fresh.items()})
    console.epoch(row, run, clock)
    clock.restart_epoch()


def _row(run: Run, clock: Clock) -> dict[str, Any]:
    """What an epoch leaves in history.csv, scores still empty."""
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
    """Whether the last `patience` validations of the watched fold brought no better pAUC than one
    before them.

    The scored fold has no say: choosing an epoch on it inflates it (FIELD section G). The last
    weights are kept.
    """
    seen = [row["pauc_watched"] for row in history if row.get("pauc_watched") is not None]
    return (
        patience is not None
        and len(seen) > patience
        and max(seen[-patience:]) <= max(seen[:-patience])
    )
