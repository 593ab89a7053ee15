"""Verbs of the model registry: promote, rollback, history."""

from __future__ import annotations

from typing import Annotated

import typer

from isic.core.errors import printable

app = typer.Typer()

_Reason = Annotated[str, typer.Option(help="The reason, for registry/promotions.jsonl.")]


@app.command()
def promote(
    force: Annotated[
        bool, typer.Option("--force", help="Promote even if the gate refuses; needs --reason.")
    ] = False,
    reason: _Reason = "",
) -> None:
    """Make the challenger the champion if the gate allows it."""
    from isic.core.params import load_params
    from isic.core.paths import Layout

    layout = Layout.find()
    params = load_params(layout.params)
    # MLflow takes seconds to import.
    typer.echo("isic: opens the registry", err=True)
    from isic.registry.actions import promote as promote_challenger
    from isic.registry.versions import Registry

    result = promote_challenger(
        Registry(layout.root),
        params.register_.model,
        layout.promotion_files,
        params.gate,
        force,
        reason,
    )
    if result.verdict is not None:
        typer.echo(result.verdict.table())
    already = "" if result.record else " already"
    typer.echo(f"{result.champion} is{already} the champion")


@app.command()
def rollback(reason: _Reason = "") -> None:
    """Make the previous champion the champion again."""
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.registry.actions import rollback as restore_previous
    from isic.registry.versions import Registry

    layout = Layout.find()
    model = load_params(layout.params).register_.model
    move = restore_previous(Registry(layout.root), model, layout.promotions, reason)
    typer.echo(
        f"{move.model} version {move.after} is the champion again (was {move.before or 'none'})"
    )


@app.command()
def frontier() -> None:
    """Measure pAUC against the cost of every version.

    Fold networks are measured too. The result is written to metrics/frontier.json.
    """
    import subprocess
    import sys

    from isic.core.paths import Layout

    # The package pipelines is part of a checkout, not of the wheel.
    command = [sys.executable, "-m", "pipelines.frontier"]
    status = subprocess.run(command, cwd=Layout.find().root, check=False).returncode
    if status:
        raise typer.Exit(status)


@app.command()
def history() -> None:
    """List every promotion and rollback, oldest first."""
    from isic.core.paths import Layout
    from isic.registry.actions import list_moves

    layout = Layout.find()
    moves = list_moves(layout.root, layout.promotions)
    if not moves:
        typer.echo("nothing was promoted yet: make promote")
    for move in moves:
        forced = " forced" if move.forced else ""
        reason = f"  {printable(move.reason)}" if move.reason else ""
        typer.echo(
            f"{move.at}  {move.act:<8}  {move.before or '-'} -> {move.after}{forced} "
            f" {printable(move.who)}{reason}"
        )
