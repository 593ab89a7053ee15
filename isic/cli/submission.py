"""`isic submission`: score the test files, and build, rehearse and push the Kaggle notebook."""

from __future__ import annotations

from typing import Annotated

import typer

from isic.cli.options import Fallback, MissingImages
from isic.cli.options import missing_images as parse_missing

app = typer.Typer(help="The competition's submission by the champion.", invoke_without_command=True)


@app.callback()
def submission(
    context: typer.Context, missing_images: MissingImages = "error", fallback: Fallback = False
) -> None:
    """Score the test files with the champion into submission/submission.csv."""
    if context.invoked_subcommand is not None:
        return
    from isic.core.paths import Layout
    from isic.submit.submission import make_submission

    layout = Layout.find()
    scores = make_submission(layout, None, parse_missing(missing_images), fallback)
    typer.echo(f"{len(scores):,} lesions scored: {layout.submission.relative_to(layout.root)}")


@app.command()
def build(
    model: Annotated[
        str | None, typer.Option(help="A version or bundle folder (default: the champion).")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Kaggle name (default: KAGGLE_USERNAME).")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Docker image to pin.")] = None,
    wheel: Annotated[
        list[str] | None,
        typer.Option(help="Additional package for Kaggle's Python; may be repeated."),
    ] = None,
) -> None:
    """Write submission/kaggle: notebook, metadata, bundle and wheels."""
    from isic.core.paths import Layout
    from isic.submit.kaggle import build as build_package

    layout = Layout.find()
    package = build_package(layout, model, user, image, tuple(wheel or ()))
    typer.echo(f"built {package.folder.relative_to(layout.root)}; next: isic submission dry-run")


@app.command("dry-run")
def dry_run(
    rows: Annotated[
        int, typer.Option(help="Rows of the generated hidden test set; 0 skips it.")
    ] = 500_000,
) -> None:
    """Run the built notebook offline on the test files and a generated hidden set; estimate its run
    time.
    """
    from isic.core.paths import Layout
    from isic.submit.dryrun import dry_run as run_notebook

    result = run_notebook(Layout.find(), rows)
    typer.echo(result.text())
    if result.estimate is not None and not result.estimate.fits:
        raise typer.Exit(2)


@app.command()
def push(
    message: Annotated[str, typer.Option(help="What is new, for Kaggle's list of versions.")],
    submit_version: Annotated[
        int | None, typer.Option(help="Submit this version of the pushed notebook.")
    ] = None,
) -> None:
    """Upload dataset and notebook with the Kaggle client, or submit a version that has run."""
    from isic.core.paths import Layout
    from isic.submit.push import push as upload

    for line in upload(Layout.find(), message, submit_version):
        typer.echo(line)
