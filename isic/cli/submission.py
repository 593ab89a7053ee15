"""`isic submission`: score the test files, and build, rehearse and push the Kaggle notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from isic.cli.options import Fallback, MissingImages
from isic.cli.options import missing_images as parse_missing

if TYPE_CHECKING:
    from isic.core.params import Params
    from isic.core.paths import Layout
    from isic.predict.bundle import Bundle

app = typer.Typer(help="The competition's submission by the champion.", invoke_without_command=True)


@app.callback()
def submission(
    context: typer.Context, missing_images: MissingImages = "error", fallback: Fallback = False
) -> None:
    """Score the test files with the champion into submission/submission.csv."""
    if context.invoked_subcommand is not None:
        return
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.submit.submission import submit

    layout = Layout.find()
    bundle = _load_model(layout, load_params(layout.params))
    missing = parse_missing(missing_images)
    scores = submit(bundle, layout.raw, layout.submission, missing, fallback)
    typer.echo(f"{len(scores):,} lesions scored: {layout.submission.relative_to(layout.root)}")


def _load_model(layout: Layout, params: Params, model: str | None = None) -> Bundle:
    """The bundle of `model`, or of the champion."""
    from isic.predict.bundle import load_bundle
    from isic.registry.versions import CHAMPION, resolve_model

    champion = f"models:/{params.register_.model}@{CHAMPION}"
    return load_bundle(resolve_model(model or champion, layout.root))


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
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.submit.kaggle import Package, build_package, check_code

    layout = Layout.find()
    params = load_params(layout.params)
    bundle, package = _load_model(layout, params, model), Package(layout.kaggle)
    check_code(bundle, layout.train_metadata, layout.train_images, params.gate)
    build_package(bundle, layout.root, package, user, image, tuple(wheel or ()))
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
    from isic.submit.kaggle import Package

    layout = Layout.find()
    out = layout.submission.with_name("kaggle-dry-run.json")
    result = run_notebook(Package(layout.kaggle), layout.raw, out, rows)
    typer.echo(result.text())
    if result.estimate is not None and not result.estimate.fits:
        raise typer.Exit(2)


@app.command()
def push(
    message: Annotated[str, typer.Option(help="Message for Kaggle's list of versions.")],
    submit_version: Annotated[
        int | None, typer.Option(help="Submit this version of the notebook.")
    ] = None,
) -> None:
    """Upload dataset and notebook with the Kaggle client, or submit a version that ran."""
    from isic.core.paths import Layout
    from isic.submit.kaggle import Package
    from isic.submit.push import push as upload

    for line in upload(Package(Layout.find().kaggle), message, submit_version):
        typer.echo(line)
