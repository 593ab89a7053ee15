"""The weights from which a network is trained."""

from __future__ import annotations

from pathlib import Path

from isic.core.errors import InputError

#: Weights trained on generated tiles by `benchmarks/pretrain.py`; README.md there describes them.
_GENERATED = Path(__file__).parent / "generated"


def starting_weights(model: str, weights: str) -> str:
    """`hub`, `none` or the path of a file: that of the package for `generated`.

    model: a name of the catalogue or of timm. Raises InputError if `generated` has no weights of
    that network.
    """
    if weights != "generated":
        return weights
    path = _GENERATED / f"{model}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _GENERATED.glob("*.safetensors")))
        raise InputError(
            f"image.train.weights is `generated`, which exists for {known} only, not for `{model}`:"
            " set it to hub, none or the path of a safetensors file"
        )
    return str(path)
