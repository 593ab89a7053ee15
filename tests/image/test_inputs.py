"""Inputs of the network: sampled tiles, augmentation, pixels."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isic.core.errors import InputError
from isic.data.tiles import TileStore
from isic.image.network.loader import batches
from isic.image.network.pixels import normalise, pack, resize, resize_by_matrices
from isic.image.training import augment
from isic.image.training.augment import (
    _TRANSFORMS,
    PRESETS,
    Augmenter,
    Tile,
    _compose,
    bend,
    move,
    orient,
)
from isic.image.training.rng import AUGMENT, python_stream, stream
from isic.image.training.sampler import Sampling, validation_rows
from tests.image.conftest import draw

RAGGED = [(51, 51), (133, 133), (239, 239), (140, 97), (64, 64)]


def sampling(target: np.ndarray, **override: object) -> Sampling:
    values = {
        "negatives_per_positive": 3.0,
        "positive_repeats": 2,
        "batch_size": 16,
        "accumulate": 3,
        "seed": 5,
    }
    return Sampling(target, **(values | override))  # type: ignore[arg-type]


def labels(positives: int, negatives: int) -> np.ndarray:
    return (
        np.random.default_rng(0)
        .permutation(np.repeat([1, 0], [positives, negatives]))
        .astype(np.int64)
    )


# Sampling


@settings(max_examples=40, deadline=None)
@given(
    positives=st.integers(1, 40),
    negatives=st.integers(1, 400),
    ratio=st.floats(0.3, 6),
    repeats=st.integers(1, 3),
    batch=st.integers(2, 40),
    accumulate=st.integers(1, 5),
)
def test_an_epoch_holds_all_positives_and_every_batch_its_share(
    positives: int, negatives: int, ratio: float, repeats: int, batch: int, accumulate: int
) -> None:
    target = labels(positives, negatives)
    plan = sampling(
        target,
        negatives_per_positive=ratio,
        positive_repeats=repeats,
        batch_size=batch,
        accumulate=accumulate,
    )
    slots = list(plan.slots(1))
    shown = np.concatenate([slot.rows for slot in slots])
    counts = np.bincount(shown, minlength=len(target))
    assert (counts[target == 1] == repeats).all()
    # Negatives repeat only where there are fewer than an epoch of equal micro-batches needs.
    assert counts[target == 0].max() - counts[target == 0].min() <= 1
    assert len({len(slot.rows) for slot in slots}) == 1
    assert len(shown) - positives * repeats - min(
        negatives, max(1, round(positives * repeats * ratio))
    ) < len(slots)
    share = target[shown].mean()
    for slot in slots:
        assert abs(target[slot.rows].sum() - share * len(slot.rows)) <= 1 + 1e-9
        assert len(slot.rows) <= batch
    assert sum(slot.ends_step for slot in slots) == plan.steps == -(-len(slots) // accumulate)
    # The loss is divided by the number of tiles of the step, which is smaller in the last, partial
    # step.
    assert sum(slot.step_tiles for slot in slots if slot.ends_step) == len(shown)


def test_negatives_are_fresh_every_epoch_and_repeatable() -> None:
    plan = sampling(labels(20, 2000))
    first, second = (set(plan.rows(epoch)[plan.target[plan.rows(epoch)] == 0]) for epoch in (0, 1))
    assert len(first & second) < 0.2 * len(first)
    assert (plan.rows(1) == sampling(plan.target).rows(1)).all()


def test_slots_from_the_middle_are_the_tail_of_all_slots() -> None:
    plan = sampling(labels(20, 500))
    every = list(plan.slots(3))
    tail = list(plan.slots(3, epoch=1, micro=2))
    assert [tuple(slot.rows) for slot in tail] == [tuple(slot.rows) for slot in every[-len(tail) :]]


def test_processes_share_a_batch_without_overlap() -> None:
    target = labels(20, 500)
    whole = list(sampling(target, batch_size=16).slots(1))
    halves = [
        list(sampling(target, batch_size=8, processes=2, rank=rank).slots(1)) for rank in (0, 1)
    ]
    for slot, left, right in zip(whole, *halves, strict=True):
        assert sorted([*left.rows, *right.rows]) == sorted(slot.rows)
        assert left.step_tiles == right.step_tiles == slot.step_tiles


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("ratio", [1.0, 3.0, 7.0])
def test_every_process_is_dealt_its_share_of_the_positives_of_every_batch(
    processes: int, ratio: float
) -> None:
    """At a ratio of 7 every eighth tile is positive: dealt in turn, all would go to one process."""
    target = labels(40, 900)
    plans = [
        sampling(
            target,
            negatives_per_positive=ratio,
            batch_size=64 // processes,
            processes=processes,
            rank=rank,
        )
        for rank in range(processes)
    ]
    for dealt in zip(*(plan.slots(2) for plan in plans), strict=True):
        counts = [int(target[slot.rows].sum()) for slot in dealt]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1
        assert len({len(slot.rows) for slot in dealt}) == 1


def test_validation_takes_all_positives_and_the_same_negatives() -> None:
    target = labels(9, 300)
    rows = validation_rows(target, 50, seed=1)
    assert target[rows].sum() == 9
    assert len(rows) == 59
    assert (rows == validation_rows(target, 50, seed=1)).all()


# Augmentation


@pytest.mark.parametrize("preset", PRESETS[2:])
def test_presets_build_without_a_warning(preset: str) -> None:
    """albumentations drops unknown arguments with a warning and uses the default strengths."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _compose(preset)


@pytest.mark.parametrize("preset", PRESETS[1:])
def test_augmentation_differs_by_epoch_and_position_and_repeats_exactly(preset: str) -> None:
    tile = draw(1, np.random.default_rng(0))
    augment, again = Augmenter(preset, 3), pickle.loads(pickle.dumps(Augmenter(preset, 3)))
    shown = {
        (epoch, position): augment(tile, epoch, position)
        for epoch in range(3)
        for position in range(8)
    }
    for key in reversed(shown):
        assert np.array_equal(again(tile, *key), shown[key])
    distinct = {image.tobytes() for image in shown.values()}
    # A preset may leave a tile unchanged; `flips` has eight orientations only.
    assert len(distinct) > (4 if preset == "flips" else 16)
    assert all(image.dtype == np.uint8 and image.ndim == 3 for image in shown.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_no_tile_is_augmented_alike_in_two_epochs_or_workers(
    tiles: TileStore, folds: pd.DataFrame, workers: int
) -> None:
    """albumentations 2.0.8 alone gives 16 distinct results of 96 here."""
    target = np.tile([1, 0, 0, 0], 8)
    plan = sampling(target, batch_size=8, positive_repeats=1, accumulate=1)
    # Every row is the same tile, so equal results come from equal random choices only.
    same = np.full(32, folds["isic_id"][0])
    found = list(
        batches(tiles, same, plan.slots(3), workers, False, Augmenter("heavy", 0).augment_slot)
    )
    shown = [
        batch.canvas[n, :height, :width].numpy().tobytes()
        for batch in found
        for n, (height, width) in enumerate(batch.sizes.tolist())
    ]
    assert len(shown) == len(set(shown)) == 96


def test_loader_processes_do_not_change_what_is_shown(
    tiles: TileStore, folds: pd.DataFrame
) -> None:
    ids = folds["isic_id"].to_numpy(str)
    plan = sampling(folds["target"].to_numpy(np.int64), batch_size=8)
    augment = Augmenter("medium", 0).augment_slot
    here, there = (
        list(batches(tiles, ids, plan.slots(2), workers, False, augment)) for workers in (0, 2)
    )
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.sizes, other.sizes)
        for n, (height, width) in enumerate(one.sizes.tolist()):
            assert torch.equal(one.canvas[n, :height, :width], other.canvas[n, :height, :width])


@pytest.mark.parametrize("workers", [0, 2])
def test_each_process_opens_the_file_once(
    tiles: TileStore,
    folds: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """Loader processes are forked after this process has read from the file."""
    log = tmp_path / "opened"
    plain = h5py.File

    def opened(*arguments: object, **options: object) -> h5py.File:
        with log.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return plain(*arguments, **options)

    store = TileStore(tiles.path)
    store.image(folds["isic_id"][0])
    monkeypatch.setattr(h5py, "File", opened)
    plan = sampling(folds["target"].to_numpy(np.int64), batch_size=4)
    list(batches(store, folds["isic_id"].to_numpy(str), plan.slots(3), workers, pin=False))
    pids = log.read_text().split() if log.exists() else []
    assert len(pids) == len(set(pids)) == workers


def test_orientations_are_the_eight_of_a_square() -> None:
    tile = draw(1, np.random.default_rng(1))
    views = {orient(tile, number).tobytes() for number in range(8)}
    rotations = {np.rot90(one, k).tobytes() for one in (tile, tile[:, ::-1]) for k in range(4)}
    assert views == rotations


def test_moves_turn_zoom_and_shift_about_the_centre() -> None:
    tile = cv2.GaussianBlur(
        np.random.default_rng(1).integers(0, 256, (81, 81, 3), dtype=np.uint8), (0, 0), 2
    )
    still, none = np.ones(2), np.zeros(2)
    assert np.array_equal(move(tile, none, still, 0.0), tile)
    assert np.array_equal(move(tile, none, still, 90.0), np.rot90(tile, -1))
    shifted = move(tile, np.array([10 / 81, -5 / 81]), still, 0.0)
    assert np.array_equal(shifted[:76, 10:], tile[5:, :71])
    zoomed = move(tile, none, np.array([2.0, 1.0]), 0.0)
    assert np.array_equal(zoomed[:, ::2], tile[:, 20:61])


def test_moves_are_spread_as_albumentations_spreads_them() -> None:
    """Position of a spot off the centre over many draws: mean and sd of both coordinates."""
    import albumentations as a

    from isic.image.training.augment import _affine

    tile = np.zeros((120, 120, 3), np.uint8)
    cv2.circle(tile, (85, 60), 6, (255, 255, 255), -1)
    theirs = a.Affine(scale=(0.9, 1.1), translate_percent=(-0.1, 0.1), rotate=(-15, 15), p=1.0)
    found = []
    for moves in (_affine(a, 0.1, 0.1, 15, p=1.0), theirs):
        compose = a.Compose([moves], seed=0)
        places = [
            np.argwhere(compose(image=tile)["image"][:, :, 0] > 127).mean(axis=0)
            for _ in range(400)
        ]
        found.append([np.mean(places, axis=0), np.std(places, axis=0)])
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1.5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=0.12)


#: Transforms that change levels; all others of a preset move pixels.
_LEVELS = {
    "RandomBrightnessContrast",
    "HueSaturationValue",
    "GaussianBlur",
    "GaussNoise",
    "MotionBlur",
    "MedianBlur",
    "ImageCompression",
    "CLAHE",
    "CoarseDropout",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_what_moves_pixels_brings_in_no_frame(preset: str) -> None:
    """No tile gets a black frame, which only training tiles would have."""
    import albumentations as a

    tile = np.full((90, 120, 3), (205, 160, 135), np.uint8)
    listed = _TRANSFORMS[preset](a) if preset in _TRANSFORMS else []
    every = [
        one
        for group in listed
        for one in (group.transforms if isinstance(group, a.OneOf) else [group])
    ]
    moves = [one for one in every if type(one).__name__ not in _LEVELS]
    assert moves or preset in ("none", "flips")
    for one in moves:
        one.p = 1.0
        compose = a.Compose([one], seed=0)
        for _ in range(40):
            assert (compose(image=tile)["image"] == tile[0, 0]).all(), type(one).__name__
    if not moves:
        assert all(
            (Augmenter(preset, 0)(tile, epoch, 0) == tile[0, 0]).all() for epoch in range(20)
        )


#: The SIIM list of section D of the field's reference: transform, probability, limits.
SIIM = (
    ("RandomBrightnessContrast", 0.75, {"brightness_limit": (-0.2, 0.2), "contrast_limit": (0, 0)}),
    ("RandomBrightnessContrast", 0.75, {"brightness_limit": (0, 0), "contrast_limit": (-0.2, 0.2)}),
    ("OneOf", 0.7, ("MotionBlur", "MedianBlur", "GaussianBlur", "GaussNoise")),
    ("OneOf", 0.7, ("OpticalDistortion", "GridDistortion", "Elastic")),
    ("CLAHE", 0.7, {"clip_limit": (1, 4)}),
    (
        "HueSaturationValue",
        0.5,
        {
            "hue_shift_limit": (-10, 10),
            "sat_shift_limit": (-20, 20),
            "val_shift_limit": (-10, 10),
        },
    ),
    ("Move", 0.85, {}),
    (
        "CoarseDropout",
        0.7,
        {
            "num_holes_range": (1, 1),
            "hole_height_range": (0.375, 0.375),
            "hole_width_range": (0.375, 0.375),
        },
    ),
)


def test_heavy_is_the_siim_list() -> None:
    import albumentations as a

    listed = _TRANSFORMS["heavy"](a)
    assert len(listed) == len(SIIM)
    for transform, (name, probability, wanted) in zip(listed, SIIM, strict=True):
        assert (type(transform).__name__, transform.p) == (name, probability)
        if isinstance(wanted, tuple):
            assert tuple(type(one).__name__ for one in transform.transforms) == wanted
            assert len({one.p for one in transform.transforms}) == 1, "each as likely"
        else:
            for key, value in wanted.items():
                assert tuple(getattr(transform, key)) == pytest.approx(value), (name, key)
    motion, median, gaussian, noise = listed[2].transforms
    assert {one.blur_limit[1] for one in (motion, median, gaussian)} == {5}
    assert [(255 * sd) ** 2 for sd in noise.std_range] == pytest.approx([5, 30])


def test_heavy_moves_by_one_zoom_factor_and_the_set_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    import albumentations as a

    drawn: list[tuple[float, ...]] = []

    def record(tile: Tile, shift: Any, zoom: Any, degrees: float) -> Tile:
        drawn.append((*shift, *zoom, degrees))
        return tile

    monkeypatch.setattr(augment, "move", record)
    moves = a.Compose([_TRANSFORMS["heavy"](a)[6]], seed=3)
    for _ in range(2000):
        moves(image=np.zeros((60, 60, 3), np.uint8))
    values = np.array(drawn)
    assert len(values) / 2000 == pytest.approx(0.85, abs=0.03)
    assert (values[:, 2] == values[:, 3]).all()
    for column, middle, limit in ((0, 0, 0.1), (1, 0, 0.1), (2, 1, 0.1), (4, 0, 15)):
        spread = values[:, column] - middle
        assert np.abs(spread).max() == pytest.approx(limit, rel=0.02)
        assert spread.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_heavy_changes_brightness_and_contrast_apart() -> None:
    """Each in three of four tiles, so both stay in one of sixteen."""
    import albumentations as a

    light, contrast = _TRANSFORMS["heavy"](a)[:2]
    tile = np.tile(np.arange(60, 180, dtype=np.uint8)[:, None, None], (1, 40, 3))
    compose = a.Compose([light, contrast])
    same = 0
    for number in range(1600):
        # As in `Augmenter`; with a seed only, albumentations makes the same choice for both.
        compose.set_random_state(stream(AUGMENT, number), python_stream(AUGMENT, number))
        same += int((compose(image=tile)["image"] == tile).all())
    assert same / 1600 == pytest.approx(1 / 16, abs=0.025)


def test_elastic_moves_as_far_as_albumentations_own() -> None:
    """Displacements, measured on the levels of a ramp, against blurred noise of every pixel, as in
    albumentations.
    """
    import cv2

    side, alpha, sigma = 128, 400.0, 20.0
    ramp = np.tile(np.arange(side, dtype=np.uint8)[None, :, None], (side, 1, 3))
    random = np.random.default_rng(0)
    inner = slice(32, 96)
    mine = [
        bend(ramp, random.uniform(-1, 1, (2, 32, 32)).astype(np.float32), alpha, sigma)[
            inner, inner, 0
        ]
        - ramp[inner, inner, 0].astype(float)
        for _ in range(60)
    ]
    field = [
        cv2.GaussianBlur(random.uniform(-1, 1, (side, side)).astype(np.float32), (0, 0), sigma)
        * alpha
        for _ in range(60)
    ]
    assert np.std(mine) == pytest.approx(np.std([one[inner, inner] for one in field]), rel=0.25)


# Pixels


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [48, 224])
def test_resize_agrees_with_pillow_on_both_ways(size: int, kind: str) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in RAGGED]
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    truth = np.stack(
        [np.asarray(Image.fromarray(image).resize((size, size), filters[kind])) for image in images]
    )
    canvas, sizes = pack(images)
    for result in (
        resize(canvas, sizes, size, kind),
        resize_by_matrices(canvas, sizes, size, kind),
    ):
        difference = np.abs(result.permute(0, 2, 3, 1).numpy().astype(int) - truth)
        assert difference.max() <= 2
        assert difference.mean() < 0.1


@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=4),
    size=st.integers(16, 256),
    kind=st.sampled_from(["bicubic", "bilinear"]),
    hard=st.booleans(),
)
def test_both_ways_of_resizing_give_the_same_bits(
    shapes: list[tuple[int, int]], size: int, kind: str, hard: bool
) -> None:
    """That of a GPU against torch's kernel, also for black and white pixels (most overshoot)."""
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 2 if hard else 256, (*shape, 3), dtype=np.uint8) for shape in shapes
    ]
    canvas, sizes = pack([image * 255 if hard else image for image in images])
    assert torch.equal(
        resize(canvas, sizes, size, kind), resize_by_matrices(canvas, sizes, size, kind)
    )


def test_resize_of_a_tile_does_not_depend_on_its_neighbours() -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in RAGGED]
    together = resize(*pack(images), 64, "bicubic")
    for number, image in enumerate(images):
        assert torch.equal(resize(*pack([image]), 64, "bicubic")[0], together[number])


def test_normalise_is_the_usual_formula() -> None:
    levels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    usual = (levels.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(
        1, 3, 1, 1
    )
    torch.testing.assert_close(normalise(levels, mean, std).double(), usual, atol=1e-5, rtol=0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_a_missing_or_broken_tile_is_one_line_that_names_it(
    tiles: TileStore, tmp_path: Path, fault: str, workers: int
) -> None:
    """Also from a loader process, whose errors DataLoader would wrap in a traceback."""
    name = "ISIC_9999999"
    with h5py.File(tmp_path / "tiles.hdf5", "w") as file:
        file["ISIC_0000000"] = np.bytes_(tiles.jpeg("ISIC_0000000"))
        if fault == "broken":
            file[name] = np.bytes_(b"no JPEG")
    ids = np.array(["ISIC_0000000", *[name] * 3])
    plan = sampling(np.array([1, 0, 0, 0]), positive_repeats=1)
    with pytest.raises(InputError) as error:
        list(batches(TileStore(tmp_path / "tiles.hdf5"), ids, plan.slots(1), workers, pin=False))
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)
