"""One training run: built from a recipe, saved and restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isic.core.params import ImageRecipe
from isic.image.network import device as machine
from isic.image.network.backbone import LesionNet, Spec, create, recompute
from isic.image.network.catalogue import resolve
from isic.image.training import checkpoint
from isic.image.training.checkpoint import Progress
from isic.image.training.diagnosis import GROUPS, diagnosis_groups, soften
from isic.image.training.optimizer import EMA, make_optimiser
from isic.image.training.parallel import ProcessGroup, SingleProcess
from isic.image.training.rng import WEIGHTS, seed
from isic.image.training.sampler import Sampling, Slot
from isic.image.training.start import starting_weights


@dataclass
class Run:
    """One training run. `target` (n,) in [0, 1] and `groups` (n,) or None are those of the training
    rows, on `device`. `pretraining` samples the epochs that come first, if any.
    """

    recipe: ImageRecipe
    net: LesionNet
    forward: Any  # `net`, compiled or wrapped for several processes
    spec: Spec
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: EMA | None
    sampling: Sampling
    target: Tensor
    groups: Tensor | None
    processes: ProcessGroup
    precision: str
    progress: Progress
    pretraining: Sampling | None = None

    @property
    def device(self) -> torch.device:
        return self.processes.device

    @property
    def scored(self) -> LesionNet:
        """The network that is scored and saved: the averaged one if there is one."""
        return self.average.net if self.average else self.net

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.pretraining_steps + self.sampling.steps * self.recipe.epochs

    @property
    def pretraining_steps(self) -> int:
        """Optimiser steps of the epochs of pre-training."""
        return self.pretraining.steps * self.recipe.pretraining_epochs if self.pretraining else 0

    @property
    def phase(self) -> tuple[int, int]:
        """(step, steps) of the current schedule: pre-training has one of its own."""
        step, first = self.progress.step, self.pretraining_steps
        return (step, first) if step < first else (step - first, self.steps - first)

    def sampling_of(self, epoch: int) -> Sampling:
        """Sampling of an epoch, from 0."""
        first = self.pretraining is not None and epoch < self.recipe.pretraining_epochs
        return self.pretraining if first and self.pretraining else self.sampling

    def slots(self) -> Iterator[Slot]:
        """All micro-batches of this process from the current position to the end."""
        first, progress = self.recipe.pretraining_epochs, self.progress
        epoch, micro = progress.epoch, progress.micro
        if self.pretraining is not None and epoch < first:
            yield from self.pretraining.slots(first, epoch, micro)
            epoch, micro = first, 0
        yield from self.sampling.slots(self.recipe.all_epochs, epoch, micro)


def prepare(
    target: NDArray[np.int64],
    recipe: ImageRecipe,
    fold: int,
    diagnoses: Sequence[object] | None = None,
    processes: ProcessGroup | None = None,
    archive: NDArray[np.bool_] | None = None,
) -> Run:
    """A new run. `target` (n,) are the labels of the training rows, `diagnoses` (n,) their
    `iddx_full`, for recipes that use it; `archive` (n,) marks those of other sources.
    """
    processes = processes or SingleProcess()
    device = processes.device
    machine.configure_backends(device)
    precision = machine.pick_precision(recipe.precision, device)
    grouped = recipe.aux_weight > 0 and diagnoses is not None
    net, spec = _network(recipe, fold, len(GROUPS) if grouped else 0)
    net.to(device)
    if recipe.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return Run(
        recipe=recipe,
        net=net,
        forward=processes.wrap(torch.compile(net) if recipe.compile else net),
        spec=spec,
        optimiser=make_optimiser(
            net,
            recipe.lr,
            recipe.head_lr,
            recipe.layer_decay,
            recipe.weight_decay,
            fused=device.type == "cuda",
        ),
        scaler=machine.scaler(precision, device),
        average=EMA(net, recipe.ema) if recipe.ema else None,
        sampling=_sampling(target, recipe, fold, processes, archive),
        pretraining=(
            None
            if archive is None or not recipe.pretraining_epochs
            else _sampling(target, recipe, fold, processes, ~archive, positive_repeats=1)
        ),
        target=torch.tensor(
            target if diagnoses is None else soften(target, diagnoses, recipe.indeterminate),
            dtype=torch.float32,
            device=device,
        ),
        groups=(
            torch.tensor(diagnosis_groups(diagnoses), device=device)
            if grouped and diagnoses is not None
            else None
        ),
        processes=processes,
        precision=precision,
        progress=Progress(),
    )


def _network(recipe: ImageRecipe, fold: int, groups: int) -> tuple[LesionNet, Spec]:
    model, args = resolve(recipe.model, recipe.model_args)
    torch.manual_seed(seed(WEIGHTS, recipe.seed, fold))
    weights = starting_weights(recipe.model, recipe.weights)
    net, spec = create(model, args, recipe.size, weights, recipe.dropout, recipe.drop_path, groups)
    if recipe.checkpoint_gradients:
        recompute(net, recipe.model)
    return net, spec


def _sampling(
    target: NDArray[np.int64],
    recipe: ImageRecipe,
    fold: int,
    processes: ProcessGroup,
    others: NDArray[np.bool_] | None,
    positive_repeats: int | None = None,
) -> Sampling:
    return Sampling(
        target,
        recipe.negatives_per_positive,
        positive_repeats or recipe.positive_repeats,
        recipe.batch_size,
        recipe.accumulate,
        seed=seed(recipe.seed, fold) % 2**32,
        processes=processes.size,
        rank=processes.rank,
        own=None if others is None else ~others,
        share=recipe.archive_share if recipe.archive == "mix" else 0.0,
    )


def save(run: Run, folder: Path) -> None:
    """Write the run's state, in the first process only."""
    if run.processes.rank == 0:
        checkpoint.save(folder, run.progress, _tensors(run))


def restore(run: Run, folder: Path) -> bool:
    """Load the state in `folder`; False without a usable one of this run."""
    state = checkpoint.load(folder)
    if state is None:
        return False

    progress, tensors = state
    own = {name: value.shape for name, value in _tensors(run).items()}
    fits = {name: value.shape for name, value in tensors.items()} == own
    if not fits or progress.epoch > run.recipe.all_epochs or progress.step > run.steps:
        return False
    run.progress = progress
    run.net.load_state_dict(_below(tensors, "net."))
    if run.average:
        run.average.net.load_state_dict(_below(tensors, "average."))
    if run.scaler.is_enabled():
        scale = {name: value.item() for name, value in _below(tensors, "scaler.").items()}
        run.scaler.load_state_dict(scale | {"growth_interval": int(scale["growth_interval"])})
    checkpoint.unpack_optimiser(run.optimiser, tensors)
    return True


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = {f"net.{name}": value for name, value in run.net.state_dict().items()}
    if run.average:
        tensors |= {
            f"average.{name}": value for name, value in run.average.net.state_dict().items()
        }
    scale = run.scaler.state_dict()
    tensors |= {
        f"scaler.{name}": torch.tensor(float(value), dtype=torch.float64)
        for name, value in scale.items()
    }
    return tensors | checkpoint.pack_optimiser(run.optimiser)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
