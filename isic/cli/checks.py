"""Verbs that check the set-up and the stacker."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command()
def doctor() -> None:
    """Check the set-up, with a remedy for each fault."""
    from isic.doctor import checks

    failed = False
    for line in checks():
        typer.echo(line.text())
        failed |= line.state == "fail"
    if failed:
        raise typer.Exit(2)


@app.command("check-stack")
def check_stack() -> None:
    """Check the stacker for leaks and for an optimistic score."""
    from isic.core.io import read_parquet, write_json
    from isic.core.params import load_params
    from isic.core.paths import Layout
    from isic.core.schema import TARGET
    from isic.robustness.leaks import Leak, refuse_leaks
    from isic.robustness.nested import check_optimism
    from isic.stack.inputs import read_inputs

    layout = Layout.find()
    params = load_params(layout.params)
    files = layout.stack_files(params.image.backbones, params.folds)
    inputs = read_inputs(files, embeddings=False, thinned=params.stack.thinned)
    oof = read_parquet(layout.oof, columns=[TARGET, "score"])
    result = check_optimism(inputs, oof, params.stack, params.evaluate.replicates)
    path = layout.evaluate_metrics.with_name("nested.json")
    write_json(path, result)

    typer.echo(
        f"out-of-fold pAUC {result['headline']:.4f}; {result['text']}: about {result['pauc']:.4f}"
    )
    typer.echo(
        f"{path.relative_to(layout.root)} written; the stage robustness writes it for the report"
    )
    refuse_leaks([Leak(**leak) for leak in result["leaks"]])
    typer.echo("no column looks like a leak")
