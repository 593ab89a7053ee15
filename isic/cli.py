"""The verbs a person types. Each parses, calls one room, prints; heavy imports happen inside the verb.

Exit status: 0 on success, 2 with one clear line on bad input, 130 when interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from isic.core.errors import run

app = typer.Typer(
    name="isic",
    help="Find skin cancer among hundreds of lesions per patient: data, runs, models and submissions for ISIC 2024.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Folder for the five official files.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 1042,
    lesions: Annotated[int, typer.Option(help="Number of lesions (training rows).")] = 401_059,
    positives: Annotated[int, typer.Option(help="Number of malignant lesions.")] = 393,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    no_images: Annotated[bool, typer.Option("--no-images", help="Tables only.")] = False,
) -> None:
    """Generate the five official files, matched to the published population."""
    from isic.data.sample import write_sample

    write_sample(out, patients, lesions, positives, seed, images=not no_images)
    typer.echo(f"{lesions:,} lesions of {patients:,} patients, {positives} malignant: {out}")


@app.command()
def doctor() -> None:
    """Check the set-up: one line per check, with what to do."""
    from isic.doctor import checks

    lines = list(checks())
    for line in lines:
        typer.echo(line.text())
    if any(line.state == "fail" for line in lines):
        raise typer.Exit(2)


@app.command()
def preset(name: Annotated[str, typer.Argument(help="full, kaggle_t4, …; see pipelines/presets.")]) -> None:
    """Lay a preset over params.yaml and show the difference."""
    from isic.core.paths import Layout
    from isic.core.presets import apply_preset

    layout = Layout.find()
    diff = apply_preset(layout.params, layout.root / "pipelines" / "presets", name)
    typer.echo(diff or f"params.yaml already holds preset {name}", nl=not diff)


@app.command()
def score(
    solution: Annotated[
        Path, typer.Option(help="CSV with isic_id, target and, for the top-15 sensitivity, patient_id.")
    ],
    submission: Annotated[Path, typer.Option(help="CSV with isic_id and target (the score).")],
) -> None:
    """Print pAUC, AUC and top-15 sensitivity as JSON; rows are matched by isic_id."""
    from isic.core.score import score_files

    typer.echo(json.dumps(score_files(solution, submission)))


def main() -> None:
    """Entry point of the `isic` command."""
    run(app)


if __name__ == "__main__":
    main()
