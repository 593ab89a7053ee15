"""Imports of timm and grad-cam without what they import and isic does not use.

Both import torchvision for transforms, data sets and detection. That takes longer than torch itself
(torchvision 0.28 imports the compiler of torch), and fails where torchvision is built for CUDA and
torch for the CPU ("operator torchvision::nms does not exist"). timm itself imports the compiler to
exclude functions from it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

_NAME = "torchvision"


class _Placeholder(type):
    """A class that can be named, inherited from and compared with; its attributes are their names."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"{cls.__module__}.{cls.__name__} is not loaded: import torchvision first"
        )


class _Module(ModuleType):
    """A module with a placeholder for every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _Placeholder(name, (), {"__module__": self.__name__})
        setattr(self, name, found)
        return found


class _Finder(MetaPathFinder, Loader):
    """Finds a module of placeholders for torchvision and all its modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != _NAME:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


@contextmanager
def lean_imports() -> Iterator[None]:
    """Imports inside see placeholders for torchvision, and do not import the compiler of torch.

    No effect on torchvision that is imported already.
    """
    disable = torch.compiler.disable
    # The same decorator, which imports the compiler when the function is called.
    torch.compiler.disable = getattr(torch, "_disable_dynamo", disable)
    finder = None if _NAME in sys.modules else _Finder()
    if finder is not None:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if finder is not None:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.partition(".")[0] == _NAME]:
                del sys.modules[name]
