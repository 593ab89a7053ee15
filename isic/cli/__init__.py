"""The `isic` command. One file per group of verbs; each verb parses, calls one wing and prints.

Heavy imports are inside the verbs, so that `isic --help` is fast. Exit status: 0 on success, 2 with
one line on bad input, 130 when interrupted.
"""

from __future__ import annotations

import shlex
import sys

import typer

from isic.cli import checkout, checks, data, features, models, registry, scores, submission
from isic.core.errors import InputError, run

app = typer.Typer(
    name="isic",
    help=(
        "Find skin cancer among hundreds of lesions per patient: data, runs, models and submissions"
        " for ISIC 2024."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (data, checks, checkout, scores, registry):
    app.add_typer(group.app)
app.add_typer(data.data_app, name="data")
app.add_typer(features.app, name="features")
app.add_typer(models.app, name="models")
app.add_typer(submission.app, name="submission")
app.add_typer(checkout.tracking_app, name="tracking")

#: Verbs and flags of earlier versions, and the verbs that replace them.
_RENAMED = {
    "features --list": "features list",
    "features --write": "features write",
    "features --check": "features check",
    "features --report": "features measure",
    "stack": "check-stack",
    "stack --nested": "check-stack",
}

#: Verbs of isic-cli 12, the ISIC archive's own tool, whose command has the same name.
_ARCHIVE_VERBS = ("accession", "collection", "image", "metadata", "user")


def main() -> None:
    """Entry point of the `isic` command."""
    run(_run_verb)


def _run_verb() -> None:
    old = " ".join(sys.argv[1:3])
    if old in _RENAMED:
        raise InputError(f"`isic {old}` is now `isic {_RENAMED[old]}`")
    if sys.argv[1:2] and sys.argv[1] in _ARCHIVE_VERBS:
        raise InputError(
            f"`isic {sys.argv[1]}` is a verb of isic-cli, the ISIC archive's tool, and this is"
            f" another program: pipx run --spec isic-cli isic {shlex.join(sys.argv[1:])}"
        )
    app()
