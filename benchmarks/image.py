"""Speed of the image side against its targets: loader, input path, step, embedding, validation.

Runs on the CPU always and on a GPU where there is one (the result file says which). Tiles are generated, so that
nothing but the repository is needed. Targets that only a GPU can answer stay unanswered without one.
"""

from __future__ import annotations

import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import h5py
import harness
import numpy as np
import torch
from PIL import Image

from isic.core.params import ImageRecipe, load_params
from isic.data.tiles import TileStore
from isic.image import device as machine
from isic.image.artifact import Model
from isic.image.augment import Augmenter, _compose
from isic.image.embed import embed
from isic.image.exam import Exam
from isic.image.loader import Batch, batches, default_workers
from isic.image.pixels import normalise, pack, resize
from isic.image.run import Run, prepare
from isic.image.step import see, take_step

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


def compared(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, in turn within every round: on a GPU by the clock, on a CPU of the processor.

    Nothing here runs beside the measured thread on a CPU, where processor seconds are those of an otherwise idle
    machine; the clock would count the neighbours.
    """
    now = time.perf_counter if machine.pick().type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = now()
            side()
            # The first round warms up.
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


def usual_compose() -> object:
    """The same list as `heavy` with albumentations' own elastic distortion, flips, and normalisation, for 224 px."""
    import albumentations as a

    from isic.image import augment

    own = augment._elastic_transform
    augment._elastic_transform = lambda library, **_: library.ElasticTransform(alpha=3)
    try:
        inner = list(_compose("heavy").transforms)
    finally:
        augment._elastic_transform = own
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
    exam = Exam(target[rows], levels)
    fed = groups_of(run, tiles, ids, default_workers(run.device))

    def epoch() -> None:
        for group in islice(fed, run.sampling.micro_batches):
            take_step(run, group, print)
        _settle(run.device)

    seconds = compared({"epoch": epoch, "exam": lambda: exam.score(run)}, rounds=3)
    return seconds["exam"] / (seconds["epoch"] * exam.every(run.sampling.tiles))


def main() -> None:
    quick = harness.arguments(__doc__ or "").quick
    image = load_params(harness.ROOT / "params.yaml").image
    demo = image.recipe("convnext")
    device = machine.pick()
    gpu = device.type == "cuda"
    if not gpu:
        torch.set_num_threads(1)
    names = ("eva02_base", "convnextv2_nano") if gpu else ("demo_convnext", "demo_vit")
    big = {"size": 224, "model_args": {}, "channels_last": True, "batch_size": 128, "augment": "heavy"}
    shaped = {name: image.recipe("vit" if "vit" in name else "convnext") for name in names}
    recipes = {
        name: recipe.model_copy(update=(big if gpu else {}) | {"model": name}) for name, recipe in shaped.items()
    }
    measured: dict[str, object] = {
        "device": machine.describe_devices() or "CPU",
        "torch_threads": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        tiles, ids, target = tiles_in(Path(scratch), 400 if quick else 1500)
        ratios = {}
        for name, recipe in recipes.items():
            seconds = fed_and_resident(recipe, tiles, ids, target, 6 if quick else 20)
            ratios[name] = seconds["resident"] / seconds["fed"]
        measured["a_loader"] = ratios
        paths = input_paths(tiles, ids, 128 if quick else 512, device)
        count = 128 if quick else 512
        measured |= {f"b_{name}_ms": 1e3 * paths[name] / count for name in ("usual", "ours", "loader")}
        # What a core does where a GPU resizes and normalises.
        measured["b_loader_alone"] = paths["usual"] / paths["loader"]
        measured["b_input_path"] = paths["usual"] / paths["ours"]
        seconds = steps_compared(recipes[names[0]], tiles, ids, target, 6 if quick else 20)
        measured["c_plain"] = seconds["plain"] / seconds["ours"]
        measured["c_recommended"] = seconds["recommended"] / seconds["ours"] if gpu else None
        tiny = demo.model_copy(update={"model": "vit_tiny", "model_args": {}, "size": 224})
        some = 50_000 if gpu else (64 if quick else 384)
        seconds = embedding(tiny, tiles, ids, target, some)
        measured["d_embedding"], measured["d_network"] = (
            seconds["forward"] / seconds["embed"],
            f"vit_tiny at 224, {some} tiles",
        )
        seconds = embedding(demo, tiles, ids, target, 400 if quick else 4000)
        measured["d_embedding_demo"] = seconds["forward"] / seconds["embed"]
        measured["d_memory_mb"] = memory_growth_mb(demo, tiles, ids, target, 4000 if quick else 50_000)
        measured["e_validation"] = validation_share(demo, tiles, ids, target)
    met: dict[str, bool | None] = dict.fromkeys(TARGETS)
    met["a_loader"] = all(ratio >= 0.95 for ratio in ratios.values()) if gpu else ratios["demo_convnext"] >= 0.9
    met["b_input_path"] = paths["usual"] / paths["ours"] >= 2.5
    met["d_embedding"] = float(str(measured["d_embedding"])) >= 0.9
    met["d_memory"] = float(str(measured["d_memory_mb"])) < 50
    met["e_validation"] = float(str(measured["e_validation"])) <= 0.1
    if gpu:
        met["c_plain"] = float(str(measured["c_plain"])) >= 3
        met["c_recommended"] = float(str(measured["c_recommended"])) >= 1
    harness.report("image", measured, TARGETS, met, quick)


if __name__ == "__main__":
    main()
