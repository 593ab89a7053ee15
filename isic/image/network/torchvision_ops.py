"""Import of a torchvision wheel built for CUDA with a torch built for the CPU.

timm imports torchvision, which registers shape functions for its compiled operators. Without CUDA
these operators do not load, and the import fails with "operator torchvision::nms does not exist"
(torch 2.13.0, torchvision 0.28.0). The import works once the names are declared. Calling the
operators still fails, but isic calls none.
"""

from __future__ import annotations

import torch

_NAMES = (
    "nms",
    "qnms",
    "roi_align",
    "qroi_align",
    "roi_pool",
    "ps_roi_align",
    "ps_roi_pool",
    "deform_conv2d",
    "_roi_align_backward",
    "_roi_pool_backward",
    "_ps_roi_align_backward",
    "_ps_roi_pool_backward",
    "_deform_conv2d_backward",
)

#: Keeps the Library object alive: its declarations end with it.
_declared: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Declare torchvision's operators if its compiled ones cannot load; call before torchvision is
    imported.
    """
    # A torch with CUDA loads the compiled operators, which fails for declared names.
    if _declared or torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return
    if _own_operators_load():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in _NAMES:
        library.define(f"{name}() -> ()")
    _declared.append(library)


def _own_operators_load() -> bool:
    """Whether this torch loads torchvision's compiled library; torchvision is not imported."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for file in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(file))
        except OSError:
            continue
        return True
    return False
