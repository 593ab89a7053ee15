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
    from isic.registry.versions import CHAMPION, Registry
    from isic.submit.ledger import log_submission
    from isic.submit.submission import submit

    layout = Layout.find()
    params = load_params(layout.params)
    bundle = _load_model(layout, params)
    missing = parse_missing(missing_images)
    scores = submit(bundle, layout.raw, layout.submission, missing, fallback)
    typer.echo(f"{len(scores):,} lesions scored: {layout.submission.relative_to(layout.root)}")
    typer.echo(f"licence: {bundle.manifest.licence}")

    registry = Registry(layout.root)
    version = registry.find_alias(params.register_.model, CHAMPION)
    if version is not None and version.bundle_hash == bundle.manifest.hash:
        log_submission(registry, version, bundle, layout.raw, layout.submission, len(scores))


@app.command("list")
def list_submissions() -> None:
    """List the submissions and their scores.

    A score is out of fold, with its interval, or the leaderboard's.
    """
    from isic.core.paths import Layout
    from isic.submit.ledger import ledger_table, read_ledger

    entries = read_ledger(Layout.find().ledger)
    typer.echo(ledger_table(entries) if entries else "nothing was submitted yet: make submission")


@app.command()
def record(
    public: Annotated[float | None, typer.Option(help="Public leaderboard score.")] = None,
    private: Annotated[float | None, typer.Option(help="Private leaderboard score.")] = None,
    version: Annotated[
        int | None, typer.Option(help="Version submitted (default: the last submission's).")
    ] = None,
) -> None:
    """Enter the leaderboard scores of a submission."""
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.registry.versions import Registry
    from isic.submit.ledger import ledger_table, record_scores

    layout = Layout.find()
    model = load_params(layout.params).register_.model
    registry = Registry(layout.root)
    entry = record_scores(registry, model, layout.ledger, public, private, version)
    typer.echo(ledger_table([entry]))


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
    """Run the built notebook offline and estimate its run time.

    It scores the test files and a generated hidden set.
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
    """Upload dataset and notebook with the Kaggle client.

    With --submit-version, submit a version that ran.
    """
    from isic.core.paths import Layout
    from isic.submit.kaggle import Package
    from isic.submit.push import push as upload

    for line in upload(Package(Layout.find().kaggle), message, submit_version):
        typer.echo(line)
