"""Lets a torchvision wheel built for CUDA be imported beside a torch built for the CPU.

timm imports torchvision, and torchvision registers shape functions for its compiled operators.
Where torch has no CUDA those operators did not load, and the import dies with "operator
torchvision::nms does not exist" (torch 2.13.0, torchvision 0.28.0). Declaring the names first is
enough to import; calling them still fails, and nothing here does.
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

#: Declarations live as long as the Library object: collected, they would go and the error return.
_declared: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Declare torchvision's operators where its compiled ones cannot load; call before torchvision
    is imported.
    """
    # A torch with CUDA loads the real operators; declaring them before would make that fail.
    if _declared or torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return
    if _own_operators_load():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in _NAMES:
        library.define(f"{name}() -> ()")
    _declared.append(library)


def _own_operators_load() -> bool:
    """Whether torchvision's compiled library fits this torch, tried without importing torchvision."""
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
