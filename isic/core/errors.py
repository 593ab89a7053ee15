"""Errors with a remedy, and the wrapper that prints them as one line and sets the exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_SECRET = re.compile(r"(://[^/?#@\s:]*):[^/?#\s]*@")


class InputError(Exception):
    """Input that cannot be used. The message is one line: what is wrong, where, and what to do."""


def error_line(error: BaseException) -> str | None:
    """One line for an error that the user can fix; None for a bug.

    Libraries raise different types for a full disk (OSError, safetensors' own, C++ text), so errno
    and message of the whole chain of causes are checked.
    """
    if isinstance(error, InputError):
        return printable(" ".join(str(error).split()), 2000)
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left on device" in str(cause):
            where = getattr(cause, "filename", None) or "the results"
            return f"no disk space left for {where}: free some and run the same command again"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename or 'a file'}: check its owner and mode"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        # The system's message is clear for a folder in place of a file, a read-only disk or a long
        # name.
        return f"{error.filename}: {error.strerror.lower()}: check the path"
    return None


def faulty_key(error: ValidationError) -> str:
    """Dotted name of the first key that failed validation; "content" for the whole value."""
    return ".".join(map(str, error.errors()[0]["loc"])) or "content"


def run(main: Callable[[], None]) -> None:
    """Run a stage main; on a foreseeable error print one line to stderr and exit with status 2."""
    try:
        main()
    except KeyboardInterrupt:
        # 130 = 128 + SIGINT, the status of an interrupted command in shells and DVC.
        sys.stderr.write("isic: interrupted\n")
        sys.exit(130)
    except Exception as error:
        line = error_line(error)
        if line is None or os.environ.get("ISIC_TRACEBACK"):
            raise
        sys.stderr.write(f"isic: error: {line}\n")
        sys.exit(2)


def printable(text: str, limit: int = 300) -> str:
    """`text` on one line and without control characters, which a terminal would obey; cut at
    `limit` characters.
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:limit]
    )
    return shown + "…" * (len(text) > limit)


def redact(text: str) -> str:
    """`text` with the passwords of its URLs starred and their queries removed.

    `postgresql://me:secret@host/db?password=secret` becomes `postgresql://me:***@host/db`. `text`
    may be an error message that quotes a URL.
    """
    starred = _SECRET.sub(r"\1:***@", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", starred)
