"""Verbs for scores: predict, score, compare, explain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isic.cli.options import Fallback, MissingImages
from isic.cli.options import missing_images as parse_missing
from isic.core.errors import InputError, redact

if TYPE_CHECKING:
    from isic.evaluate.config import RunConfig

app = typer.Typer()


@app.command()
def predict(
    model: Annotated[
        str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle folder.")
    ],
    out: Annotated[
        str,
        typer.Option(
            help=(
                "CSV to write: isic_id, target. With --on ray: folder or URI, a parquet file per"
                " shard."
            )
        ),
    ],
    metadata: Annotated[
        Path | None,
        typer.Option(help="Table with the columns of test-metadata.csv: CSV, gzip or parquet."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="One JPEG per isic_id: HDF5, or folder or zip archive of .jpg files."),
    ] = None,
    missing_images: MissingImages = "error",
    fallback: Fallback = False,
    on: Annotated[
        str,
        typer.Option(
            help="here, or ray: the cluster at RAY_ADDRESS, else one started on this machine."
        ),
    ] = "here",
    source: Annotated[
        str | None,
        typer.Option(
            "--input", help="With --on ray: folder or URI of shards (isic shard makes them)."
        ),
    ] = None,
    cpus: Annotated[float, typer.Option(help="With --on ray: CPU cores of a worker.")] = 1,
    gpus: Annotated[float, typer.Option(help="With --on ray: GPUs of a worker.")] = 0,
    memory_gb: Annotated[
        float | None, typer.Option(help="With --on ray: memory to reserve for a worker.")
    ] = None,
) -> None:
    """Score lesions with a registered model or a bundle.

    It runs on this machine or on a cluster.
    """
    if on == "ray":
        if source is None or metadata is not None or images is not None or fallback:
            raise InputError(
                "--on ray takes --input (shards), not --metadata, --images or --fallback: see isic"
                " shard"
            )
        _predict_on_ray(model, source, out, missing_images, (cpus, gpus, memory_gb))
        return

    if on != "here":
        raise InputError(f"--on is {on!r}: use here or ray")
    if metadata is None or source is not None:
        raise InputError(
            "--metadata is needed: a table with the columns of test-metadata.csv; --input is for"
            " --on ray"
        )
    if out.endswith("/"):
        raise InputError(f"{out} is a folder: name a file to write")
    from isic.predict.files import predict as score_rows
    from isic.registry.versions import resolve_model

    scores = score_rows(
        resolve_model(model), metadata, images, Path(out), parse_missing(missing_images), fallback
    )
    typer.echo(f"{len(scores):,} lesions scored: {out}")


def _predict_on_ray(
    model: str,
    source: str,
    out: str,
    missing_images: str,
    resources: tuple[float, float, float | None],
) -> None:
    from isic.scale.predict import predict_shards
    from isic.scale.resources import Resources
    from isic.scale.store import Store

    impute = parse_missing(missing_images)
    result = predict_shards(model, Store(source), Store(out), impute, Resources(*resources))
    memory = f", peak memory of a worker {result.peak_gb:.1f} GB" if result.scored else ""
    typer.echo(
        f"{result.rows:,} lesions scored ({result.scored:,} shards now, {result.retried:,} of them"
        f" retried{memory}): {redact(out)}"
    )


@app.command()
def score(
    solution: Annotated[
        Path,
        typer.Option(help="CSV with isic_id, target and, for the top-15 sensitivity, patient_id."),
    ],
    submission: Annotated[Path, typer.Option(help="CSV with isic_id and target (the score).")],
) -> None:
    """Print pAUC, AUC and top-15 sensitivity as JSON.

    Rows are matched by isic_id.
    """
    from isic.core.score import score_files

    typer.echo(json.dumps(score_files(solution, submission)))


@app.command()
def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="A run (id or name), version (models:/NAME@ALIAS), bundle, checkout or score file."
        ),
    ],
    b: Annotated[str, typer.Argument(help="The other one, with scores of the same lesions.")],
    out: Annotated[
        Path | None,
        typer.Option(help="JSON to write; default: reports/compare.json of the checkout, if any."),
    ] = None,
) -> None:
    """Compare two sets of out-of-fold scores.

    The paired interval over patients, and the parameters, features and data that differ, are
    printed and written.
    """
    from isic.core.io import refuse_output, write_json
    from isic.evaluate.compare import compare_oof, comparison_table, read_oof
    from isic.evaluate.config import changes_text, list_changes

    for name, side in (("A", a), ("B", b)):
        if not side:
            raise InputError(
                f"{name} is empty: name a run, a version, a bundle, a checkout or a score file"
            )
    target = out or _comparison_file()
    sources = [_oof_source(name) for name in (a, b)]
    if target is not None:
        # A checkout's reports folder takes its comparison; its data and a bundle must not change.
        inputs = [
            source / "data" if (source / "dvc.yaml").is_file() else source for source in sources
        ]
        refuse_output(target, *inputs)

    first, second = (read_oof(source) for source in sources)
    comparison = compare_oof(first, second, (a, b))
    typer.echo(comparison_table(comparison) + "\n")

    before, after = (_run_config(name, file) for name, file in zip((a, b), sources, strict=True))
    changes = None
    if before and after:
        changes = list_changes(before, after)
        typer.echo(changes_text(changes, (a, b)))
    else:
        unknown = " and ".join(name for name, config in ((a, before), (b, after)) if not config)
        typer.echo(f"differences unknown: {unknown} holds scores alone")

    if target is not None:
        write_json(target, comparison.to_json() | {"changes": changes})
        typer.echo(f"written: {target}")


def _comparison_file() -> Path | None:
    """reports/compare.json of the checkout around the working directory, None outside of one."""
    from isic.core.paths import Layout

    try:
        return Layout.find().report.with_name("compare.json")
    except InputError:
        return None


def _oof_source(name: str) -> Path:
    """File or folder with the out-of-fold scores of a version, a path, or a run of this checkout's
    store.
    """
    from isic.core.paths import Layout
    from isic.registry.versions import resolve_model
    from isic.tracking.lookup import run_scores

    if name.startswith("models:"):
        return resolve_model(name)
    if Path(name).exists() or "/" in name or name.endswith(".parquet"):
        return Path(name)
    try:
        root = Layout.find().root
    except InputError as error:
        raise InputError(
            f"{name} not found: no such file or folder, and runs are found in a checkout only"
        ) from error
    return run_scores(root, name)


def _run_config(name: str, source: Path) -> RunConfig | None:
    """Parameters and hashes of the scores `source` (`_oof_source(name)`); None for a score file."""
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.evaluate.config import RunConfig, flatten_params
    from isic.predict.manifest import FILE, read_manifest
    from isic.tracking.context import run_tags
    from isic.tracking.lookup import run_values

    params: dict[str, Any]
    if (source / FILE).is_file():
        manifest = read_manifest(source)
        params = manifest.params
        hashes = {"data_hash": manifest.data_hash, "folds_hash": manifest.folds_hash}
    elif (source / "dvc.yaml").is_file():
        layout = Layout(source)
        params, hashes = load_params(layout.params).stack_config(), run_tags(layout.root)
    elif name.startswith("models:") or Path(name) == source:
        return None
    else:
        params, hashes = run_values(Layout.find().root, name)
    # A version records only the hash of the data.
    values = {key: value for key, value in flatten_params(params).items() if key[:5] != "data."}
    return RunConfig(values, {key: hashes.get(key, "") for key in ("data_hash", "folds_hash")})


@app.command()
def explain(isic_id: Annotated[str, typer.Argument(help="A training lesion, ISIC_…")]) -> None:
    """Explain one lesion's score.

    The reasons are printed, and a page is written.
    """
    from isic.core.io import read_parquet
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.evaluate.results import read_results
    from isic.report.lesion_page import write_lesion_page
    from isic.report.reasons import explain_score, score_reasons
    from isic.stack import Stack
    from isic.stack.inputs import read_inputs

    layout = Layout.find()
    params = load_params(layout.params)
    stack = Stack.load(layout.stack_model)
    inputs = read_inputs(layout.stack_files(stack.backbones, params.folds), stack.uses_embeddings)
    typer.echo(explain_score(stack, inputs, read_parquet(layout.oof), isic_id))

    backbones, folds = params.image.backbones, params.folds
    results = read_results(layout.oof, layout.train_metadata, layout.embeddings(backbones, folds))
    page = layout.report.with_name(f"{isic_id}.html")
    models = layout.image_models(backbones, folds)
    write_lesion_page(
        page, results, isic_id, layout.train_images, models, score_reasons(stack, inputs)
    )
    typer.echo(f"page: {page.relative_to(layout.root)}")
