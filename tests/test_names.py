"""A public name is defined in one module of the package. The list of those that are not may only
shrink.
"""

from __future__ import annotations

import ast
from pathlib import Path

#: Names with several definitions, one per line.
LIST = Path(__file__).with_name("duplicate_names.txt")
#: The modules of such a folder implement one interface: it counts as one module.
_INTERFACES = ("isic/stack/members", "isic/tabular/families")


def _defined(path: Path) -> set[str]:
    """Classes, functions and constants without underscore at the top level of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                name.id
                for target in targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name)
            }
    return {name for name in names if not name.startswith("_")}


def _duplicates(root: Path) -> set[str]:
    """Public names that several modules define. A verb may have the name of the function that it
    calls, and `main` is what a process starts.
    """
    names: dict[str, set[str]] = {}
    for path in (root / "isic").rglob("*.py"):
        module = path.relative_to(root).as_posix()
        if module.startswith("isic/cli"):
            continue
        home = next((folder for folder in _INTERFACES if module.startswith(folder)), module)
        for name in _defined(path) - {"main"}:
            names.setdefault(name, set()).add(home)
    return {name for name, homes in names.items() if len(homes) > 1}


def test_a_public_name_has_one_definition(root: Path) -> None:
    duplicates = _duplicates(root)
    listed = LIST.read_text().split()

    assert listed == sorted(set(listed))
    assert duplicates - set(listed) == set(), (
        "defined twice: choose a name that no other module defines"
    )
    assert set(listed) - duplicates == set(), f"defined once now: delete these lines of {LIST.name}"
