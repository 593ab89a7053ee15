"""One optimiser step: gradients of a group of micro-batches, in smaller parts where memory runs
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from isic.core.errors import InputError
from isic.image.network import device as machine
from isic.image.network.loader import Batch
from isic.image.network.pixels import normalise, resize
from isic.image.training.loss import blend, group_loss, mixing, per_tile
from isic.image.training.optimizer import rate, set_rate
from isic.image.training.rng import STEP, number, stream
from isic.image.training.run import Run


def take_step(run: Run, group: Sequence[Batch], say: Callable[[str], None]) -> machine.Fetched:
    """Train on the micro-batches of one step; returns the losses of their tiles, float32 (n,), on
    their way.

    The CPU only queues work here and never waits for a GPU (tested), so the GPU has the next step
    before it needs it.

    Out of GPU memory halves the parts a micro-batch is computed in and starts the step again: the
    same gradient from more, smaller pieces, as if the batch size were halved and `accumulate`
    doubled.
    """
    recipe, progress = run.recipe, run.progress
    frozen = _frozen(run, group[0])
    if recipe.freeze_epochs and run.world.size == 1:
        # Several processes agreed at their start on whose gradients they average: there they are
        # made and dropped.
        run.net.backbone.requires_grad_(not frozen)
    set_rate(
        run.optimiser, rate(progress.step, run.steps, recipe.schedule, recipe.warmup, recipe.min_lr)
    )
    # Fetched before the optimiser's work is queued: they are there that much sooner.
    losses = machine.Fetched(_gradients(run, group, say))
    if frozen:
        run.net.backbone.zero_grad(set_to_none=True)
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


def _frozen(run: Run, batch: Batch) -> bool:
    return batch.slot.epoch < run.recipe.freeze_epochs


def _gradients(run: Run, group: Sequence[Batch], say: Callable[[str], None]) -> Tensor:
    while True:
        try:
            return torch.cat([loss for batch in group for loss in _backward(run, batch)])
        except RuntimeError as error:
            if not machine.out_of_memory(error):
                raise
            _halve(run, group)
        # Outside the handler: the exception's traceback holds the tensors that have to go.
        tiles, parts = run.recipe.batch_size, run.progress.chunks
        say(
            f"out of memory: micro-batches of {-(-tiles // parts)} instead of {tiles} tiles and"
            f" {parts} times the accumulation from here on, the same tiles a step"
        )
        run.optimiser.zero_grad(set_to_none=True)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _halve(run: Run, group: Sequence[Batch]) -> None:
    size = f"image.train.size ({run.spec.size} px)"
    if run.world.size > 1:
        # The other processes would wait for gradients of the abandoned pass.
        raise InputError(
            f"out of memory with image.devices {run.world.size}: halve image.train.batch_size and"
            f" double accumulate, or lower {size}; one device alone halves by itself"
        )
    if run.progress.chunks >= max(len(batch.slot.rows) for batch in group):
        raise InputError(
            f"one tile at a time does not fit in memory: lower {size} or set checkpoint_gradients"
        )
    run.progress.chunks *= 2


def _backward(run: Run, batch: Batch) -> Iterator[Tensor]:
    """Add the gradients of one micro-batch, part by part; yields the parts' losses."""
    recipe, slot = run.recipe, batch.slot
    # All randomness of this micro-batch follows from its place, so none needs saving.
    key = (STEP, run.sampling.seed, slot.epoch, slot.micro, run.world.rank)
    torch.manual_seed(number(*key))
    rows = machine.to_device(batch.rows, run.device)
    pixels, target = see(run, batch), run.target[rows]
    groups = torch.full_like(rows, -1) if run.groups is None else run.groups[rows]
    partners, share = groups, 1.0
    if recipe.mixup:
        other, share = mixing(len(rows), recipe.mixup, stream(*key))
        other = machine.to_device(other, run.device)
        pixels, target, partners = (
            blend(pixels, other, share),
            blend(target, other, share),
            groups[other],
        )
    run.net.train()
    if _frozen(run, batch):
        # Batch norms move their running statistics in every training pass, gradients or not;
        # drop-path is noise.
        run.net.backbone.eval()
    whole = (pixels, target, groups, partners)
    parts = list(zip(*(values.chunk(run.progress.chunks) for values in whole), strict=True))
    for number_, (part, wanted, group, partner) in enumerate(parts):
        last = slot.ends_step and number_ + 1 == len(parts)
        with run.world.no_sync(run.forward, hold=not last):
            with machine.autocast(run.precision, run.device):
                logits, guesses = run.forward(part)
            loss = per_tile(logits, wanted, recipe.loss, recipe.focal_gamma, recipe.label_smoothing)
            total = loss.sum()
            if guesses is not None:
                total = total + recipe.aux_weight * group_loss(guesses, group, partner, share)
            # Several processes average their gradients; a step's tiles are those of all of them.
            run.scaler.scale(total * (run.world.size / slot.step_tiles)).backward()
        yield loss.detach()


def see(run: Run, batch: Batch) -> Tensor:
    """The normalised pixels of a batch on the device, float32 (n, 3, size, size)."""
    canvas, sizes = (machine.to_device(one, run.device) for one in (batch.canvas, batch.sizes))
    pixels = normalise(
        resize(canvas, sizes, run.spec.size, run.spec.interpolation), run.spec.mean, run.spec.std
    )
    layout = torch.channels_last if run.recipe.channels_last else torch.contiguous_format
    return pixels.contiguous(memory_format=layout)
