"""Pictures of other sources: their tables, what pre-training on them gains, and the leak.

`python benchmarks/archive.py [--quick] [--only PART]`. The label tables of ISIC 2019 and 2020 are
real (`ISIC_REAL_DATA/../archive`); all pictures are generated, in another optics than tiles: a
larger field at another aspect, the colours of immersion, a dark frame, rulers and markers. So the
gain is a simulated quantity.

- `tables`: both tables imported against the real rows at hand; pictures of all shared patients and
  of a sample of the others.
- `gain`: a demo network trained on few generated lesions: alone, after pre-training, and mixed with
  the pictures; scored on lesions of other patients, paired.
- `leak`: pictures of the scored patients planted in a source, their lesions in the other optics and
  copies of their tiles. A network trained long, mixed with them (no rule), or with as many pictures
  of strangers in place of those that the patient rule leaves out; scored on those patients and on
  others.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import harness
import numpy as np
import pandas as pd

from isic.core.folds import make_folds
from isic.core.io import write_parquet
from isic.core.metric import pauc, pauc_replicates
from isic.core.params import ImageRecipe, load_params
from isic.core.schema import ID, PATIENT, TARGET
from isic.core.tracker import NullTracker
from isic.data.archive.build import import_source
from isic.data.archive.people import DIAGNOSES, PICTURES, may_train, read_sources
from isic.data.sample import write_sample
from isic.data.sample.looks import draw_looks
from isic.data.sample.population import population
from isic.data.sample.rows import Sample, draw_rows
from isic.data.sample.tile import encode, render
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore

TARGETS = {
    "tables_as_published": "yes",
    "shared_patients_found": "all in the tables",
    "shared_pictures_in_training_of_their_fold": "0",
    "pretrain_gain_low": "> 0",
    "leak_low": "> 0: without the rule, on the scored patients",
    "leak_beyond_others_low": "> 0: more than on patients who are in no picture",
}
#: Seeds of populations of no demo and no test.
CHALLENGE, FRESH, POOL = 611, 612, 613
#: Counts of the challenges' published label tables: rows, malignant.
PUBLISHED = {"isic2019": (25_331, 8_473), "isic2020": (33_126, 584)}
#: Further pictures of each table.
SAMPLED = 2_000


def main() -> int:
    options = harness.arguments(__doc__.splitlines()[0], ("tables", "gain", "leak"))
    parts = {
        name: partial(part, options.quick)
        for name, part in (("tables", tables), ("gain", gain), ("leak", leak))
    }
    return harness.run_parts("archive", parts, TARGETS, judge, options.quick, options.only)


def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    """Comparison with the targets; None for what was not measured."""
    tests = {
        "tables_as_published": lambda value: value == "yes",
        "shared_patients_found": lambda value: value == measured["shared_patients_in_tables"],
        "shared_pictures_in_training_of_their_fold": lambda value: value == 0,
        "pretrain_gain_low": lambda value: value > 0,
        "leak_low": lambda value: value > 0,
        "leak_beyond_others_low": lambda value: value > 0,
    }
    return {
        name: bool(test(measured[name])) if name in measured else None
        for name, test in tests.items()
    }


class Dermoscope:
    """Pictures of lesions by label, in the optics of a dermoscope or as tiles."""

    def __init__(self, lesions: int = 4_000) -> None:
        facts = population(None)
        sample = draw_rows(facts, POOL, lesions // 40, lesions, lesions // 4)
        self._looks = draw_looks(facts, np.random.default_rng(POOL), sample)
        self._rows = [np.flatnonzero(sample.frame[TARGET] == label) for label in (0, 1)]

    def draw(self, rng: np.random.Generator, target: int) -> np.ndarray:
        """A picture of some lesion of this label."""
        return photograph(rng, self._looks[rng.choice(self._rows[target])])

    def tile(self, rng: np.random.Generator, target: int) -> np.ndarray:
        """A tile of some lesion of this label."""
        return render(rng, self._looks[rng.choice(self._rows[target])])


def photograph(rng: np.random.Generator, look: np.void) -> np.ndarray:
    """A lesion (`looks.RECORD`) as a dermoscope shows it: uint8 RGB (180, 240, 3)."""
    other = look.copy()
    other["side"] = 240
    for name in ("long_mm", "short_mm", "halo_mm"):
        other[name] *= 0.75  # a larger field
    other["contrast"] = other["contrast"] * np.float32(1.3)  # no glare on the surface
    other["skin"] = other["skin"] + np.float32([4, 6, -3])
    other["blur"] = 0.4
    picture = render(rng, other)[30:210].astype(np.float32)
    picture *= rng.normal(1, 0.04, 3).astype(np.float32)
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    if rng.random() < 0.5:
        radius = rng.uniform(0.5, 0.62) * width
        inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
        picture[~inside] = 8
    if rng.random() < 0.4:
        for tick in range(10, width, int(rng.integers(10, 22))):
            cv2.line(picture, (tick, height - 1), (tick, height - 14), (30, 30, 30), 1)
    if rng.random() < 0.2:
        centre = (int(rng.integers(10, 50)), int(rng.integers(10, 50)))
        cv2.circle(picture, centre, 22, rng.uniform(40, 220, 3).tolist(), -1)
    return picture.clip(0, 255).astype(np.uint8)


def labels(folder: Path) -> Path:
    """Folder of the real label tables."""
    real = harness.real_data()
    source = real.parent / "archive" if real else folder
    if not (source / "ISIC_2020_Training_GroundTruth.csv").is_file():
        raise harness.NotMeasured("no label tables beside the real data (ISIC_REAL_DATA)")
    return source


def write_source(
    folder: Path, tables: Path, form: str, keep: Sequence[str], sampled: int, scope: Dermoscope
) -> Path:
    """A source of a real table, with generated pictures of `keep` and of `sampled` other rows."""
    year = form.removeprefix("isic")
    home = folder / form
    home.mkdir(parents=True)
    for path in tables.glob(f"ISIC_{year}_*.csv"):
        (home / path.name).symlink_to(path)
    frame = pd.read_csv(home / f"ISIC_{year}_Training_GroundTruth.csv")
    if form == "isic2019":
        frame[TARGET] = (frame["MEL"] + frame["BCC"] + frame["SCC"]).astype(int)
    name = "image" if form == "isic2019" else "image_name"
    rng = np.random.default_rng([POOL, int(year)])
    drawn = rng.choice(frame[name], min(sampled, len(frame)), replace=False)
    # All malignant ones of 2020 are few.
    few = frame.loc[frame[TARGET] == 1, name] if form == "isic2020" else ()
    wanted = frame[frame[name].isin({*drawn, *keep, *list(few)[: sampled // 4]})]
    for isic_id, target in zip(wanted[name], wanted[TARGET], strict=True):
        (home / f"{isic_id}.jpg").write_bytes(encode(scope.draw(rng, int(target))))
    return home


def tables(quick: bool) -> dict[str, Any]:
    """Both real tables against the real rows at hand, tiles of which are generated where absent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = labels(folder)
        raw, rows = _real_rows(folder / "raw")
        known = pd.read_csv(source / "ISIC_2020_Training_GroundTruth.csv")
        shared = known[known[PATIENT].isin(rows[PATIENT])]
        scope, counts, homes = Dermoscope(), {}, []
        for form in PUBLISHED:
            home = write_source(
                folder, source, form, shared["image_name"], 100 if quick else SAMPLED, scope
            )
            homes.append(folder / "out" / form)
            counts[form] = import_source(form, home, form, 128, None, raw, homes[-1])
        pictures = read_sources(homes)
        folds = make_folds(rows, 3, 0)
        leaked = 0
        for fold in range(3):
            scored = set(folds.loc[folds["fold"] == fold, PATIENT])
            used = may_train(pictures, set(folds[PATIENT]) - scored, scored)
            leaked += int(pictures.loc[used, PATIENT].isin(scored).sum())
        published = all(
            (counts[form]["table"]["rows"], counts[form]["table"]["malignant"]) == expected
            for form, expected in PUBLISHED.items()
        )
        return {
            "tables_as_published": "yes" if published else "no",
            "tables": {form: counts[form]["table"] for form in counts},
            "pictures": {form: counts[form]["pictures"] for form in counts},
            "shared_patients_in_tables": int(shared[PATIENT].nunique()),
            "shared_pictures_in_tables": len(shared),
            "shared_patients_found": counts["isic2020"]["shared"]["patients"],
            "shared": {form: counts[form]["shared"] for form in counts},
            "shared_pictures_in_training_of_their_fold": leaked,
        }


def _real_rows(raw: Path) -> tuple[Path, pd.DataFrame]:
    """The official files with all real rows at hand; a generated tile where there is none."""
    import h5py

    from isic.data.tile_file import put_tile

    real = harness.real_data()
    assert real is not None
    write_sample(raw, 30, 600, 30, POOL)
    spare = TileStore(raw / "train-image.hdf5")
    spares = iter(spare.ids())
    table = real / "tabular" / "train-metadata.csv"
    rows = read_metadata(table, train=True)
    store = TileStore(real / "competition" / "train-image.hdf5")
    with h5py.File(raw / "new.hdf5", "w") as file:
        for isic_id in rows[ID]:
            known = isic_id in store
            put_tile(file, isic_id, store.jpeg(isic_id) if known else spare.jpeg(next(spares)))
    spare.close()
    (raw / "new.hdf5").replace(raw / "train-image.hdf5")
    for name in ("train-metadata.csv", "test-metadata.csv", "test-image.hdf5"):
        origin = table if name.startswith("train") else real / "competition" / name
        (raw / name).unlink()
        (raw / name).symlink_to(origin)
    return raw, rows


def recipe_of(seed: int, quick: bool, **changes: Any) -> ImageRecipe:
    """`convnext` of the demo from random weights, with an auxiliary head."""
    recipe = load_params(harness.ROOT / "params.yaml").image.recipe("convnext")
    few = {"epochs": 1, "archive_epochs": 1} if quick else {}
    start = harness.RANDOM_START | {"seed": seed, "aux_weight": 0.1}
    return recipe.model_copy(update=start | changes | few)


def train(
    folder: Path, raw: Path, folds: pd.DataFrame, recipe: ImageRecipe, sources: Sequence[Path]
) -> Path:
    """The network of fold 0, by the code of the stage."""
    from isic.image.training.train import train_fold
    from isic.image.training.train_only import read_train_only

    train_only = read_train_only(recipe, sources, folds, [0]) if recipe.has_train_only else None
    metadata = read_metadata(raw / "train-metadata.csv", train=True).set_index(ID)
    train_fold(
        TileStore(raw / "train-image.hdf5"),
        folds,
        0,
        recipe,
        folder / "model",
        folder / "resume",
        NullTracker(),
        name=folder.name,
        diagnoses=metadata.loc[folds[ID], "iddx_full"].tolist(),
        train_only=train_only,
    )
    return folder / "model"


def scored(model: Path, raw: Path, rows: pd.DataFrame) -> np.ndarray:
    """Logits of these rows."""
    from isic.image.network.embed import embed

    return embed(model, TileStore(raw / "train-image.hdf5"), rows[ID].tolist()).logits


def mean_difference(
    rows: pd.DataFrame, a: Sequence[np.ndarray], b: Sequence[np.ndarray], replicates: int
) -> tuple[float, np.ndarray]:
    """Mean over seeds of pAUC of `a` minus pAUC of `b`, and its resamples over patients."""
    target, patient = rows[TARGET], rows[PATIENT]
    value = np.mean([pauc(target, x) - pauc(target, y) for x, y in zip(a, b, strict=True)])
    spread = pauc_replicates(target, [*a, *b], patient, replicates)
    return float(value), spread[: len(a)].mean(axis=0) - spread[len(a) :].mean(axis=0)


def interval(name: str, value: float, spread: np.ndarray) -> dict[str, float]:
    """A value and its 95 % interval."""
    low, high = np.quantile(spread, [0.025, 0.975])
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


def populations(
    folder: Path, lesions: int, positives: int
) -> tuple[Path, pd.DataFrame, Path, pd.DataFrame]:
    """Few lesions in two folds, and as many of other patients, an eighth of them malignant."""
    few, fresh = folder / "few", folder / "fresh"
    write_sample(few, lesions // 25, lesions, positives, CHALLENGE)
    write_sample(fresh, lesions // 12, lesions, lesions // 8, FRESH)
    rows, others = (read_metadata(raw / "train-metadata.csv", train=True) for raw in (few, fresh))
    return few, make_folds(rows, 2, 0), fresh, others


def gain(quick: bool) -> dict[str, Any]:
    """pAUC on lesions of other patients: alone, pre-trained, mixed."""
    seeds = (0,) if quick else (0, 1, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = labels(folder)
        few, folds, fresh, others = populations(folder, *((600, 40) if quick else (3_000, 160)))
        scope, homes = Dermoscope(), []
        for form in PUBLISHED:
            home = write_source(folder, source, form, (), 60 if quick else SAMPLED, scope)
            homes.append(folder / "out" / form)
            import_source(form, home, form, 128, None, few, homes[-1])
        logits: dict[str, list[np.ndarray]] = {use: [] for use in ("none", "pretrain", "mix")}
        for seed in seeds:
            for use, scores in logits.items():
                home = folder / f"{use}-{seed}"
                model = train(home, few, folds, recipe_of(seed, quick, archive=use), homes)
                scores.append(scored(model, fresh, others))
                print(f"{use} {seed}: {pauc(others[TARGET], scores[-1]):.4f}", flush=True)
    found: dict[str, Any] = {
        f"{use}_pauc": float(np.mean([pauc(others[TARGET], score) for score in scores]))
        for use, scores in logits.items()
    }
    for use in ("pretrain", "mix"):
        change = mean_difference(others, logits[use], logits["none"], 200 if quick else 1000)
        found |= interval(f"{use}_gain", *change)
    rows = {"training": int((folds["fold"] != 0).sum()), "scored": len(others)}
    positive = {
        "training": int(folds.loc[folds["fold"] != 0, TARGET].sum()),
        "scored": int(others[TARGET].sum()),
    }
    return found | {"gain_lesions": rows, "gain_malignant": positive, "gain_seeds": len(seeds)}


def leak(quick: bool) -> dict[str, Any]:
    """Scores with and without the patient rule, on the planted patients and on others."""
    seeds = (0,) if quick else (0, 1, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, folds, fresh, others = populations(folder, *((600, 40) if quick else (1_600, 100)))
        ruled, strangers = folder / "out" / "planted", folder / "out" / "strangers"
        _plant(folder, few, folds)
        counts = import_source("planted", folder / "planted", "folder", 128, None, few, ruled)
        import_source("strangers", folder / "strangers", "folder", 128, None, few, strangers)
        # The same pictures in a table that was not compared with the challenge.
        blind = folder / "out" / "blind"
        blind.mkdir()
        (blind / PICTURES).symlink_to(ruled / PICTURES)
        random = np.random.default_rng(0)
        rows = read_sources([ruled]).drop(columns="folder")
        rows = rows.assign(shared="", hash=[random.bytes(32) for _ in range(len(rows))])
        write_parquet(blind / DIAGNOSES, rows.assign(patient_id="", lesion_id=""))

        own = folds[folds["fold"] == 0]
        logits: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"rule": [], "no rule": []}
        for seed in seeds:
            recipe = recipe_of(seed, quick, archive="mix", archive_share=0.6, epochs=60)
            for way, sources in (("rule", [ruled, strangers]), ("no rule", [blind])):
                model = train(folder / f"{way}-{seed}", few, folds, recipe, sources)
                logits[way].append((scored(model, few, own), scored(model, fresh, others)))
    found: dict[str, Any] = {
        "planted_pictures": counts["pictures"],
        "planted_found": counts["shared"]["pictures"],
        "planted_by": counts["shared"]["pictures_by"],
    }
    changes = []
    for index, (name, scored_rows) in enumerate((("leak", own), ("leak_on_others", others))):
        sides = {way: [pair[index] for pair in pairs] for way, pairs in logits.items()}
        change = mean_difference(
            scored_rows, sides["no rule"], sides["rule"], 200 if quick else 1000
        )
        changes.append(change)
        found |= interval(name, *change)
        for way, scores in sides.items():
            key = f"{name}_pauc_{'with' if way == 'rule' else 'without'}_rule"
            found[key] = float(np.mean([pauc(scored_rows[TARGET], score) for score in scores]))
    (value, spread), (on_others, spread_on_others) = changes
    beyond = interval("leak_beyond_others", value - on_others, spread - spread_on_others)
    return found | beyond | {"leak_seeds": len(seeds)}


def _plant(folder: Path, raw: Path, folds: pd.DataFrame) -> None:
    """Two sources of equal size and labels. `planted`: lesions of fold 0 in the other optics with
    their patients' ids, and copies of their tiles without any. `strangers`: lesions of others, half of
    them in the other optics and half as tiles.
    """
    store = TileStore(raw / "train-image.hdf5")
    sample = _sample_of(raw)
    looks = draw_looks(population(None), np.random.default_rng([CHALLENGE, 1]), sample)
    index = {isic_id: row for row, isic_id in enumerate(sample.frame[ID])}
    own = folds[folds["fold"] == 0]
    positive, negative = own[own[TARGET] == 1], own[own[TARGET] == 0]
    rng, scope = np.random.default_rng(7), Dermoscope()
    rows: dict[str, list[dict[str, Any]]] = {"planted": [], "strangers": []}

    def add(source: str, picture: np.ndarray, patient: str, target: int) -> None:
        name = f"{source}{len(rows[source])}"
        (folder / source).mkdir(exist_ok=True)
        (folder / source / f"{name}.jpg").write_bytes(encode(picture))
        rows[source].append({ID: name, PATIENT: patient, TARGET: target})

    for lesion in pd.concat([positive, negative.head(3 * len(positive))]).itertuples():
        target = int(lesion.target)
        copy = cv2.resize(store.image(lesion.isic_id), None, fx=1.4, fy=1.4)
        add("planted", photograph(rng, looks[index[lesion.isic_id]]), lesion.patient_id, target)
        add("planted", copy, "", target)
        add("strangers", scope.draw(rng, target), f"N{len(rows['strangers'])}", target)
        add("strangers", scope.tile(rng, target), f"N{len(rows['strangers'])}", target)
    for source, entries in rows.items():
        pd.DataFrame(entries).to_csv(folder / source / "labels.csv", index=False)


def _sample_of(raw: Path) -> Sample:
    """The rows of the few lesions as they were drawn."""
    frame = read_metadata(raw / "train-metadata.csv", train=True)
    patients, positives = frame[PATIENT].nunique(), int(frame[TARGET].sum())
    sample = draw_rows(population(None), CHALLENGE, patients, len(frame), positives)
    assert sample.frame[ID].tolist() == frame[ID].tolist()
    return sample


if __name__ == "__main__":
    sys.exit(main())
