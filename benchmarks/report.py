"""The report at full size: seconds and bytes of evaluating 401,059 generated lesions and building
their page.

`python benchmarks/report.py [--quick]`. Rows are generated and scored out of fold by the committed
stacker; the two image networks are a simulated logit each, with freshly made weights of the demo's
size for the activation maps. Tiles are generated for the lesions that the page may show (each
patient's highest and malignant ones), not for all: a page reads no others. Measured are the stages
`evaluate` and `report`, once each, as by their mains but without tracking; "beyond the bootstrap"
leaves out the time inside `pauc_replicates`, whose own speed `benchmarks/stack.py` measures.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd

from isic.core import metric
from isic.core.folds import make_folds
from isic.core.io import write_json, write_parquet
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT, TARGET

OFFICIAL = (1042, 401_059, 393)
QUICK = (104, 40_000, 100)
FOLDS = (0, 1, 2, 3, 4)
#: d' of the simulated image logits; 2.13 gives pAUC near 0.158, the best single network of the
#: competition.
APART = 2.0


def main() -> int:
    quick = harness.arguments(__doc__ or "").quick
    targets = {"seconds_beyond_bootstrap": 90, "page_bytes": 10_000_000}
    texts = {name: f"< {most}" for name, most in targets.items()}

    def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
        return {name: bool(measured[name] < most) for name, most in targets.items()}

    return harness.run_parts("report", {"page": lambda: page(quick)}, texts, judge, quick)


def page(quick: bool) -> dict[str, Any]:
    """Evaluate a generated run and build its page."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        params = load_params(harness.ROOT / "params.yaml").model_copy(update={"folds": FOLDS})
        prepare(layout, params, *(QUICK if quick else OFFICIAL))
        return measure(layout, params)


def prepare(layout: Layout, params: Params, patients: int, lesions: int, positives: int) -> None:
    """Write the outputs of `dvc repro stack`; not timed."""
    from isic.data.sample import write_sample
    from isic.data.tables import read_metadata
    from isic.stack import fit_stack
    from isic.tabular import build_features

    (layout.root / "dvc.yaml").write_text("stages: {}\n")
    write_sample(layout.raw, patients, lesions, positives, 1, images=False)
    rows = read_metadata(layout.train_metadata, train=True)
    features = build_features(rows, list(params.features.families))
    folds = make_folds(rows, len(FOLDS), 0)
    rng = np.random.default_rng(0)
    logits = {
        name: rng.normal(size=len(rows)) + APART * rows[TARGET].to_numpy()
        for name in params.image.backbones
    }
    stack = fit_stack(features, logits, folds, params.stack)
    stack.save(layout.stack_model)
    write_parquet(layout.features, features)
    write_parquet(layout.folds, folds)
    write_parquet(layout.oof, stack.oof)
    for name, values in logits.items():
        for fold in FOLDS:
            held = (folds["fold"] == fold).to_numpy()
            part = pd.DataFrame({ID: folds.loc[held, ID], "logit": values[held].astype(np.float32)})
            write_parquet(layout.embedding(name, fold), part)
            write_network(params, name, layout.image_model(name, fold))
    write_tiles(layout, tuple(logits))


def write_network(params: Params, backbone: str, folder: Path) -> None:
    """An untrained network of the demo's size; maps take as long as with a trained one."""
    from isic.image.network.artifact import save_model
    from isic.image.network.backbone import create
    from isic.image.network.catalogue import resolve

    recipe = params.image.recipe(backbone)
    model, args = resolve(recipe.model, recipe.model_args)
    net, spec = create(model, args, recipe.size, "none")
    history = [{"epoch": epoch, "val_pauc": 0.15 - 0.1 / epoch} for epoch in range(1, 21)]
    save_model(folder, net, spec, {"tta": recipe.tta}, history)


def write_tiles(layout: Layout, backbones: tuple[str, ...]) -> None:
    """Generated tiles of every lesion on the page."""
    from isic.data.sample.population import population
    from isic.data.sample.rows import Sample
    from isic.data.sample.write import write_tiles as render
    from isic.evaluate.results import read_results
    from isic.report.build import CASES
    from isic.report.lesions import overview, similar_lesions, worst_lesions

    results = read_results(layout.oof, layout.train_metadata, layout.embeddings(backbones, FOLDS))
    lesions = overview(results)
    malignant = lesions[PATIENT].isin(lesions.loc[lesions[TARGET] == 1, PATIENT])
    wanted = set(
        lesions.loc[malignant & ((lesions["rank"] <= metric.TOP) | (lesions[TARGET] == 1)), ID]
    )
    for position in (
        position for target in (1, 0) for position in worst_lesions(lesions, target, CASES)
    ):
        wanted.add(lesions[ID].iloc[position])
        wanted |= {near["lesion"]["id"] for near in similar_lesions(lesions, position)}
    frame = results.rows[results.rows[ID].isin(wanted)].reset_index(drop=True)
    sample = Sample(frame, pd.factorize(frame[PATIENT])[0], np.full(len(frame), np.nan))
    render(layout.train_images, population(), sample, (1, 1), 2)


@contextmanager
def clock(module: Any, name: str, spent: list[float]) -> Iterator[None]:
    """Sum the seconds inside a function over all calls in its module."""
    inner: Callable[..., Any] = getattr(module, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*arguments, **options)
        finally:
            spent.append(time.perf_counter() - start)

    setattr(module, name, timed)
    try:
        yield
    finally:
        setattr(module, name, inner)


def measure(layout: Layout, params: Params) -> dict[str, Any]:
    """Seconds of both stages, with those of the bootstrap separate, and the size of the page."""
    from isic.evaluate.evaluate import evaluate
    from isic.evaluate.figures import FIGURES
    from isic.evaluate.learning import learning_records
    from isic.evaluate.results import read_results
    from isic.evaluate.theme import PAPER
    from isic.report.build import build_report
    from isic.report.reasons import score_reasons
    from isic.stack import Stack
    from isic.stack.inputs import read_inputs

    spent: list[float] = []
    backbones = tuple(params.image.backbones)
    with clock(metric, "pauc_replicates", spent):
        start = time.perf_counter()
        results = read_results(
            layout.oof, layout.train_metadata, layout.embeddings(backbones, FOLDS)
        )
        evaluation = evaluate(results, params.evaluate.replicates, params.evaluate.seed)
        points = {
            **evaluation.points,
            "learning": learning_records(layout.image_models(backbones, FOLDS)),
        }
        for name, records in points.items():
            write_json(layout.plots / f"{name}.json", records)
        write_json(layout.evaluate_metrics, evaluation.metrics)
        for draw in FIGURES.values():
            draw(points, PAPER)
        judged = time.perf_counter()
        values = params.model_dump(mode="json", by_alias=True)
        files = layout.report_files(backbones, FOLDS)
        results = read_results(
            layout.oof, layout.train_metadata, layout.embeddings(backbones, FOLDS)
        )
        stack = Stack.load(layout.stack_model)
        inputs = read_inputs(layout.stack_files(stack.backbones, FOLDS), stack.uses_embeddings)
        build_report(layout.report, results, files, values, {}, score_reasons(stack, inputs))
        built = time.perf_counter()
    return {
        "rows": len(results.oof),
        "patients_shown": int(results.oof.loc[results.oof[TARGET] == 1, PATIENT].nunique()),
        "evaluate_seconds": judged - start,
        "report_seconds": built - judged,
        "bootstrap_seconds": sum(spent),
        "bootstraps": len(spent),
        "seconds_beyond_bootstrap": built - start - sum(spent),
        "page_bytes": layout.report.stat().st_size,
        "peak_memory_gb": harness.peak_memory_gb(),
    }


if __name__ == "__main__":
    sys.exit(main())
