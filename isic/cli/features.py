"""`isic features`: the table of features, its file in docs, and the measured gain of each family."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="The features: their table, and the gain of each family.", no_args_is_help=True
)


@app.command("list")
def list_features() -> None:
    """Print name, family, formula and meaning of each feature."""
    from isic.tabular.catalogue import catalogue

    for row in catalogue():
        typer.echo("\t".join(row))


@app.command()
def write() -> None:
    """Write docs/features.md."""
    from isic.core.paths import Layout
    from isic.tabular.catalogue import write_markdown

    write_markdown(Layout.find().root / "docs" / "features.md")


@app.command()
def check() -> None:
    """Fail if docs/features.md is out of date."""
    from isic.core.paths import Layout
    from isic.tabular.catalogue import check_markdown

    check_markdown(Layout.find().root / "docs" / "features.md")


@app.command()
def measure() -> None:
    """Measure the gain of each family on this checkout's data (metrics/features.json)."""
    import subprocess
    import sys

    from isic.core.paths import Layout

    # The package pipelines is part of a checkout, not of the wheel.
    command = [sys.executable, "-m", "pipelines.families"]
    status = subprocess.run(command, cwd=Layout.find().root, check=False).returncode
    if status:
        raise typer.Exit(status)
