"""Speed of the image side against its targets: loader, input path, step, embedding, validation.

Runs on the CPU always and on a GPU where there is one (the result file says which). Tiles are generated, so that
nothing but the repository is needed: a rented GPU box needs torch and timm, no tracker, and albumentations only for
the input path. Targets that only a GPU can answer stay unanswered without one.
"""

from __future__ import annotations

import importlib.util
import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import h5py
import harness
import numpy as np
import torch
from PIL import Image

from isic.core.params import ImageRecipe, load_params
from isic.data.tiles import TileStore
from isic.image.clock import Clock
from isic.image.network import device as machine
from isic.image.network.artifact import Model
from isic.image.network.embed import embed
from isic.image.network.loader import Batch, batches, default_workers
from isic.image.network.pixels import normalise, pack, resize
from isic.image.training.augment import Augmenter, _compose
from isic.image.training.run import Run, prepare
from isic.image.training.step import see, take_step
from isic.image.training.validation import ValidationSet

PARTS = ("loader", "input", "step", "embedding", "validation")

TARGETS = {
    "a_loader": "training / same step, resident batch >= 0.95 on a GPU (eva02_base, convnextv2_nano), 0.9 on CPU",
    "b_input_path": "images a second and core / the usual per-image path >= 2.5",
    "b_wait": "data wait of a GPU epoch of eva02_base with 8 workers <= 0.05",
    "c_plain": "the step / a plain fp32 loop >= 3 on a GPU",
    "c_recommended": "the step / timm's recommended settings >= 1.0 on a GPU",
    "d_embedding": "embedding / forward only >= 0.9",
    "d_memory": "memory grows by less than 50 MB from a quarter of the tiles to all",
    "e_validation": "validation / epoch <= 0.1",
}


class Bench(NamedTuple):
    """What every part works on."""

    tiles: TileStore
    ids: np.ndarray
    target: np.ndarray
    device: torch.device
    quick: bool

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def steps(self) -> int:
        return 6 if self.quick else 20

    def recipe(self, model: str) -> ImageRecipe:
        """The demo recipe for a demo network; on a GPU 224 px, batches of 128 and the heavy list, for a real one."""
        image = load_params(harness.ROOT / "params.yaml").image
        demo = image.recipe("vit" if "vit" in model else "convnext").model_copy(update={"model": model})
        if model.startswith("demo"):
            return demo
        augment = "heavy" if _albumentations() else "flips"
        big = {"size": 224, "model_args": {}, "batch_size": 128, "augment": augment}
        # Compiling takes minutes on a CPU and pays on a GPU.
        fast = {"channels_last": True, "compile": True} if self.gpu else {}
        return demo.model_copy(update=big | fast)


Found = tuple[dict[str, Any], dict[str, bool | None]]


def _albumentations() -> bool:
    return importlib.util.find_spec("albumentations") is not None


def compared(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, in turn within every round; the first round warms up.

    On a GPU by the clock. On a CPU one thread does everything that is measured, and seconds are those of the processor:
    the clock would count the neighbours.
    """
    now = time.perf_counter if machine.pick().type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = now()
            side()
            seconds[name] += [now() - start] if number else []
    return {name: statistics.median(values) for name, values in seconds.items()}


def tiles_in(folder: Path, count: int) -> tuple[TileStore, np.ndarray, np.ndarray]:
    """Tiles of skin with a spot, sizes as in the real files; every eighth is malignant."""
    random = np.random.default_rng(0)
    ids = np.array([f"ISIC_{number:07d}" for number in range(count)])
    with h5py.File(folder / "tiles.hdf5", "w") as file:
        for name in ids:
            side = int(np.clip(random.normal(133, 18), 51, 239))
            tile = np.full((side, side, 3), random.integers(120, 220, 3), np.uint8)
            cv2.circle(tile, (side // 2, side // 2), side // 4, random.integers(30, 120, 3).tolist(), -1)
            tile = np.clip(tile + random.normal(0, 6, tile.shape), 0, 255).astype(np.uint8)
            file[str(name)] = np.bytes_(cv2.imencode(".jpg", tile)[1].tobytes())
    return TileStore(folder / "tiles.hdf5"), ids, (np.arange(count) % 8 == 0).astype(np.int64)


def groups_of(run: Run, tiles: TileStore, ids: np.ndarray, workers: int) -> Iterator[list[Batch]]:
    """Optimiser steps without end, as training gets them."""
    augment = Augmenter(run.recipe.augment, 0)
    slots = run.sampling.slots(10**6)
    for batch in batches(tiles, ids, augment, slots, workers, pin=run.device.type == "cuda"):
        yield [batch]


def fed_and_resident(
    recipe: ImageRecipe, tiles: TileStore, ids: np.ndarray, target: np.ndarray, steps: int
) -> dict[str, float]:
    """Seconds of `steps` optimiser steps fed by the loader, and on one batch that stays."""
    run = prepare(target, recipe.model_copy(update={"epochs": 10**6}), 0)
    fed = groups_of(run, tiles, ids, default_workers(run.device))
    resident = next(fed)
    # The first epoch decodes; the loader remembers tiles where it loads for itself.
    for group in islice(fed, 2 * run.sampling.micro_batches):
        take_step(run, group, print)

    def train(source: Iterator[list[Batch]]) -> None:
        for group in islice(source, steps):
            take_step(run, group, print)
        _settle(run.device)

    return compared({"fed": lambda: train(fed), "resident": lambda: train(cycle([resident]))}, rounds=5)


def usual_path(jpeg: bytes, compose: object) -> np.ndarray:
    """What most scripts do per image: Pillow, resize to 224, the heavy list there, normalise."""
    image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    return compose(image=image)["image"]  # type: ignore[operator]


def _their_affine(a: Any, shift: float, zoom: float, degrees: float, p: float) -> Any:
    return a.Affine(
        scale=(1 - zoom, 1 + zoom),
        translate_percent=(-shift, shift),
        rotate=(-degrees, degrees),
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


def usual_compose() -> object:
    """The same list as `heavy` with albumentations' own elastic and affine moves, flips, normalisation, for 224 px."""
    import albumentations as a

    from isic.image.training import augment

    own = augment._elastic_transform, augment._affine
    augment._elastic_transform = lambda library, **_: library.ElasticTransform(alpha=3)
    augment._affine = _their_affine
    try:
        inner = list(_compose("heavy").transforms)
    finally:
        augment._elastic_transform, augment._affine = own
    flips = [a.Transpose(p=0.5), a.VerticalFlip(p=0.5), a.HorizontalFlip(p=0.5)]
    return a.Compose([*flips, *inner, a.Normalize()])


def input_paths(tiles: TileStore, ids: np.ndarray, count: int, device: torch.device) -> dict[str, float]:
    """Seconds for `count` tiles on one core, by the usual path and by ours including resize and normalisation."""
    usual, ours = usual_compose(), Augmenter("heavy", 0)
    names = list(islice(cycle(ids.tolist()), count))
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    epoch = iter(range(10**6))

    def theirs() -> None:
        for start in range(0, count, 64):
            np.stack([usual_path(tiles.jpeg(name), usual) for name in names[start : start + 64]])

    def packed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        number = next(epoch)
        for start in range(0, count, 64):
            part = enumerate(names[start : start + 64], start)
            yield pack([ours(tiles.image(name), number, position) for position, name in part])

    def mine() -> None:
        for canvas, sizes in packed():
            normalise(resize(canvas.to(device), sizes, 224, "bicubic"), mean, std)
        _settle(device)

    def loader() -> None:
        for _ in packed():
            pass

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compared({"usual": theirs, "ours": mine, "loader": loader}, rounds=3)
    finally:
        torch.set_num_threads(threads)


def steps_compared(
    recipe: ImageRecipe, tiles: TileStore, ids: np.ndarray, target: np.ndarray, steps: int
) -> dict[str, float]:
    """Seconds of our step, of a plain fp32 loop and of timm's recommended settings, on the same resident pixels."""
    run = prepare(target, recipe.model_copy(update={"epochs": 10**6}), 0)
    group = next(groups_of(run, tiles, ids, 0))
    pixels, wanted = see(run, group[0]), run.target[torch.from_numpy(group[0].slot.rows).to(run.device)]
    sides: dict[str, Callable[[], None]] = {
        "ours": lambda: _repeat(lambda: take_step(run, group, print), steps, run.device)
    }
    sides["plain"] = _loop_of(recipe, target, pixels, wanted, steps, tuned=False)
    if run.device.type == "cuda":
        sides["recommended"] = _loop_of(recipe, target, pixels, wanted, steps, tuned=True)
    return compared(sides, rounds=5)


def _loop_of(
    recipe: ImageRecipe, target: np.ndarray, pixels: torch.Tensor, wanted: torch.Tensor, steps: int, tuned: bool
) -> Callable[[], None]:
    plain = recipe.model_copy(
        update={"channels_last": tuned, "compile": tuned, "precision": "auto" if tuned else "fp32"}
    )
    run = prepare(target, plain, 0)
    optimiser = torch.optim.AdamW(run.net.parameters(), lr=1e-4, fused=tuned)
    held = pixels.contiguous(memory_format=torch.channels_last if tuned else torch.contiguous_format)

    def one() -> None:
        optimiser.zero_grad()
        with machine.autocast(run.precision, run.device):
            logits = run.forward(held)[0]
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted).backward()
        optimiser.step()

    return lambda: _repeat(one, steps, run.device)


def _repeat(one: Callable[[], object], steps: int, device: torch.device) -> None:
    for _ in range(steps):
        one()
    _settle(device)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def embedding(
    recipe: ImageRecipe, tiles: TileStore, ids: np.ndarray, target: np.ndarray, count: int
) -> dict[str, float]:
    """Seconds to embed `count` tiles, and for the forward passes alone."""
    run = prepare(target, recipe, 0)
    model = Model(run.net.eval().requires_grad_(False), run.spec, "none")
    names = list(islice(cycle(ids.tolist()), count))
    held = torch.randn(128, 3, run.spec.size, run.spec.size, device=run.device)

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, count, 128):
                model.net.describe(held[: min(128, count - start)])[0].cpu()

    return compared({"embed": lambda: embed(model, tiles, names), "forward": forward}, rounds=3)


def memory_growth_mb(recipe: ImageRecipe, tiles: TileStore, ids: np.ndarray, target: np.ndarray, count: int) -> float:
    """Growth of peak memory from embedding a quarter of `count` tiles to all of them, less what is returned."""
    run = prepare(target, recipe, 0)
    model = Model(run.net.eval().requires_grad_(False), run.spec, "none")
    peaks = []
    for part in (count // 4, count):
        said = embed(model, tiles, list(islice(cycle(ids.tolist()), part)))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - said.embeddings.nbytes / 1e6)
    return peaks[1] - peaks[0]


def validation_share(recipe: ImageRecipe, tiles: TileStore, ids: np.ndarray, target: np.ndarray) -> float:
    """Seconds of a validation / seconds of the epochs it stands for, with 200 negatives and all positives held out."""
    run = prepare(target, recipe.model_copy(update={"epochs": 10**6}), 0)
    rows = np.concatenate([np.flatnonzero(target == 1)[: int(target.sum()) // 2], np.flatnonzero(target == 0)[:200]])
    levels = resize(*pack([tiles.image(name) for name in ids[rows]]), run.spec.size, run.spec.interpolation)
    exam = ValidationSet(target[rows], levels)
    fed = groups_of(run, tiles, ids, default_workers(run.device))

    def epoch() -> None:
        for group in islice(fed, run.sampling.micro_batches):
            take_step(run, group, print)
        _settle(run.device)

    seconds = compared({"epoch": epoch, "exam": lambda: exam.score(run)}, rounds=3)
    return seconds["exam"] / (seconds["epoch"] * exam.every(run.sampling.tiles))


def waiting(recipe: ImageRecipe, bench: Bench, workers: int) -> float:
    """Share of the time of `bench.steps()` optimiser steps that is spent waiting for tiles."""
    run = prepare(bench.target, recipe.model_copy(update={"epochs": 10**6}), 0)
    clock = Clock(0.0, 0)
    fed = clock.waiting(groups_of(run, bench.tiles, bench.ids, workers))
    for number, group in enumerate(islice(fed, 3 * bench.steps())):
        take_step(run, group, print)
        if number == bench.steps():
            _settle(run.device)
            clock.restart_epoch()
    _settle(run.device)
    seconds, wait = clock.epoch()
    return wait / seconds


def loader_part(bench: Bench) -> Found:
    names = ("eva02_base", "convnextv2_nano") if bench.gpu else ("demo_convnext", "demo_vit")
    ratios = {}
    for name in names:
        seconds = fed_and_resident(bench.recipe(name), bench.tiles, bench.ids, bench.target, bench.steps())
        ratios[name] = seconds["resident"] / seconds["fed"]
    worst = min(ratios.values()) if bench.gpu else ratios["demo_convnext"]
    return {"a_loader": worst, "a_each": ratios}, {"a_loader": worst >= (0.95 if bench.gpu else 0.9)}


def input_part(bench: Bench) -> Found:
    if not _albumentations():
        return {"b_note": "albumentations is not installed"}, {}
    count = 128 if bench.quick else 512
    paths = input_paths(bench.tiles, bench.ids, count, bench.device)
    measured: dict[str, Any] = {f"b_{name}_ms": 1e3 * paths[name] / count for name in ("usual", "ours", "loader")}
    # What a core does where a GPU resizes and normalises.
    measured["b_loader_alone"] = paths["usual"] / paths["loader"]
    measured["b_input_path"] = paths["usual"] / paths["ours"]
    met: dict[str, bool | None] = {"b_input_path": measured["b_input_path"] >= 2.5}
    if bench.gpu:
        measured["b_wait"] = waiting(bench.recipe("eva02_base"), bench, 8)
        measured["b_wait_vit_tiny"] = waiting(bench.recipe("vit_tiny"), bench, 8)
        met["b_wait"] = measured["b_wait"] <= 0.05
    return measured, met


def step_part(bench: Bench) -> Found:
    recipe = bench.recipe("eva02_base" if bench.gpu else "demo_convnext")
    seconds = steps_compared(recipe, bench.tiles, bench.ids, bench.target, bench.steps())
    measured: dict[str, Any] = {"c_plain": seconds["plain"] / seconds["ours"], "c_network": recipe.model}
    if not bench.gpu:
        # fp32 on both sides: nothing to gain but what the step itself costs.
        return measured, {}
    measured["c_recommended"] = seconds["recommended"] / seconds["ours"]
    return measured, {"c_plain": measured["c_plain"] >= 3, "c_recommended": measured["c_recommended"] >= 1}


def embedding_part(bench: Bench) -> Found:
    demo = bench.recipe("demo_convnext")
    real = bench.recipe("vit_tiny")
    some = 50_000 if bench.gpu else (64 if bench.quick else 256)
    args = (bench.tiles, bench.ids, bench.target)
    seconds = embedding(real, *args, some)
    small = embedding(demo, *args, 400 if bench.quick else 4000)
    measured = {
        "d_embedding": seconds["forward"] / seconds["embed"],
        "d_network": f"vit_tiny at 224 px, {some} tiles",
        "d_tiles_per_second": some / seconds["embed"],
        "d_embedding_demo": small["forward"] / small["embed"],
        "d_memory": memory_growth_mb(demo, *args, 4000 if bench.quick else 50_000),
    }
    return measured, {"d_embedding": measured["d_embedding"] >= 0.9, "d_memory": measured["d_memory"] < 50}


def validation_part(bench: Bench) -> Found:
    recipe = bench.recipe("eva02_base" if bench.gpu else "demo_convnext")
    share = validation_share(recipe, bench.tiles, bench.ids, bench.target)
    return {"e_validation": share}, {"e_validation": share <= 0.1}


def main() -> None:
    options = harness.arguments(__doc__ or "", PARTS)
    device = machine.pick()
    if device.type == "cpu":
        torch.set_num_threads(1)
    measured: dict[str, Any] = {
        "device": ", ".join(machine.describe_devices()) or "CPU",
        "torch_threads": torch.get_num_threads(),
    }
    met: dict[str, bool | None] = dict.fromkeys(TARGETS)
    parts: dict[str, Callable[[Bench], Found]] = {
        "loader": loader_part,
        "input": input_part,
        "step": step_part,
        "embedding": embedding_part,
        "validation": validation_part,
    }
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(*tiles_in(Path(scratch), 400 if options.quick else 1500), device, options.quick)
        for part in [options.only] if options.only else PARTS:
            numbers, verdicts = parts[part](bench)
            measured |= numbers
            met |= verdicts
    harness.report("image", measured, TARGETS, met, options.quick, options.only)


if __name__ == "__main__":
    main()
