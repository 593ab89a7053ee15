"""`isic models`: the catalogue of image backbones, and the import of models trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isic.core.errors import InputError

app = typer.Typer(help="The catalogue of image backbones.", invoke_without_command=True)


@app.callback()
def models(context: typer.Context) -> None:
    """The catalogue of image backbones: timm tag, size, embedding width, memory, speed."""
    if context.invoked_subcommand is not None:
        return
    from isic.image.network.catalogue import table_lines

    for line in table_lines():
        typer.echo(line)
    _print_costs()


def _print_costs() -> None:
    """Inside a checkout: estimated costs of the backbones of its params.yaml."""
    from isic.core.paths import Layout

    try:
        layout = Layout.find()
    except InputError:
        return
    from isic.core.params import load_params
    from isic.scale.estimate import cost_table, count_lesions

    params = load_params(layout.params)
    counts = count_lesions(layout.folds, params.data)
    typer.echo("")
    for line in cost_table(params.image, len(params.folds), counts):
        typer.echo(line)


@app.command("import")
def import_models(
    folder: Annotated[
        Path, typer.Argument(help="A bundle, a checkout, or BACKBONE/foldN folders.")
    ],
) -> None:
    """Import image models trained elsewhere into models/image."""
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.predict.import_models import import_models as copy_models

    layout = Layout.find()
    params = load_params(layout.params)
    stages = copy_models(folder, params.image, params.folds, layout.folds, layout.networks)
    typer.echo(
        f"{len(stages)} models imported; next: dvc commit -f {' '.join(stages)}, then dvc repro"
    )
