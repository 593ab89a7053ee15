"""The bundle of the champion, with which the report compares a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from isic.core.errors import InputError

if TYPE_CHECKING:
    from isic.predict.bundle import Bundle


def read_champion(root: Path, promotions: Path, model: str) -> Bundle | None:
    """The champion of the registered `model`; None if there is none or it cannot be read (then with
    a note on stderr).

    root: folder of the checkout. promotions: its journal of promotions.
    """
    if not promotions.is_file():
        return None

    # Imported late: MLflow takes seconds.
    from isic.predict.bundle import load_bundle
    from isic.registry.versions import resolve_model

    try:
        return load_bundle(resolve_model(f"models:/{model}@champion", root))
    except InputError as error:
        sys.stderr.write(f"isic: note: the report has no comparison with the champion: {error}\n")
        return None
