"""Addresses as they may be shown: without the secrets that people put into them."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(://[^/?#@\s:]*):[^/?#\s]*@")


def shown(text: str) -> str:
    """`text` with the passwords of the addresses in it starred and their queries left out.

    `postgresql://me:secret@host/db?password=secret` becomes `postgresql://me:***@host/db`. Works inside error messages
    too: libraries quote the address they were given.
    """
    starred = _SECRET.sub(r"\1:***@", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", starred)
