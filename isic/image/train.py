"""Trains one network on all folds but one, and survives what happens to long runs.

The loop is a pure function of recipe, rows and tiles: killed anywhere, it goes on from its last saved step to the same
weights, bit for bit on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from isic.core.errors import InputError
from isic.core.metric import auc, pauc
from isic.core.params import ImageRecipe
from isic.core.schema import ID, TARGET
from isic.core.tracker import Tracker
from isic.data.tiles import TileStore
from isic.image import checkpoint
from isic.image import device as machine
from isic.image.artifact import save_model
from isic.image.augment import Augmenter
from isic.image.backbone import LesionNet, Spec, create
from isic.image.catalogue import resolve
from isic.image.checkpoint import Progress
from isic.image.loader import Batch, batches, default_workers
from isic.image.loss import mixup, per_tile
from isic.image.optimise import Average, freeze_backbone, make_optimiser, rate, set_rate
from isic.image.pixels import normalise, pack, resize
from isic.image.rng import STEP, WEIGHTS, number, stream
from isic.image.sampler import Sampling, validation_rows
from isic.image.watch import Console, duration, red_flags

#: Seconds between saved states, and how many times longer than saving them training must have run.
_SAVE_SECONDS = 5.0
_SAVE_FACTOR = 20.0
#: A validation costs at most this share of the epochs it stands for; a forward pass is a third of a training step.
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Limits:
    """What a run may cost; changes nothing about its weights."""

    max_hours: float | None = None
    workers: int | None = None
    devices: int = 1
    cache_gb: float = 0.0


class OutOfTime(InputError):
    """The time budget is used up; the state is saved."""


@dataclass
class Run:
    """The moving parts of one training run."""

    recipe: ImageRecipe
    net: LesionNet
    spec: Spec
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    sampling: Sampling
    target: Tensor
    groups: Tensor | None
    device: torch.device
    precision: str
    progress: Progress
    forward: Any = None

    @property
    def scored(self) -> LesionNet:
        """The network whose scores count: the averaged one where there is one."""
        return self.average.net if self.average else self.net

    @property
    def steps(self) -> int:
        return self.sampling.steps * self.recipe.epochs


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
    groups: NDArray[np.int64] | None = None,
) -> list[dict[str, Any]]:
    """Train on the rows of `folds` (isic_id, target, fold) outside `fold` and write the model's folder.

    `groups` (n,) are diagnosis groups of the rows for the auxiliary head, -1 where unknown. `resume_dir` holds states
    of earlier, unfinished runs. Returns the history, one row per epoch. Raises InputError for tiles that are missing
    or broken, a loss that is not finite, weights that cannot be had, and OutOfTime.
    """
    limits = limits or Limits()
    training = (folds["fold"] != fold).to_numpy()
    key = _key(tiles, folds, fold, recipe, groups, limits)
    with checkpoint.locked(resume_dir / key):
        console = Console(name, recipe.epochs)
        run = _prepare(
            folds.loc[training, TARGET].to_numpy(np.int64), recipe, fold, None if groups is None else groups[training]
        )
        if _restore(run, resume_dir / key):
            console.say(f"goes on at epoch {run.progress.epoch + 1}, step {run.progress.step} of {run.steps}")
        exam = _exam(tiles, folds[~training], recipe, run.spec)
        _loop(run, tiles, folds.loc[training, ID].to_numpy(str), exam, resume_dir / key, tracker, console, limits)
        extra = {"tta": recipe.tta, "fold": fold, "backbone": name, "recipe": recipe.model_dump()}
        save_model(out_dir, run.scored, run.spec, extra, run.progress.history)
        checkpoint.discard(resume_dir / key)
    return run.progress.history


def _key(tiles: TileStore, folds: pd.DataFrame, fold: int, recipe: ImageRecipe, groups: Any, limits: Limits) -> str:
    rows = [
        folds[ID].tolist(),
        folds[TARGET].tolist(),
        folds["fold"].tolist(),
        fold,
        None if groups is None else groups.tolist(),
    ]
    return checkpoint.resume_key(recipe.model_dump(), rows, tiles.path, limits.devices)


def _prepare(target: NDArray[np.int64], recipe: ImageRecipe, fold: int, groups: NDArray[np.int64] | None) -> Run:
    device = machine.pick()
    precision = machine.pick_precision(recipe.precision, device)
    model, args = resolve(recipe.model, recipe.model_args)
    count = int(groups.max()) + 1 if groups is not None and recipe.aux_weight else 0
    torch.manual_seed(number(WEIGHTS, recipe.seed, fold))
    net, spec = create(model, args, recipe.size, recipe.weights, recipe.dropout, recipe.drop_path, count)
    if recipe.checkpoint_gradients:
        net.backbone.set_grad_checkpointing()  # type: ignore[operator]  (every timm model has it)
    net = net.to(device, memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
    average = Average(net, recipe.ema) if recipe.ema else None
    return Run(
        recipe=recipe,
        net=net,
        spec=spec,
        optimiser=make_optimiser(
            net, recipe.lr, recipe.head_lr, recipe.layer_decay, recipe.weight_decay, fused=device.type == "cuda"
        ),
        scaler=machine.scaler(precision, device),
        average=average,
        sampling=Sampling(
            target,
            recipe.negatives_per_positive,
            recipe.positive_repeats,
            recipe.batch_size,
            recipe.accumulate,
            seed=number(recipe.seed, fold) % 2**32,
        ),
        target=torch.from_numpy(target).float().to(device),
        groups=torch.from_numpy(groups).to(device) if count and groups is not None else None,
        device=device,
        precision=precision,
        progress=Progress(),
        forward=torch.compile(net) if recipe.compile else net,
    )


# --- saved states ---------------------------------------------------------------------------------------------------


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = {f"net.{name}": value for name, value in run.net.state_dict().items()}
    if run.average:
        tensors |= {f"average.{name}": value for name, value in run.average.net.state_dict().items()}
    scale = run.scaler.state_dict()
    tensors |= {f"scaler.{name}": torch.tensor(float(value), dtype=torch.float64) for name, value in scale.items()}
    return tensors | checkpoint.pack_optimiser(run.optimiser)


def _restore(run: Run, folder: Path) -> bool:
    found = checkpoint.load(folder)
    if found is None:
        return False
    run.progress, tensors = found
    run.net.load_state_dict(_below(tensors, "net."))
    if run.average:
        run.average.net.load_state_dict(_below(tensors, "average."))
    if run.scaler.is_enabled():
        run.scaler.load_state_dict({name: value.item() for name, value in _below(tensors, "scaler.").items()})
    checkpoint.unpack_optimiser(run.optimiser, tensors)
    return True


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


# --- the loop -------------------------------------------------------------------------------------------------------


def _loop(
    run: Run,
    tiles: TileStore,
    ids: NDArray[np.str_],
    exam: Exam,
    folder: Path,
    tracker: Tracker,
    console: Console,
    limits: Limits,
) -> None:
    clock = _Clock(run.progress.seconds)
    for group in _groups(run, tiles, ids, limits, clock):
        losses = _step(run, group, console)
        _count(run, group, losses, ids)
        console.step(
            group[-1].slot.epoch,
            group[-1].slot.micro + 1,
            run.sampling.micro_batches,
            run.progress.epoch_sums["loss"] / run.progress.epoch_sums["tiles"],
            clock.remaining(run),
        )
        if group[-1].slot.ends_epoch:
            _end_epoch(run, exam, tracker, console, clock)
            if _no_better(run.progress.history, run.recipe.early_stop):
                return
        over = limits.max_hours is not None and clock.here() > limits.max_hours * 3600
        if over or clock.save_due():
            run.progress.seconds = clock.total()
            clock.saving(lambda: checkpoint.save(folder, run.progress, _tensors(run)))
        if over and run.progress.step < run.steps:
            raise OutOfTime(
                f"{console.name}: image.max_hours ({limits.max_hours}) is used up at step {run.progress.step} of {run.steps}; "
                "the state is saved, `dvc repro` goes on"
            )


def _groups(run: Run, tiles: TileStore, ids: NDArray[np.str_], limits: Limits, clock: _Clock) -> Iterator[list[Batch]]:
    """The micro-batches of one optimiser step at a time, from where training stands."""
    augment = Augmenter(run.recipe.augment, run.sampling.seed)
    slots = run.sampling.slots(run.recipe.epochs, run.progress.epoch, run.progress.micro)
    workers = default_workers(run.device) if limits.workers is None else limits.workers
    loaded = batches(tiles, ids, augment, slots, workers, run.device.type == "cuda")
    group: list[Batch] = []
    while (batch := clock.waiting(loaded)) is not None:
        group.append(batch)
        if batch.slot.ends_step:
            yield group
            group = []


def _step(run: Run, group: Sequence[Batch], console: Console) -> Tensor:
    """One optimiser step; returns the losses of its tiles (n,). Halves the micro-batch when memory runs out."""
    recipe, progress = run.recipe, run.progress
    if recipe.freeze_epochs:
        freeze_backbone(run.net, group[0].slot.epoch < recipe.freeze_epochs)
    set_rate(run.optimiser, rate(progress.step, run.steps, recipe.schedule, recipe.warmup, recipe.min_lr))
    while True:
        try:
            losses = torch.cat([loss for batch in group for loss in _backward(run, batch)])
            break
        except torch.OutOfMemoryError:
            if progress.chunks >= recipe.batch_size:
                raise
            progress.chunks *= 2
            console.say(
                f"out of GPU memory: micro-batches are now cut into {progress.chunks}, accumulation grows as much"
            )
            run.optimiser.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
    if recipe.clip_grad is not None:
        run.scaler.unscale_(run.optimiser)
        torch.nn.utils.clip_grad_norm_(run.net.parameters(), recipe.clip_grad)
    run.scaler.step(run.optimiser)
    run.scaler.update()
    run.optimiser.zero_grad(set_to_none=True)
    progress.step += 1
    if run.average:
        run.average.update(run.net, progress.step)
    return losses


def _backward(run: Run, batch: Batch) -> Iterator[Tensor]:
    """Add the gradients of one micro-batch, in chunks; yields the chunks' losses."""
    recipe, slot = run.recipe, batch.slot
    # All randomness of this micro-batch follows from its place, so none needs saving.
    key = (STEP, run.sampling.seed, slot.epoch, slot.micro)
    torch.manual_seed(number(*key))
    rows = torch.from_numpy(slot.rows).to(run.device)
    pixels = pixels_of(batch.canvas, batch.sizes, run.spec, run.device, recipe.channels_last)
    target = run.target[rows]
    groups = None if run.groups is None else run.groups[rows]
    if recipe.mixup:
        pixels, target = mixup(pixels, target, recipe.mixup, stream(*key))
        groups = None
    run.net.train()
    for part in torch.arange(len(rows), device=run.device).chunk(run.progress.chunks):
        with machine.autocast(run.precision, run.device):
            logits, guesses = run.forward(pixels[part])
        loss = per_tile(logits, target[part], recipe.loss, recipe.focal_gamma, recipe.label_smoothing)
        total = loss.sum()
        if guesses is not None and groups is not None:
            total = total + recipe.aux_weight * functional.cross_entropy(
                guesses.float(), groups[part], ignore_index=-1, reduction="sum"
            )
        run.scaler.scale(total / slot.step_tiles).backward()
        yield loss.detach()


def pixels_of(canvas: Tensor, sizes: Tensor, spec: Spec, device: torch.device, channels_last: bool) -> Tensor:
    """The normalised pixels a network sees, float32 (n, 3, size, size), made on `device` from packed tiles."""
    levels = resize(canvas.to(device, non_blocking=True), sizes, spec.size, spec.interpolation)
    pixels = normalise(levels, spec.mean, spec.std)
    return pixels.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _count(run: Run, group: Sequence[Batch], losses: Tensor, ids: NDArray[np.str_]) -> None:
    """Add a step to the epoch's sums; a loss that is not finite ends the run and names the tiles."""
    progress, slot = run.progress, group[-1].slot
    values = losses.double().cpu().numpy()
    rows = np.concatenate([batch.slot.rows for batch in group])
    if not np.isfinite(values).all():
        guilty = ", ".join(ids[rows[~np.isfinite(values)]][:8])
        raise InputError(
            f"the loss is not finite at step {progress.step} (epoch {slot.epoch + 1}) for {guilty}: look at these tiles, "
            "lower image.train.lr or set clip_grad; precision bf16 or fp32 if it is fp16"
        )
    sums = progress.epoch_sums
    positives = float((run.sampling.target[rows] == 1).sum())
    for name, value in {"loss": float(values.sum()), "tiles": float(len(values)), "positives": positives}.items():
        sums[name] = sums.get(name, 0.0) + value
    progress.epoch, progress.micro = (slot.epoch + 1, 0) if slot.ends_epoch else (slot.epoch, slot.micro + 1)


def _end_epoch(run: Run, exam: Exam, tracker: Tracker, console: Console, clock: _Clock) -> None:
    progress, sums = run.progress, run.progress.epoch_sums
    seconds, wait = clock.epoch()
    row: dict[str, Any] = {
        "epoch": progress.epoch,
        "loss": sums["loss"] / sums["tiles"],
        "pauc": None,
        "auc": None,
        "lr": max(group["lr"] for group in run.optimiser.param_groups),
        "images_per_second": sums["tiles"] / seconds,
        "positive_share": sums["positives"] / sums["tiles"],
        "data_wait": wait / seconds,
        "gpu_memory_gb": machine.peak_memory_gb(run.device),
        "seconds": seconds,
    }
    every = -(-len(exam.target) // max(1, round(3 * _VALIDATION_SHARE * run.sampling.tiles)))
    if progress.epoch % every == 0 or progress.epoch == run.recipe.epochs:
        score = exam.score(run)
        row |= {"pauc": pauc(exam.target, score), "auc": auc(exam.target, score)}
    progress.history.append(row)
    progress.epoch_sums = {}
    tracker.metrics(
        {name: float(value) for name, value in row.items() if name != "epoch" and value is not None}, row["epoch"]
    )
    share = 1 / (1 + run.recipe.negatives_per_positive)
    flags = red_flags(progress.history, share)
    fresh = {name: text for name, text in flags.items() if name not in clock.flagged}
    for name, text in fresh.items():
        console.say(f"warning: {text}")
        clock.flagged.add(name)
    if fresh:
        tracker.tags({f"red_flag.{name}": text for name, text in fresh.items()})
    if progress.epoch == 1:
        console.say(f"about {duration(clock.remaining(run) or 0)} to go for this fold")
    clock.restart_epoch()


def _no_better(history: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` validations brought no better pAUC than one before them."""
    scored = [row["pauc"] for row in history if row["pauc"] is not None]
    return patience is not None and len(scored) > patience and max(scored[-patience:]) <= max(scored[:-patience])


# --- validation while training --------------------------------------------------------------------------------------


class Exam(NamedTuple):
    """Held-out tiles scored while training: all positives and a fixed draw of negatives."""

    target: NDArray[np.int64]
    levels: Tensor  # uint8 (n, 3, size, size)

    def score(self, run: Run) -> NDArray[np.float64]:
        """Logits (n,)."""
        net = run.scored
        net.eval()
        said = []
        with torch.inference_mode(), machine.autocast(run.precision, run.device):
            for part in self.levels.split(256):
                pixels = normalise(part.to(run.device, non_blocking=True), run.spec.mean, run.spec.std)
                said.append(net(pixels)[0].float().cpu())
        return torch.cat(said).double().numpy()


def _exam(tiles: TileStore, held_out: pd.DataFrame, recipe: ImageRecipe, spec: Spec) -> Exam:
    target = held_out[TARGET].to_numpy(np.int64)
    rows = validation_rows(target, recipe.validate_negatives, recipe.seed)
    ids = held_out[ID].to_numpy(str)[rows]
    levels = [
        resize(*pack([tiles.image(name) for name in part]), spec.size, spec.interpolation)
        for part in np.array_split(ids, -(-len(ids) // 128))
    ]
    return Exam(target[rows], torch.cat(levels))


# --- time -----------------------------------------------------------------------------------------------------------


class _Clock:
    """Time of this process, of its epoch, of waiting for tiles, and since the last saved state."""

    def __init__(self, before: float) -> None:
        self._before = before
        self._start = self._saved = time.perf_counter()
        self._saving = 0.0
        self._steps: int | None = None
        self.flagged: set[str] = set()
        self.restart_epoch()

    def restart_epoch(self) -> None:
        self._epoch = time.perf_counter()
        self._wait = 0.0

    def here(self) -> float:
        """Seconds of this process."""
        return time.perf_counter() - self._start

    def total(self) -> float:
        """Seconds of this and earlier processes."""
        return self._before + self.here()

    def waiting(self, loaded: Iterator[Batch]) -> Batch | None:
        start = time.perf_counter()
        batch = next(loaded, None)
        self._wait += time.perf_counter() - start
        return batch

    def epoch(self) -> tuple[float, float]:
        """(seconds of the epoch so far, of which waiting for tiles)."""
        return max(1e-9, time.perf_counter() - self._epoch), self._wait

    def remaining(self, run: Run) -> float | None:
        """Estimated seconds to the end, from the pace of this process; None before its first step."""
        if self._steps is None:
            self._steps = run.progress.step - 1
        done = run.progress.step - self._steps
        return self.here() / done * (run.steps - run.progress.step) if done > 0 else None

    def save_due(self) -> bool:
        return time.perf_counter() - self._saved > max(_SAVE_SECONDS, _SAVE_FACTOR * self._saving)

    def saving(self, save: Any) -> None:
        start = time.perf_counter()
        save()
        self._saved = time.perf_counter()
        self._saving = self._saved - start
