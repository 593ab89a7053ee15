"""Errors a person can act on, and the wrapper that turns them into one line and an exit code."""

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
    """The one line for an error a person caused or can mend, or None for a defect of the program.

    A full disk surfaces under many types (OSError, safetensors' own, C++ libraries' text), so it is recognised by
    errno and by its words, anywhere in the chain of causes.
    """
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(cause):
            where = getattr(cause, "filename", None) or "the results"
            return f"no disk space left for {where}: free some and run the same command again"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename or 'a file'}: check its owner and mode"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        # A folder where a file belongs, a read-only disk, a name too long: the system's words are the clear ones.
        return f"{error.filename}: {error.strerror.lower()}: check the path"
    return None


def faulty_key(error: ValidationError) -> str:
    """The first key that a model refused, dotted; "content" where it is all of it."""
    return ".".join(map(str, error.errors()[0]["loc"])) or "content"


def run(main: Callable[[], None]) -> None:
    """Run a stage main; on a foreseeable error print one line to stderr and exit with status 2."""
    try:
        main()
    except KeyboardInterrupt:
        # 130 = 128 + SIGINT, what shells and DVC expect of an interrupted command.
        sys.stderr.write("isic: interrupted\n")
        sys.exit(130)
    except Exception as error:
        line = error_line(error)
        if line is None or os.environ.get("ISIC_TRACEBACK"):
            raise
        sys.stderr.write(f"isic: error: {line}\n")
        sys.exit(2)


def redact(text: str) -> str:
    """`text` with the passwords of the addresses in it starred and their queries left out.

    `postgresql://me:secret@host/db?password=secret` becomes `postgresql://me:***@host/db`. Works inside error messages
    too: libraries quote the address they were given.
    """
    starred = _SECRET.sub(r"\1:***@", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", starred)
