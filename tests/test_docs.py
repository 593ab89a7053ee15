"""Commands in README, docs and messages exist: verbs and options of `isic`, targets of `make`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from isic.cli import app

#: A command in a code span or a code block, up to a separator of the shell or a comment; the `isic`
#: of isic-cli is another program.
_COMMAND = re.compile(r"(?:^|[`\s(])(?<!isic-cli )((?:isic|make) [^`#|;&\n]*)", re.MULTILINE)
_CODE = re.compile(r"```.*?```|`[^`\n]+`|^    .+$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?:`|<code>)((?:isic|make) [^`<]+)(?:`|</code>)")


def _of_pages(root: Path) -> Iterator[tuple[str, str]]:
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    for page in pages:
        for code in _CODE.findall(page.read_text()):
            yield from ((page.name, command.strip()) for command in _COMMAND.findall(code))


def _of_messages(root: Path) -> Iterator[tuple[str, str]]:
    files = [
        path for suffix in ("py", "html") for path in sorted((root / "isic").rglob(f"*.{suffix}"))
    ]
    for path in [*files, root / "params.yaml"]:
        commands = _SPAN.findall(path.read_text())
        # A verb that the code fills in cannot be checked here.
        yield from (
            (path.name, command) for command in commands if not command.startswith("isic {")
        )


def _words(command: str) -> list[str]:
    # A placeholder of an f-string may contain quotes and spaces.
    text = re.sub(r"\{[^}]*\}", "PLACEHOLDER", command).replace('\\"', '"')
    try:
        return shlex.split(text)[1:]
    except ValueError:
        return text.split()[1:]


def _isic_fault(words: list[str]) -> str | None:
    """The first word that is no verb or option of `isic`, if any."""
    command = typer.main.get_command(app)
    previous = ""
    for word in words:
        name = word.strip("[]…").partition("=")[0]
        verbs = getattr(command, "commands", {})
        if name.startswith("--"):
            if name not in {"--help"}.union(*(parameter.opts for parameter in command.params)):
                return name
        elif name in verbs:
            command = verbs[name]
        elif verbs and not previous.startswith("--"):
            return name
        previous = word
    return None


def test_the_extraction_finds_commands(root: Path) -> None:
    commands = {command for _, command in [*_of_pages(root), *_of_messages(root)]}
    assert {"make demo", "isic check-stack", "isic compare A B"} <= commands
    assert _isic_fault(["features", "--list"]) == "--list"
    assert _isic_fault(["stak"]) == "stak"
    assert _isic_fault(["submission", "build", "--user", "ME"]) is None


@pytest.mark.parametrize("commands", [_of_pages, _of_messages])
def test_every_command_exists(root: Path, commands: object) -> None:
    assert callable(commands)
    targets = set(re.findall(r"^\.PHONY: (\S+)", (root / "Makefile").read_text(), re.MULTILINE))
    for file, command in commands(root):
        words = _words(command)
        if command.startswith("isic "):
            assert _isic_fault(words) is None, f"{file}: {command}"
            continue
        named = [word for word in words if "=" not in word and not word.startswith("-")]
        assert set(named) <= targets, f"{file}: {command}"
