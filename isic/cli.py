"""The verbs a person types. Each parses, calls one room, prints; heavy imports happen inside the verb.

Exit status: 0 on success, 2 with one clear line on bad input, 130 when interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from isic.core.errors import run

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

    write_sample(out, patients, lesions, positives, seed, images=not no_images)
    typer.echo(f"{lesions:,} lesions of {patients:,} patients, {positives} malignant: {out}")


@app.command()
def doctor() -> None:
    """Check the set-up: one line per check, with what to do."""
    from isic.doctor import checks

    lines = list(checks())
    for line in lines:
        typer.echo(line.text())
    if any(line.state == "fail" for line in lines):
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
    a: Annotated[str, typer.Argument(help="A version (models:/NAME@ALIAS), bundle, checkout or parquet of scores.")],
    b: Annotated[str, typer.Argument(help="The other one, scored on the same lesions.")],
    out: Annotated[Path | None, typer.Option(help="Also write the comparison as JSON.")] = None,
) -> None:
    """Compare two sets of out-of-fold scores: paired interval of the difference over patients."""
    from isic.core.io import write_json
    from isic.registry.versions import resolve
    from isic.report.compare import compare as compare_scores
    from isic.report.compare import find_oof, table

    sides = [find_oof(resolve(name) if name.startswith("models:") else Path(name)) for name in (a, b)]
    comparison = compare_scores(sides[0], sides[1], (a, b))
    if out is not None:
        write_json(out, comparison.to_json())
    typer.echo(table(comparison))


@app.command()
def promote(
    force: Annotated[bool, typer.Option("--force", help="Promote although the gate refuses; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for registry/promotions.jsonl.")] = "",
) -> None:
    """Make the challenger the champion if the gate lets it."""
    from isic.core.paths import Layout
    from isic.registry.verbs import promote as act

    result = act(Layout.find(), force, reason)
    if result.verdict is not None:
        typer.echo(result.verdict.table())
    already = "" if result.move else " already"
    typer.echo(f"{result.champion} is{already} the champion")


@app.command()
def rollback(reason: Annotated[str, typer.Option(help="Why, for registry/promotions.jsonl.")] = "") -> None:
    """Make the previous champion the champion again."""
    from isic.core.paths import Layout
    from isic.registry.verbs import rollback as act

    move = act(Layout.find(), reason)
    typer.echo(f"{move.model} version {move.after} is the champion again (was {move.before})")


@app.command()
def history() -> None:
    """Every promotion and rollback, oldest first."""
    from isic.core.paths import Layout
    from isic.registry.verbs import past

    for move in past(Layout.find()):
        forced = " forced" if move.forced else ""
        why = f"  {move.reason}" if move.reason else ""
        typer.echo(f"{move.at}  {move.act:<8}  {move.before or '-'} -> {move.after}{forced}  {move.who}{why}")


@app.command()
def predict(
    model: Annotated[str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle folder.")],
    metadata: Annotated[Path, typer.Option(help="CSV with the columns of test-metadata.csv.")],
    out: Annotated[Path, typer.Option(help="CSV to write: isic_id, target.")],
    images: Annotated[Path | None, typer.Option(help="HDF5 with one JPEG per isic_id.")] = None,
    missing_images: Annotated[str, typer.Option(help="error, or impute the training mean.")] = "error",
) -> None:
    """Score any lesions with a registered model or a bundle folder."""
    from isic.core.errors import InputError
    from isic.submit.predict import predict as score_rows

    if missing_images not in ("error", "impute"):
        raise InputError(f"--missing-images is {missing_images!r}: use error or impute")
    scores = score_rows(model, metadata, images, out, "impute" if missing_images == "impute" else "error")
    typer.echo(f"{len(scores):,} lesions scored: {out}")


submission_app = typer.Typer(help="The competition's submission by the champion.", invoke_without_command=True)
app.add_typer(submission_app, name="submission")


@submission_app.callback()
def submission(context: typer.Context) -> None:
    """Score the test files with the champion into submission/submission.csv."""
    if context.invoked_subcommand is not None:
        return
    from isic.core.paths import Layout
    from isic.submit.submission import make_submission

    layout = Layout.find()
    scores = make_submission(layout)
    typer.echo(f"{len(scores):,} lesions scored: {layout.submission.relative_to(layout.root)}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000) -> None:
    """Open the MLflow UI on this checkout's runs and models."""
    from isic.core.paths import Layout
    from isic.tracking.server import serve

    serve(Layout.find().root, port)


@app.command()
def summary() -> None:
    """The result of the last `dvc repro`, where things are, and what to type next."""
    from isic.core.paths import Layout
    from isic.report.summary import summary as text

    typer.echo(text(Layout.find()))


def main() -> None:
    """Entry point of the `isic` command."""
    run(app)


if __name__ == "__main__":
    main()
