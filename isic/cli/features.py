"""`isic features`: the table of features, its page in docs, and the gain of each family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isic.tabular.catalogue import Row

app = typer.Typer(
    help="The features: their table, and the gain of each family.", no_args_is_help=True
)


#: Maximum lines of `isic features list` without --all.
_LINES = 100


@app.command("list")
def list_features(
    families: Annotated[
        list[str] | None, typer.Argument(help="List the features of these families.")
    ] = None,
    find: Annotated[
        str, typer.Option(help="List features with this text in name, formula or meaning.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="List all features, without a limit.")
    ] = False,
) -> None:
    """Print the families, or the features of one.

    A feature has a name, family, formula and meaning.
    """
    from isic.tabular.catalogue import family_rows, find_features

    if families or find or everything:
        _print_features(find_features(families or (), find), everything)
        return
    _print_columns(
        ("family", "features", "meaning"),
        [(name, str(count), meaning) for name, count, meaning in family_rows()],
    )
    typer.echo(
        "\nfeatures of a family: isic features list FAMILY; by a word: --find TEXT; all: --all"
    )


def _print_features(rows: Sequence[Row], everything: bool) -> None:
    limit = len(rows) if everything or len(rows) < _LINES else _LINES - 2
    _print_columns(("name", "family", "formula", "meaning"), rows[:limit])
    if limit < len(rows):
        typer.echo(f"{len(rows) - limit:,} more of {len(rows):,} features: --all")


def _print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Each column but the last has the width of its longest cell, at most 48
    characters.
    """
    table = [header, *rows]
    widths = [min(48, max(map(len, column))) for column in zip(*table, strict=True)]
    widths[-1] = 0
    for row in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


@app.command()
def write() -> None:
    """Write docs/features.md, the table of families."""
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
    """Measure the gain of each family on this checkout.

    The result is written to metrics/features.json.
    """
    import subprocess
    import sys

    from isic.core.paths import Layout

    # `pipelines` is part of a checkout, not of the wheel.
    command = [sys.executable, "-m", "pipelines.families"]
    status = subprocess.run(command, cwd=Layout.find().root, check=False).returncode
    if status:
        raise typer.Exit(status)
