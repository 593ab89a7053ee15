"""Verbs about a checkout: its parameters, its last result, its MLflow store."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()
tracking_app = typer.Typer(help="The MLflow store: its runs and models.", no_args_is_help=True)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="full, kaggle_t4, …; see pipelines/presets.")],
) -> None:
    """Apply a preset to params.yaml and show the difference."""
    from isic.core.paths import Layout
    from isic.core.presets import apply_preset

    layout = Layout.find()
    diff = apply_preset(layout.params, layout.root / "pipelines" / "presets", name)
    typer.echo(diff or f"params.yaml already holds preset {name}", nl=not diff)


@app.command()
def summary() -> None:
    """Print the result of the last `dvc repro`, the paths of its files, and the next commands."""
    from isic.core.io import read_json
    from isic.core.paths import Layout
    from isic.report.summary import result_summary

    layout = Layout.find()
    outputs = {
        "report": layout.report,
        "submission": layout.submission,
        "model": layout.bundle,
        "runs": layout.root / "mlflow.db",
    }
    typer.echo(result_summary(read_json(layout.evaluate_metrics), layout.root, outputs))


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000) -> None:
    """Open the MLflow UI on this checkout's runs and models."""
    from isic.core.paths import Layout
    from isic.tracking.server import serve

    serve(Layout.find().root, port)


@tracking_app.command("copy")
def copy_tracking(
    to: Annotated[str, typer.Option("--to", help="Address of the MLflow server.")],
    source: Annotated[
        str | None, typer.Option("--from", help="Store to copy; default: this checkout's file.")
    ] = None,
) -> None:
    """Copy runs, models and aliases to a server; a rerun sends only what is missing there."""
    from isic.core.paths import Layout
    from isic.tracking.copy import copy
    from isic.tracking.store import local_uri

    root = Layout.find().root
    result = copy(source or local_uri(root), to, root, typer.echo)
    typer.echo(result.text())
