"""Train the demo's two networks on generated tiles, as a start for training on other tiles.

`python benchmarks/pretrain.py OUT` writes OUT/BACKBONE.safetensors (the backbone's weights in half
precision, for `image.train.weights`; the package has those of `weights: generated` in
isic/image/training/generated), the trained network in OUT/BACKBONE and pretrain.json with the counts
and the scores of a held-out tenth of the patients. The same arguments give the same weights.
`ISIC_GENERATED_WEIGHTS=OUT python benchmarks/real_tiles.py --only untouched` measures that start on
real tiles.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.tracker import NullTracker
from isic.data.sample import write_sample
from isic.data.tiles import TileStore

#: Seed of the generated tiles. No demo, test or other benchmark has it (tested): networks that
#: start from these weights are evaluated on generated tiles.
SEED = 1_913_460_201
#: Lesions per patient, and the share of patients held out for evaluation.
PER_PATIENT, HELD_OUT = 12, 0.1
#: The rest of the recipe is the demo's.
RECIPE = harness.RANDOM_START | {
    "augment": "light",
    "positive_repeats": 1,
    "negatives_per_positive": 4.0,
    "validate_negatives": 1000,
}


def rows_of(folder: Path) -> pd.DataFrame:
    """isic_id, target and fold of the generated lesions; fold 0 is a tenth of the patients."""
    frame = pd.read_csv(folder / "train-metadata.csv", low_memory=False)
    patients = frame["patient_id"].unique()
    drawn = np.random.default_rng(SEED).permutation(patients)[: round(HELD_OUT * len(patients))]
    fold = (~frame["patient_id"].isin(drawn)).astype(int)
    return frame[["isic_id", "target"]].assign(fold=fold)


def pretrain(backbone: str, folder: Path, out: Path, epochs: int) -> dict[str, Any]:
    """Train one demo network on the tiles of `folder`; returns its last row of history."""
    from isic.image.training.train import train_fold

    recipe = load_params(harness.ROOT / "params.yaml").image.recipe(backbone)
    recipe = recipe.model_copy(update=RECIPE | {"epochs": epochs})
    with tempfile.TemporaryDirectory() as resume:
        history = train_fold(
            TileStore(folder / "train-image.hdf5"),
            rows_of(folder),
            0,
            recipe,
            out / backbone,
            Path(resume),
            NullTracker(),
            name=backbone,
        )
    state = load_file(out / backbone / "model.safetensors")
    weights = {
        name.removeprefix("backbone."): value.half().contiguous()
        for name, value in state.items()
        if name.startswith("backbone.")
    }
    save_file(weights, out / f"{backbone}.safetensors")
    return dict(history[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--lesions", type=int, default=36_000)
    parser.add_argument("--positives", type=int, default=6_000)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("lesions", "positives", "epochs")}
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patients = max(10, options.lesions // PER_PATIENT)
        write_sample(folder, patients, options.lesions, options.positives, SEED)
        print(f"{options.lesions:,} tiles: {time.perf_counter() - started:.0f} s", flush=True)
        scores = {
            backbone: pretrain(backbone, folder, options.out, options.epochs)
            for backbone in ("vit", "convnext")
        }
    content = {"seed": SEED, **sizes, "scores": scores, **harness.made()}
    content["seconds"] = round(time.perf_counter() - started, 1)
    write_json(options.out / "pretrain.json", content)


if __name__ == "__main__":
    main()
