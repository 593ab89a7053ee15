"""One optimiser step: the gradient of a group of micro-batches, in smaller parts when memory runs
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
from isic.image.training.rng import STEP, seed, stream
from isic.image.training.run import Run
from isic.image.training.sampler import Slot


def take_step(
    run: Run, group: Sequence[Batch[Slot]], write: Callable[[str], None]
) -> machine.Fetched:
    """Train on the micro-batches of one step; returns the losses of their tiles, float32 (n,).

    The CPU only queues work and never waits for a GPU (tested), so the GPU is never idle between
    steps.

    When memory runs out, the step starts again with micro-batches computed in smaller parts. The
    gradient stays the same, as with half the batch size and twice `accumulate`. `write` prints a
    line about it.
    """
    recipe, progress = run.recipe, run.progress
    frozen = _frozen(run, group[0])
    if recipe.freeze_epochs and run.processes.size == 1:
        # With several processes, the list of averaged gradients is fixed at the start: gradients
        # of the backbone are computed and dropped.
        run.net.backbone.requires_grad_(not frozen)
    set_rate(run.optimiser, rate(*run.phase, recipe.schedule, recipe.warmup, recipe.min_lr))
    # Fetched before the optimiser's work is queued, so that they arrive sooner.
    losses = machine.Fetched(_gradients(run, group, write))
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


def _frozen(run: Run, batch: Batch[Slot]) -> bool:
    return batch.slot.epoch < run.recipe.freeze_epochs


def _gradients(run: Run, group: Sequence[Batch[Slot]], write: Callable[[str], None]) -> Tensor:
    while True:
        try:
            return torch.cat([loss for batch in group for loss in _backward(run, batch)])
        except RuntimeError as error:
            if not machine.out_of_memory(error):
                raise
            _halve(run, group)
        # Outside the handler, because the exception's traceback keeps tensors alive.
        tiles, parts = run.recipe.batch_size, run.progress.chunks
        write(
            f"out of memory: continues with micro-batches of {-(-tiles // parts)} instead of"
            f" {tiles} tiles and {parts} times the accumulation, the same tiles a step"
        )
        run.optimiser.zero_grad(set_to_none=True)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _halve(run: Run, group: Sequence[Batch[Slot]]) -> None:
    size = f"image.train.size ({run.spec.size} px)"
    if run.processes.size > 1:
        # The other processes wait for the gradients of this pass.
        raise InputError(
            f"out of memory with image.devices {run.processes.size}: halve image.train.batch_size and"
            f" double accumulate, or lower {size}; with one device this is automatic"
        )
    if run.progress.chunks >= max(len(batch.slot.rows) for batch in group):
        raise InputError(
            f"one tile at a time does not fit in memory: lower {size} or set checkpoint_gradients"
        )
    run.progress.chunks *= 2


def _backward(run: Run, batch: Batch[Slot]) -> Iterator[Tensor]:
    """Add the gradients of one micro-batch, part by part; yields the parts' losses."""
    recipe, slot = run.recipe, batch.slot
    # Random numbers depend on the position in the run alone, so no generator state is saved.
    key = (STEP, run.sampling.seed, slot.epoch, slot.micro, run.processes.rank)
    torch.manual_seed(seed(*key))
    rows = machine.to_device(batch.rows, run.device)
    pixels, target = prepare_pixels(run, batch), run.target[rows]
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
        # In training mode, batch norms update their running statistics even without gradients, and
        # drop path adds noise.
        run.net.backbone.eval()
    arrays = (pixels, target, groups, partners)
    parts = list(zip(*(values.chunk(run.progress.chunks) for values in arrays), strict=True))
    for index, (part, wanted, group, partner) in enumerate(parts):
        last = slot.ends_step and index + 1 == len(parts)
        with run.processes.no_sync(run.forward, enabled=not last):
            with machine.autocast(run.precision, run.device):
                logits, group_logits = run.forward(part)
            loss = per_tile(logits, wanted, recipe.loss, recipe.focal_gamma, recipe.label_smoothing)
            total = loss.sum()
            if group_logits is not None:
                total = total + recipe.aux_weight * group_loss(group_logits, group, partner, share)
            # `step_tiles` counts the tiles of all processes, and gradients are averaged over them.
            run.scaler.scale(total * (run.processes.size / slot.step_tiles)).backward()
        yield loss.detach()


def prepare_pixels(run: Run, batch: Batch[Slot]) -> Tensor:
    """The normalised pixels of a batch on the device, float32 (n, 3, size, size)."""
    canvas, sizes = (
        machine.to_device(values, run.device) for values in (batch.canvas, batch.sizes)
    )
    pixels = normalise(
        resize(canvas, sizes, run.spec.size, run.spec.interpolation), run.spec.mean, run.spec.std
    )
    layout = torch.channels_last if run.recipe.channels_last else torch.contiguous_format
    return pixels.contiguous(memory_format=layout)
