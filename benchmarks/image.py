"""Speed of the image side against its targets: loader, input path, step, embedding, formats,
validation, compiling.

Runs on a GPU if there is one, else on the CPU, in parts. Every number is reported at once, and the
other parts are measured after a failed one. On a GPU the networks and the recipe are those of the
full preset, from random weights, on a CPU the demo's. Tiles are the real ones (ISIC_REAL_DATA) or
generated. A rented GPU machine needs torch, timm and the packages of `benchmarks/gpu_wheels.py`.
Targets for a GPU are not measured without one.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import io
import resource
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import h5py
import harness
import numpy as np
import torch
from PIL import Image

from isic.core.metric import pauc
from isic.core.params import ImageRecipe, load_params, read_yaml
from isic.data.tiles import TileStore
from isic.image.clock import Clock
from isic.image.network import device as machine
from isic.image.network.artifact import Model
from isic.image.network.catalogue import CATALOGUE
from isic.image.network.embed import embed
from isic.image.network.loader import Batch, batches, default_workers
from isic.image.network.pixels import normalise, pack, resize
from isic.image.training.augment import Augmenter, _compose
from isic.image.training.run import Run, prepare
from isic.image.training.step import prepare_pixels, take_step
from isic.image.training.validation import ValidationSet
from isic.scale.estimate import memory_gb

PARTS = ("step", "loader", "parity", "embedding", "compile", "validation", "input")

TARGETS = {
    "a_loader": (
        "training / same step, resident batch >= 0.95 on a GPU (eva02_base, convnextv2_nano), 0.9"
        " on CPU"
    ),
    "b_input_path": "images a second and core / the usual per-image path >= 2.5",
    "b_wait": "data wait of a GPU epoch of eva02_base with 8 workers <= 0.05",
    "c_plain": "the step / a plain fp32 loop >= 3 on a GPU",
    "c_recommended": "the step / timm's recommended settings >= 1.0 on a GPU",
    "d_embedding": "embedding / forward only >= 0.9",
    "d_memory": "memory grows by less than 50 MB from a quarter of the tiles to all",
    "e_validation": "validation / epoch <= 0.1",
    "f_parity": (
        "fp16 against fp32 on a GPU: median <= 3e-3, max <= 2e-2 of a logit, pAUC within 5e-4"
    ),
}

#: The presets' backbones by their names there.
GUIDE = ("eva02", "convnext")


class Bench(NamedTuple):
    """Data, device and models of all parts."""

    tiles: TileStore
    ids: np.ndarray
    target: np.ndarray
    device: torch.device
    quick: bool
    runs: dict[str, Run]  # cached by model: drawing the weights of a large one takes seconds

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def models(self) -> tuple[str, ...]:
        return GUIDE if self.gpu else ("demo_convnext", "demo_vit")

    def steps(self) -> int:
        return 6 if self.quick else 8 if self.gpu else 20

    def run(self, model: str) -> Run:
        """An endless run, at the recipe's full learning rate from the first step."""
        if model not in self.runs:
            endless = {"epochs": 10**6, "warmup": 0.0, "schedule": "constant"}
            self.runs[model] = prepare(
                self.target, self.recipe(model).model_copy(update=endless), 0
            )
        return self.runs[model]

    def model(self, name: str, precision: str) -> Model:
        """The run's current network, for scoring in one number format."""
        run = self.run(name)
        net = copy.deepcopy(run.net).eval().requires_grad_(False)
        return Model(net, run.spec, "none", precision)

    def recipe(self, model: str) -> ImageRecipe:
        """The full preset's recipe for its backbones, from random weights; the demo's for a demo
        network.
        """
        image = load_params(harness.ROOT / "params.yaml").image
        if model.startswith("demo"):
            recipe = image.recipe(model.removeprefix("demo_"))
            return recipe.model_copy(update=harness.RANDOM_START)
        if model not in GUIDE:
            more = harness.RANDOM_START | {"model": model, "model_args": {}, "size": 224}
            return image.recipe("vit").model_copy(update=more)
        laid = read_yaml(harness.ROOT / "pipelines" / "presets" / "full.yaml")["image"]
        values = image.train.model_dump() | laid["train"] | laid["backbones"]["__replace__"][model]
        augment = values["augment"] if _albumentations() else "flips"
        return ImageRecipe.model_validate(
            values
            | {"weights": "none", "augment": augment, "tta": "none"}
            | {"validate_negatives": laid["validate_negatives"]}
        )


#: Measured numbers, and whether targets are met.
Measurements = Iterator[tuple[dict[str, Any], dict[str, bool | None]]]


def _albumentations() -> bool:
    return importlib.util.find_spec("albumentations") is not None


def compared(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, in turn within every round; the first round warms up.

    Wall seconds on a GPU. On a CPU one thread does all measured work, and processor seconds leave
    out other load.
    """
    now = time.perf_counter if machine.pick().type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            start = now()
            side()
            seconds[name] += [now() - start] if turn else []
    return {name: statistics.median(values) for name, values in seconds.items()}


def tiles_in(folder: Path, count: int) -> tuple[TileStore, np.ndarray, np.ndarray]:
    """Real tiles if available, else drawn ones of the real sizes; every eighth is malignant."""
    real = harness.real_data()
    if real is not None:
        return _real_tiles(real, count)
    random = np.random.default_rng(0)
    ids = np.array([f"ISIC_{number:07d}" for number in range(count)])
    with h5py.File(folder / "tiles.hdf5", "w") as file:
        for name in ids:
            side = int(np.clip(random.normal(133, 18), 51, 239))
            tile = np.full((side, side, 3), random.integers(120, 220, 3), np.uint8)
            cv2.circle(
                tile, (side // 2, side // 2), side // 4, random.integers(30, 120, 3).tolist(), -1
            )
            tile = np.clip(tile + random.normal(0, 6, tile.shape), 0, 255).astype(np.uint8)
            file[str(name)] = np.bytes_(cv2.imencode(".jpg", tile)[1].tobytes())
    return TileStore(folder / "tiles.hdf5"), ids, (np.arange(count) % 8 == 0).astype(np.int64)


def _real_tiles(real: Path, count: int) -> tuple[TileStore, np.ndarray, np.ndarray]:
    """All malignant tiles and the first benign ones, shuffled."""
    import pandas as pd

    frame = pd.read_csv(real / "tiles" / "labels.csv")[["isic_id", "target"]]
    kept = frame.sort_values("target", ascending=False, kind="stable").head(count)
    kept = kept.sample(frac=1, random_state=0)
    store = TileStore(real / "tiles" / "train-image.hdf5")
    return store, kept["isic_id"].to_numpy(str), kept["target"].to_numpy(np.int64)


def groups_of(run: Run, tiles: TileStore, ids: np.ndarray, workers: int) -> Iterator[list[Batch]]:
    """Endless batches of optimiser steps, as in training."""
    augment = Augmenter(run.recipe.augment, 0).augment_slot
    slots = run.sampling.slots(10**6)
    group: list[Batch] = []
    for batch in batches(tiles, ids, slots, workers, run.device.type == "cuda", augment):
        group.append(batch)
        if batch.slot.ends_step:
            yield group
            group = []


def train(run: Run, source: Iterator[list[Batch]], steps: int) -> None:
    """Some optimiser steps; the losses of each are read one step later, as in training."""
    losses = None
    for group in islice(source, steps):
        before, losses = losses, take_step(run, group, print)
        if before is not None:
            before.numpy()
    _settle(run.device)


def fed_and_resident(run: Run, bench: Bench) -> dict[str, float]:
    """Seconds of optimiser steps fed by the loader, and on the resident batches of one step."""
    fed = groups_of(run, bench.tiles, bench.ids, default_workers(run.device))
    resident, steps = cycle([next(fed)]), bench.steps()
    # The first epochs decode; without loader processes the loader caches tiles.
    train(run, fed, 20 if bench.gpu else 2 * run.sampling.steps)
    sides = {"fed": lambda: train(run, fed, steps), "resident": lambda: train(run, resident, steps)}
    return compared(sides, rounds=3 if bench.gpu else 5)


def usual_path(jpeg: bytes, compose: object) -> np.ndarray:
    """The usual path per image: Pillow, resize to 224, the heavy list at that size, normalise."""
    image = np.asarray(
        Image.open(io.BytesIO(jpeg)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    )
    return compose(image=image)["image"]  # type: ignore[operator]


def _their_affine(
    a: Any, shift: float, zoom: float, degrees: float, p: float, zooms: int = 2
) -> Any:
    return a.Affine(
        scale=(1 - zoom, 1 + zoom),
        translate_percent=(-shift, shift),
        rotate=(-degrees, degrees),
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
        keep_ratio=zooms == 1,
    )


def usual_compose() -> object:
    """The same list as `heavy` with albumentations' own elastic and affine moves, flips,
    normalisation, for 224 px.
    """
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


def input_paths(
    tiles: TileStore, ids: np.ndarray, count: int, device: torch.device
) -> dict[str, float]:
    """Seconds for `count` tiles on one core, by the usual path and by ours, with resize and
    normalisation.
    """
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
        return compared(
            {"usual": theirs, "ours": mine, "loader": loader},
            rounds=2 if device.type == "cuda" else 3,
        )
    finally:
        torch.set_num_threads(threads)


def step_sides(run: Run, bench: Bench, steps: int, compiled: bool) -> dict[str, Callable[[], None]]:
    """Some steps of ours, a plain fp32 loop, and timm's settings, on the same resident tiles.

    Ours has the whole recipe: resize and normalisation of raw tiles, mixup, accumulation, clipping,
    averaged weights. The others get normalised pixels and do forward, backward and AdamW on as many
    tiles.
    """
    group = next(groups_of(run, bench.tiles, bench.ids, 8 if bench.gpu else 0))
    wanted = [run.target[torch.from_numpy(batch.slot.rows).to(run.device)] for batch in group]
    pairs = list(zip([prepare_pixels(run, batch) for batch in group], wanted, strict=True))
    ours = dataclasses.replace(run, forward=torch.compile(run.net)) if compiled else run
    sides: dict[str, Callable[[], None]] = {"ours": lambda: train(ours, cycle([group]), steps)}
    if not compiled:
        sides["plain"] = _loop_of(run, pairs, steps, tuned=False, compiled=False)
    if bench.gpu:
        sides["timm"] = _loop_of(run, pairs, steps, tuned=True, compiled=compiled)
    return sides


def _loop_of(
    run: Run,
    pairs: list[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    tuned: bool,
    compiled: bool,
) -> Callable[[], None]:
    """Plain: float32 without TF32. Tuned: 16 bits, channels last, fused AdamW, cudnn.benchmark,
    TF32 for the rest.
    """
    layout = torch.channels_last if tuned else torch.contiguous_format
    net = copy.deepcopy(run.net).to(memory_format=layout).train()
    forward = torch.compile(net) if compiled else net
    precision = machine.pick_precision("auto" if tuned else "fp32", run.device)
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=1e-4, fused=tuned and run.device.type == "cuda"
    )
    held = [(pixels.contiguous(memory_format=layout), wanted) for pixels, wanted in pairs]

    def one() -> None:
        for pixels, wanted in held:
            optimiser.zero_grad()
            with machine.autocast(precision, run.device):
                logits = forward(pixels)[0]
            torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted).backward()
            optimiser.step()

    def repeat() -> None:
        torch.backends.cudnn.benchmark = tuned
        with nullcontext() if tuned else machine.exact_products():
            for _ in range(steps):
                one()
            _settle(run.device)
        machine.configure_backends(run.device)

    return repeat


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def embedding(bench: Bench, name: str, count: int, precision: str) -> dict[str, float]:
    """Seconds to embed `count` tiles in one number format, and for the forward passes alone."""
    model = bench.model(name, precision)
    names = list(islice(cycle(bench.ids.tolist()), count))
    side, device = model.spec.size, bench.device
    held = torch.randn(128, 3, side, side, device=device).contiguous(
        memory_format=torch.channels_last
    )

    def forward() -> None:
        with torch.inference_mode(), machine.exact_products():
            for start in range(0, count, 128):
                with machine.autocast(precision, device):
                    logits = model.net.logits_and_embeddings(held[: min(128, count - start)])[0]
            logits.cpu()

    sides = {"embed": lambda: embed(model, bench.tiles, names), "forward": forward}
    return compared(sides, rounds=1 if bench.gpu else 3)


def memory_growth_mb(bench: Bench, name: str, count: int) -> float:
    """Growth of peak memory from embedding a quarter of `count` tiles to all, without the result
    itself.
    """
    model = bench.model(name, "fp32")
    peaks = []
    for part in (count // 4, count):
        scores = embed(model, bench.tiles, list(islice(cycle(bench.ids.tolist()), part)))
        peaks.append(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            - scores.embeddings.nbytes / 1e6
        )
    return peaks[1] - peaks[0]


def validation_share(run: Run, bench: Bench) -> float:
    """Seconds of a validation / seconds of the epochs between two of them.

    Held out: half of the positives, and 200 negatives on a CPU, on a GPU those of the recipe.
    """
    target = bench.target
    negatives = run.recipe.validate_negatives if bench.gpu else 200
    positive = np.flatnonzero(target == 1)[: int(target.sum()) // 2]
    rows = np.concatenate([positive, np.flatnonzero(target == 0)[:negatives]])
    tiles = [bench.tiles.image(name) for name in bench.ids[rows]]
    levels = resize(*pack(tiles), run.spec.size, run.spec.interpolation)
    exam = ValidationSet(target[rows], levels.pin_memory() if bench.gpu else levels)
    fed = groups_of(run, bench.tiles, bench.ids, default_workers(run.device))
    sides = {"epoch": lambda: train(run, fed, run.sampling.steps), "exam": lambda: exam.score(run)}
    seconds = compared(sides, rounds=2 if bench.gpu else 3)
    return seconds["exam"] / (seconds["epoch"] * exam.interval(run.sampling.tiles))


def waiting(run: Run, bench: Bench, workers: int) -> float:
    """Share of the time of some optimiser steps that is spent waiting for tiles."""
    clock = Clock(0.0, 0)
    fed = clock.waiting(groups_of(run, bench.tiles, bench.ids, workers))
    train(run, fed, bench.steps() // 2)
    clock.restart_epoch()
    train(run, fed, 2 * bench.steps())
    seconds, wait = clock.epoch()
    return wait / seconds


def formats_compared(bench: Bench, name: str, count: int) -> Iterator[dict[str, Any]]:
    """Scores of `count` tiles by a partly trained network in every number format.

    Differences are those to fp32 on the same GPU without TF32; `home` compares that with fp32 on
    the CPU.
    """
    names, target = bench.ids[:count].tolist(), bench.target[:count]

    def scores(precision: str, ids: list[str]) -> np.ndarray:
        return embed(bench.model(name, precision), bench.tiles, ids).logits

    exact = scores("fp32", names)
    area = pauc(target, exact)
    done = bench.run(name).optimiser.state_dict()["state"][0]["step"]
    yield {"tiles": count, "steps": int(done), "sd": float(exact.std()), "pauc": area}
    for precision in ("fp16", "bf16"):
        other = scores(precision, names)
        yield {precision: _difference(other, exact) | {"pauc": abs(pauc(target, other) - area)}}
    yield {"tf32": _difference(_tf32(bench, name, names[:256]), exact[:256])}
    there = machine.pick
    machine.pick = lambda: torch.device("cpu")
    try:
        yield {"home": _difference(scores("fp32", names[:64]), exact[:64])}
    finally:
        machine.pick = there


def _tf32(bench: Bench, name: str, names: list[str]) -> np.ndarray:
    """Logits in fp32 with TF32 products, on pixels computed without TF32."""
    model, logits = bench.model(name, "fp32"), []
    spec = model.spec
    machine.configure_backends(bench.device)
    with torch.inference_mode():
        for start in range(0, len(names), 128):
            canvas, sizes = pack([bench.tiles.image(name) for name in names[start : start + 128]])
            levels = resize(
                canvas.to(bench.device), sizes.to(bench.device), spec.size, spec.interpolation
            )
            logits.append(
                model.net.logits_and_embeddings(normalise(levels, spec.mean, spec.std))[0].cpu()
            )
    return torch.cat(logits).numpy()


def _difference(logits: np.ndarray, other: np.ndarray) -> dict[str, float]:
    difference = np.abs(logits.astype(np.float64) - other)
    return {"median": float(np.median(difference)), "max": float(difference.max())}


def loader_part(bench: Bench) -> Measurements:
    ratios: dict[str, float] = {}
    for name in bench.models:
        run = bench.run(name)
        machine.peak_memory_gb(bench.device)
        seconds = fed_and_resident(run, bench)
        ratios[name] = seconds["resident"] / seconds["fed"]
        tiles = bench.steps() * run.recipe.batch_size * run.recipe.accumulate
        measured: dict[str, Any] = {f"a_tiles_per_second_{name}": tiles / seconds["fed"]}
        if bench.gpu:
            measured[f"a_memory_gb_{name}"] = machine.peak_memory_gb(bench.device)
            measured[f"a_memory_gb_estimated_{name}"] = memory_gb(
                run.recipe, CATALOGUE[run.recipe.model]
            )
        yield measured | {"a_each": dict(ratios)}, {}
    worst = min(ratios.values()) if bench.gpu else ratios["demo_convnext"]
    yield {"a_loader": worst}, {"a_loader": worst >= (0.95 if bench.gpu else 0.9)}


def input_part(bench: Bench) -> Measurements:
    if not _albumentations():
        yield {"b_note": "albumentations is not installed"}, {}
        return
    if bench.gpu:
        wait = waiting(bench.run("eva02"), bench, 8)
        yield {"b_wait": wait}, {"b_wait": wait <= 0.05}
        yield {"b_wait_convnext": waiting(bench.run("convnext"), bench, 8)}, {}
    count = 128 if bench.quick or bench.gpu else 512
    paths = input_paths(bench.tiles, bench.ids, count, bench.device)
    measured: dict[str, Any] = {
        f"b_{name}_ms": 1e3 * paths[name] / count for name in ("usual", "ours", "loader")
    }
    # Work of a core when a GPU resizes and normalises.
    measured["b_loader_alone"] = paths["usual"] / paths["loader"]
    measured["b_input_path"] = paths["usual"] / paths["ours"]
    yield measured, {"b_input_path": measured["b_input_path"] >= 2.5}


def step_part(bench: Bench) -> Measurements:
    plain, timm = [], []
    steps, rounds = (4, 3) if bench.gpu else (bench.steps(), 5)
    for name in bench.models if bench.gpu else bench.models[:1]:
        seconds = compared(step_sides(bench.run(name), bench, steps, compiled=False), rounds)
        measured = {f"c_{side}_ms_{name}": 1e3 * value / steps for side, value in seconds.items()}
        plain.append(seconds["plain"] / seconds["ours"])
        measured[f"c_plain_{name}"] = plain[-1]
        if bench.gpu:
            timm.append(seconds["timm"] / seconds["ours"])
            measured[f"c_recommended_{name}"] = timm[-1]
        yield measured, {}
    if not bench.gpu:
        # fp32 on both sides: measures the cost of the step itself.
        yield {"c_plain": min(plain)}, {}
        return
    met = {"c_plain": min(plain) >= 3, "c_recommended": min(timm) >= 1}
    yield {"c_plain": min(plain), "c_recommended": min(timm)}, met


def compile_part(bench: Bench) -> Measurements:
    """Compiled steps of ours and of timm's settings. Left out on a CPU, where compiling takes
    minutes.
    """
    for name in reversed(bench.models) if bench.gpu else ():
        sides = step_sides(bench.run(name), bench, 4, compiled=True)
        for side, go in sides.items():
            started = time.perf_counter()
            go()
            yield {f"g_compile_seconds_{name}_{side}": time.perf_counter() - started}, {}
            seconds = compared({side: go}, rounds=3)
            yield {f"g_compiled_ms_{name}_{side}": 1e3 * seconds[side] / 4}, {}


def embedding_part(bench: Bench) -> Measurements:
    shares = []
    counts = (
        {"eva02": 6_400, "convnext": 19_200}
        if bench.gpu
        else {"vit_tiny": 128 if bench.quick else 256}
    )
    for name, count in counts.items():
        for precision in ("fp16", "bf16", "fp32") if bench.gpu else ("fp32",):
            tiles = count if precision == "fp16" or not bench.gpu else count // 4
            seconds = embedding(bench, name, tiles, precision)
            share = seconds["forward"] / seconds["embed"]
            shares += [share] if precision == ("fp16" if bench.gpu else "fp32") else []
            measured = {
                f"d_tiles_per_second_{name}_{precision}": tiles / seconds["embed"],
                f"d_forward_tiles_per_second_{name}_{precision}": tiles / seconds["forward"],
                f"d_embedding_{name}_{precision}": share,
            }
            yield measured, {}
    summary = {"d_embedding": min(shares), "d_network": f"{', '.join(counts)} at 224 px"}
    yield summary, {"d_embedding": min(shares) >= 0.9}
    small = embedding(bench, "demo_convnext", 400 if bench.quick else 4000, "fp32")
    yield {"d_embedding_demo": small["forward"] / small["embed"]}, {}
    growth = memory_growth_mb(bench, "demo_convnext", 4000 if bench.quick or bench.gpu else 50_000)
    yield {"d_memory": growth}, {"d_memory": growth < 50}


def parity_part(bench: Bench) -> Measurements:
    """Number formats differ on a GPU only: a CPU scores in fp32."""
    differences: dict[str, dict[str, Any]] = {}
    for name in GUIDE if bench.gpu else ():
        differences[name] = {}
        for part in formats_compared(bench, name, 600 if bench.quick else 2000):
            differences[name] |= part
            yield {"f_each": differences}, {}
    if differences:
        worst = {
            key: max(difference["fp16"][key] for difference in differences.values())
            for key in ("median", "max", "pauc")
        }
        met = worst["median"] <= 3e-3 and worst["max"] <= 2e-2 and worst["pauc"] <= 5e-4
        yield {"f_parity": worst["max"]}, {"f_parity": met}


def validation_part(bench: Bench) -> Measurements:
    share = validation_share(bench.run("eva02" if bench.gpu else "demo_convnext"), bench)
    yield {"e_validation": share}, {"e_validation": share <= 0.1}


def main() -> int:
    options = harness.arguments(__doc__ or "", PARTS)
    device = machine.pick()
    if device.type == "cpu":
        torch.set_num_threads(1)
    about = {
        "device": ", ".join(machine.describe_devices()) or "CPU",
        "torch_threads": torch.get_num_threads(),
        "tiles": "real" if harness.real_data() else "generated",
    }
    parts: dict[str, Callable[[Bench], Measurements]] = {
        "loader": loader_part,
        "input": input_part,
        "step": step_part,
        "embedding": embedding_part,
        "parity": parity_part,
        "validation": validation_part,
        "compile": compile_part,
    }
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        count = 400 if options.quick else 4000 if device.type == "cuda" else 1500
        bench = Bench(*tiles_in(Path(scratch), count), device, options.quick, {})
        start = options.only is None
        for part in [options.only] if options.only else PARTS:
            started = time.perf_counter()
            measured, met = dict(about), dict.fromkeys(TARGETS)
            try:
                for values, verdicts in parts[part](bench):
                    measured |= values | {
                        f"seconds_{part}": round(time.perf_counter() - started, 1)
                    }
                    met |= verdicts
                    harness.report("image", measured, TARGETS, met, options.quick, part, start)
                    start = False
            except Exception:
                # After any error, the other parts are still measured.
                traceback.print_exc()
                failed.append(part)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
