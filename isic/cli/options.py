"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from isic.core.errors import InputError

MissingImages = Annotated[str, typer.Option(help="error, or impute the training mean.")]
Fallback = Annotated[
    bool,
    typer.Option(
        "--fallback", help="If all image models fail, score by the features alone and warn."
    ),
]


def missing_images(value: str) -> Literal["error", "impute"]:
    """The value of `--missing-images`. Raises InputError for any other."""
    if value == "error":
        return "error"
    if value == "impute":
        return "impute"
    raise InputError(f"--missing-images is {value!r}: use error or impute")
