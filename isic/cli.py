"""The verbs a person types. Each parses, calls one room, prints; heavy imports happen inside the verb.

Exit status: 0 on success, 2 with one clear line on bad input, 130 when interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from isic.core.errors import InputError, run, shown

app = typer.Typer(
    name="isic",
    help="Find skin cancer among hundreds of lesions per patient: data, runs, models and submissions for ISIC 2024.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Folder for the five official files.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 1042,
    lesions: Annotated[int, typer.Option(help="Number of lesions (training rows).")] = 401_059,
    positives: Annotated[int, typer.Option(help="Number of malignant lesions.")] = 393,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    no_images: Annotated[bool, typer.Option("--no-images", help="Tables only.")] = False,
) -> None:
    """Generate the five official files, matched to the published population."""
    from isic.data.sample import write_sample
    from isic.data.source import FILES

    there = [name for name in FILES if (out / name).exists()]
    if there:
        raise InputError(f"{out} holds {there[0]} already: name another folder, or remove its files first")
    write_sample(out, patients, lesions, positives, seed, images=not no_images)
    typer.echo(f"{lesions:,} lesions of {patients:,} patients, {positives} malignant: {out}")


@app.command()
def doctor() -> None:
    """Check the set-up: one line per check, with what to do."""
    from isic.doctor import checks

    failed = False
    for line in checks():
        typer.echo(line.text())
        failed |= line.state == "fail"
    if failed:
        raise typer.Exit(2)


@app.command()
def preset(name: Annotated[str, typer.Argument(help="full, kaggle_t4, …; see pipelines/presets.")]) -> None:
    """Lay a preset over params.yaml and show the difference."""
    from isic.core.paths import Layout
    from isic.core.presets import apply_preset

    layout = Layout.find()
    diff = apply_preset(layout.params, layout.root / "pipelines" / "presets", name)
    typer.echo(diff or f"params.yaml already holds preset {name}", nl=not diff)


@app.command()
def score(
    solution: Annotated[
        Path, typer.Option(help="CSV with isic_id, target and, for the top-15 sensitivity, patient_id.")
    ],
    submission: Annotated[Path, typer.Option(help="CSV with isic_id and target (the score).")],
) -> None:
    """Print pAUC, AUC and top-15 sensitivity as JSON; rows are matched by isic_id."""
    from isic.core.score import score_files

    typer.echo(json.dumps(score_files(solution, submission)))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="A run (id or name), version (models:/NAME@ALIAS), bundle, checkout or score file.")
    ],
    b: Annotated[str, typer.Argument(help="The other one, scored on the same lesions.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the JSON goes; by default reports/compare.json of the checkout, if any.")
    ] = None,
) -> None:
    """Compare two sets of out-of-fold scores, on the screen and as a file: paired interval over patients."""
    from isic.core.io import refuse_output, write_json
    from isic.evaluate.compare import compare as compare_scores
    from isic.evaluate.compare import default_place, find_oof, table

    for name, side in (("A", a), ("B", b)):
        if not side:
            raise InputError(f"{name} is empty: name a run, a version, a bundle, a checkout or a score file")
    place = out or default_place()
    files = [_scores_of(name) for name in (a, b)]
    if place is not None:
        refuse_output(place, *files)
    sides = [find_oof(file) for file in files]
    comparison = compare_scores(sides[0], sides[1], (a, b))
    typer.echo(table(comparison))
    if place is not None:
        write_json(place, comparison.to_json())
        typer.echo(f"written: {place}")


def _scores_of(name: str) -> Path:
    """File or folder that holds the out-of-fold scores of a version, a path, or a run of this checkout's store."""
    from isic.core.paths import Layout
    from isic.registry.versions import resolve
    from isic.tracking.lookup import run_scores

    if name.startswith("models:"):
        return resolve(name)
    if Path(name).exists() or "/" in name or name.endswith(".parquet"):
        return Path(name)
    try:
        root = Layout.find().root
    except InputError as error:
        raise InputError(f"{name} not found: no file or folder here, and runs are known inside a checkout") from error
    return run_scores(root, name)


@app.command()
def promote(
    force: Annotated[bool, typer.Option("--force", help="Promote although the gate refuses; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for registry/promotions.jsonl.")] = "",
) -> None:
    """Make the challenger the champion if the gate lets it."""
    from isic.core.paths import Layout
    from isic.registry.actions import promote as act

    result = act(Layout.find(), force, reason)
    if result.verdict is not None:
        typer.echo(result.verdict.table())
    already = "" if result.move else " already"
    typer.echo(f"{result.champion} is{already} the champion")


@app.command()
def rollback(reason: Annotated[str, typer.Option(help="Why, for registry/promotions.jsonl.")] = "") -> None:
    """Make the previous champion the champion again."""
    from isic.core.paths import Layout
    from isic.registry.actions import rollback as act

    move = act(Layout.find(), reason)
    typer.echo(f"{move.model} version {move.after} is the champion again (was {move.before or 'none'})")


@app.command()
def history() -> None:
    """Every promotion and rollback, oldest first."""
    from isic.core.paths import Layout
    from isic.registry.actions import past

    moves = past(Layout.find())
    if not moves:
        typer.echo("nothing was promoted yet: make promote")
    for move in moves:
        forced = " forced" if move.forced else ""
        why = f"  {move.reason}" if move.reason else ""
        typer.echo(f"{move.at}  {move.act:<8}  {move.before or '-'} -> {move.after}{forced}  {move.who}{why}")


@app.command()
def predict(
    model: Annotated[str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle folder.")],
    out: Annotated[
        str, typer.Option(help="CSV to write: isic_id, target. With --on ray: folder or URI, a parquet file per shard.")
    ],
    metadata: Annotated[Path | None, typer.Option(help="CSV with the columns of test-metadata.csv.")] = None,
    images: Annotated[Path | None, typer.Option(help="HDF5 with one JPEG per isic_id.")] = None,
    missing_images: Annotated[str, typer.Option(help="error, or impute the training mean.")] = "error",
    fallback: Annotated[
        bool,
        typer.Option("--fallback", help="If image models fail as a whole, score by the features alone and say so."),
    ] = False,
    on: Annotated[
        str, typer.Option(help="here, or ray: the cluster at RAY_ADDRESS, else one started on this machine.")
    ] = "here",
    source: Annotated[
        str | None, typer.Option("--input", help="With --on ray: folder or URI of shards (isic shard makes them).")
    ] = None,
    cpus: Annotated[float, typer.Option(help="With --on ray: CPU cores of a worker.")] = 1,
    gpus: Annotated[float, typer.Option(help="With --on ray: GPUs of a worker.")] = 0,
    memory_gb: Annotated[float | None, typer.Option(help="With --on ray: memory to reserve for a worker.")] = None,
) -> None:
    """Score any lesions with a registered model or a bundle folder, here or on a cluster."""
    if on == "ray":
        if source is None or metadata is not None or images is not None or fallback:
            raise InputError("--on ray takes --input (shards), not --metadata, --images or --fallback: see isic shard")
        from isic.scale.predict import predict as score_shards
        from isic.scale.resources import Needs
        from isic.scale.store import Store

        needs = Needs(cpus, gpus, memory_gb)
        done = score_shards(model, Store(source), Store(out), _missing(missing_images), needs)
        memory = f", a worker took up to {done.peak_gb:.1f} GB" if done.scored else ""
        typer.echo(
            f"{done.rows:,} lesions scored ({done.scored:,} shards now, {done.redone:,} twice{memory}): {shown(out)}"
        )
        return
    if on != "here":
        raise InputError(f"--on is {on!r}: use here or ray")
    if metadata is None or source is not None:
        raise InputError("--metadata is needed: a CSV with the columns of test-metadata.csv; --input is for --on ray")
    from isic.predict.files import predict as score_rows
    from isic.registry.versions import resolve

    scores = score_rows(resolve(model), metadata, images, Path(out), _missing(missing_images), fallback)
    typer.echo(f"{len(scores):,} lesions scored: {out}")


@app.command()
def shard(
    out: Annotated[str | None, typer.Option(help="Folder or URI (s3://…) for the shards.")] = None,
    metadata: Annotated[Path | None, typer.Option(help="CSV, official test or training form.")] = None,
    images: Annotated[Path | None, typer.Option(help="HDF5 with one JPEG per isic_id.")] = None,
    rows: Annotated[int, typer.Option(help="Lesions in a shard at most, but for a patient with more.")] = 20_000,
    megabytes: Annotated[float, typer.Option(help="Size of a shard, about.")] = 64,
    missing_images: Annotated[str, typer.Option(help="error, or impute: leave lesions without a tile in.")] = "error",
    index: Annotated[str | None, typer.Option(help="Write the manifest of shards that others made, no more.")] = None,
) -> None:
    """Cut the official files into parquet shards of whole patients, for --on ray."""
    from isic.scale.make_shards import cut
    from isic.scale.make_shards import index as index_shards
    from isic.scale.store import Store

    if index is not None and (out, metadata, images) != (None, None, None):
        raise InputError("--index goes alone: it only writes the manifest of shards that are there")
    if index is not None:
        manifest, place = index_shards(Store(index)), index
    elif metadata is None or out is None:
        raise InputError("give --metadata (and --images) and --out, or --index alone")
    else:
        impute = _missing(missing_images) == "impute"
        manifest, place = cut(metadata, images, Store(out), rows, megabytes, impute), out
    typer.echo(f"{manifest.rows:,} lesions in {len(manifest.shards):,} shards: {shown(place)}")


@app.command()
def explain(isic_id: Annotated[str, typer.Argument(help="A training lesion, ISIC_…")]) -> None:
    """What raised and lowered one lesion's score, in words and as a page."""
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.report.explain import explain as write_page
    from isic.report.shap import explain as in_words

    layout = Layout.find()
    typer.echo(in_words(layout, isic_id))
    page = write_page(layout, load_params(layout.params), isic_id)
    typer.echo(f"page: {page.relative_to(layout.root)}")


@app.command()
def features(
    show: Annotated[bool, typer.Option("--list", help="Print name, family, formula and meaning of each.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write docs/features.md.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fail if docs/features.md is stale.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Measure what each family gains (metrics/features.json).")
    ] = False,
) -> None:
    """The features: their table, its file, and what each family is worth on this checkout's data."""
    from isic.core.paths import Layout
    from isic.tabular.catalogue import catalogue, check_markdown, write_markdown

    if not (show or write or check or report):
        raise InputError("nothing to do: use --list, --write, --check or --report")
    if show:
        for row in catalogue():
            typer.echo("\t".join(row))
    table = Layout.find().root / "docs" / "features.md"
    if write:
        write_markdown(table)
    if check:
        check_markdown(table)
    if report:
        _pipeline("families")


models_app = typer.Typer(help="The catalogue of image backbones.", invoke_without_command=True)
app.add_typer(models_app, name="models")


@models_app.callback()
def models(context: typer.Context) -> None:
    """The catalogue of image backbones: timm tag, size, embedding width, memory, speed."""
    if context.invoked_subcommand is not None:
        return
    from isic.image.network.catalogue import lines

    for line in lines():
        typer.echo(line)
    _say_costs_here()


def _say_costs_here() -> None:
    """Inside a checkout, what the backbones of its params.yaml cost."""
    from isic.core.paths import Layout

    try:
        layout = Layout.find()
    except InputError:
        return
    from isic.scale.estimate import lines

    typer.echo("")
    for line in lines(layout):
        typer.echo(line)


@models_app.command("import")
def import_models(
    folder: Annotated[Path, typer.Argument(help="A bundle, a checkout, or BACKBONE/foldN folders.")],
) -> None:
    """Take image models that were trained elsewhere into models/image."""
    from isic.core.paths import Layout
    from isic.predict.import_models import import_models as bring

    stages = bring(Layout.find(), folder)
    typer.echo(f"{len(stages)} models taken; next: dvc commit -f {' '.join(stages)}, then dvc repro")


@app.command()
def stack(
    nested: Annotated[bool, typer.Option("--nested", help="Estimate how much shared folds flatter the score.")] = False,
) -> None:
    """Honesty checks of the stacker: a screen for leaking columns and a cross-fitted estimate of its optimism."""
    from isic.core.io import write_json
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.robustness.leaks import Leak, refuse_leaks
    from isic.robustness.nested import check

    if not nested:
        raise InputError("`dvc repro stack` fits the stacker; this verb has --nested")
    layout = Layout.find()
    found = check(layout, load_params(layout.params))
    path = layout.evaluate_metrics.with_name("nested.json")
    write_json(path, found)
    typer.echo(f"out-of-fold pAUC {found['headline']:.4f}; {found['text']}: about {found['pauc']:.4f}")
    typer.echo(f"{path.relative_to(layout.root)} written; the stage robustness does the same for the report")
    refuse_leaks([Leak(**leak) for leak in found["leaks"]])
    typer.echo("no column looks like a leak")


submission_app = typer.Typer(help="The competition's submission by the champion.", invoke_without_command=True)
app.add_typer(submission_app, name="submission")


@submission_app.callback()
def submission(
    context: typer.Context,
    missing_images: Annotated[str, typer.Option(help="error, or impute the training mean.")] = "error",
    fallback: Annotated[
        bool,
        typer.Option("--fallback", help="If image models fail as a whole, score by the features alone and say so."),
    ] = False,
) -> None:
    """Score the test files with the champion into submission/submission.csv."""
    if context.invoked_subcommand is not None:
        return
    from isic.core.paths import Layout
    from isic.submit.submission import make_submission

    layout = Layout.find()
    scores = make_submission(layout, None, _missing(missing_images), fallback)
    typer.echo(f"{len(scores):,} lesions scored: {layout.submission.relative_to(layout.root)}")


@submission_app.command()
def build(
    model: Annotated[str | None, typer.Option(help="A version or bundle folder (default: the champion).")] = None,
    user: Annotated[str | None, typer.Option(help="Kaggle name (default: KAGGLE_USERNAME).")] = None,
    image: Annotated[str | None, typer.Option(help="Docker image to pin.")] = None,
    wheel: Annotated[
        list[str] | None, typer.Option(help="Further package for Kaggle's Python; may be repeated.")
    ] = None,
) -> None:
    """Write submission/kaggle: notebook, metadata, bundle and wheels."""
    from isic.core.paths import Layout
    from isic.submit.kaggle import build as make

    layout = Layout.find()
    package = make(layout, model, user, image, tuple(wheel or ()))
    typer.echo(f"built {package.folder.relative_to(layout.root)}; next: isic submission dry-run")


@submission_app.command("dry-run")
def dry_run(
    rows: Annotated[int, typer.Option(help="Generated hidden lesions; 0 leaves them out.")] = 500_000,
) -> None:
    """Run the built notebook offline on the test files and a generated hidden set; does it fit the time?"""
    from isic.core.paths import Layout
    from isic.submit.dryrun import dry_run as rehearse

    result = rehearse(Layout.find(), rows)
    typer.echo(result.text())
    if result.estimate is not None and not result.estimate.fits:
        raise typer.Exit(2)


@submission_app.command()
def push(
    message: Annotated[str, typer.Option(help="What is new, for Kaggle's list of versions.")],
    submit_version: Annotated[int | None, typer.Option(help="Submit this version of the pushed notebook.")] = None,
) -> None:
    """Upload dataset and notebook with the Kaggle client, or submit a version that has run."""
    from isic.core.paths import Layout
    from isic.submit.push import push as send

    for line in send(Layout.find(), message, submit_version):
        typer.echo(line)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000) -> None:
    """Open the MLflow UI on this checkout's runs and models."""
    from isic.core.paths import Layout
    from isic.tracking.server import serve

    serve(Layout.find().root, port)


tracking_app = typer.Typer(help="Runs and models as a whole.", no_args_is_help=True)
app.add_typer(tracking_app, name="tracking")


@tracking_app.command("copy")
def copy_tracking(
    to: Annotated[str, typer.Option("--to", help="Address of the MLflow server.")],
    source: Annotated[str | None, typer.Option("--from", help="Store to copy; default: this checkout's file.")] = None,
) -> None:
    """Copy runs, models and aliases to a server; run again, it sends what is missing."""
    from isic.core.paths import Layout
    from isic.tracking.copy import copy
    from isic.tracking.store import local_uri

    root = Layout.find().root
    found = copy(source or local_uri(root), to, root, typer.echo)
    typer.echo(found.text())


@app.command()
def summary() -> None:
    """The result of the last `dvc repro`, where things are, and what to type next."""
    from isic.core.paths import Layout
    from isic.report.summary import summary as text

    typer.echo(text(Layout.find()))


def _missing(value: str) -> Literal["error", "impute"]:
    if value == "error":
        return "error"
    if value == "impute":
        return "impute"
    raise InputError(f"--missing-images is {value!r}: use error or impute")


def _pipeline(name: str) -> None:
    """Run a main of the pipelines package, which lies beside isic in a checkout and is not part of a wheel."""
    import subprocess
    import sys

    from isic.core.paths import Layout

    done = subprocess.run([sys.executable, "-m", f"pipelines.{name}"], cwd=Layout.find().root, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def main() -> None:
    """Entry point of the `isic` command."""
    run(app)


if __name__ == "__main__":
    main()
