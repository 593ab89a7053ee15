"""Verbs for a checkout: its parameters, its last result, its MLflow store."""

from __future__ import annotations

from typing import Annotated

import typer

from isic.core.errors import InputError

app = typer.Typer()
tracking_app = typer.Typer(help="The MLflow store: its runs and models.", no_args_is_help=True)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="full, kaggle_t4, …; see pipelines/presets.")] = "",
) -> None:
    """Apply a preset to params.yaml and show the difference.

    The next command is printed.
    """
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.core.presets import apply_preset, preset_names
    from isic.data.source import has_tiles, missing_files

    layout = Layout.find()
    presets = layout.root / "pipelines" / "presets"
    if not name:
        names = preset_names(presets)
        raise InputError(
            f"name a preset, one of {', '.join(names)}: make preset P={names[0]}, or"
            f" isic preset {names[0]}"
        )
    diff = apply_preset(layout.params, presets, name)
    typer.echo(diff or f"params.yaml already holds preset {name}", nl=not diff)

    data = load_params(layout.params).data
    folder = layout.root / str(data.folder)
    ready = data.source == "sample" or not missing_files(folder) or has_tiles(folder)
    download = "" if ready else "make data (needs a Kaggle token and accepted rules), then "
    typer.echo(f"next: {download}dvc repro; isic models estimates the training time")


@app.command()
def summary() -> None:
    """Print the result of the last `dvc repro`.

    The paths of its files and the next commands are printed too.
    """
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
    try:
        text = result_summary(read_json(layout.evaluate_metrics), layout.root, outputs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{layout.evaluate_metrics} does not hold the stage's metrics ({error}): dvc repro evaluate"
        ) from error
    typer.echo(text)


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
    """Copy runs, models and aliases to a server.

    A rerun sends only what is missing there.
    """
    from isic.core.paths import Layout
    from isic.tracking.copy import copy
    from isic.tracking.store import local_uri

    root = Layout.find().root
    result = copy(source or local_uri(root), to, root, typer.echo)
    typer.echo(result.text())


@tracking_app.command("webhook")
def webhook(
    url: Annotated[str, typer.Argument(help="Address that the server calls.")],
    secret: Annotated[
        str, typer.Option(envvar="ISIC_WEBHOOK_SECRET", help="Signs the calls.", show_default=False)
    ] = "",
) -> None:
    """Have the MLflow server call an address at each promotion.

    It is called when an alias moves.
    """
    from isic.core.paths import Layout
    from isic.registry.versions import Registry
    from isic.registry.webhook import add_webhook

    hook = add_webhook(Registry(Layout.find().root), url, secret)
    typer.echo(f"webhook {hook}: the server calls {url} when an alias moves")
