"""HTML of the Markdown in the cards: headings, paragraphs, lists, tables, bold and code.

Without a library: the cards are generated here and use no other Markdown.
"""

from __future__ import annotations

import re
from html import escape
from itertools import groupby

from isic.core.errors import printable

#: Characters that Markdown or HTML reads; a backslash before one makes it text.
_SPECIAL = re.compile(r"[\\`*_\[\]<>&|~]")
#: While a card is read, such a character is one of Unicode's private area.
_PRIVATE = 0xE000


def literal(text: str) -> str:
    """`text` of a data file as Markdown that shows it and does nothing else."""
    return _SPECIAL.sub(r"\\\g<0>", printable(" ".join(text.split())))


def to_html(text: str, level: int = 3) -> str:
    """HTML of a card; a header between `---` lines is shown verbatim, headings start at `level`."""
    header, body = _split_header(text)
    body = re.sub(r"\\([\\`*_\[\]<>&|~])", lambda found: chr(_PRIVATE + ord(found[1])), body)
    shown = (
        "<details><summary>Metadata"
        f" header</summary><pre><code>{escape(header)}</code></pre></details>"
        if header
        else ""
    )
    title = re.search(r"^# (.*)", body, flags=re.MULTILINE)
    label = f"Table of the {title.group(1).lower()}" if title else "Table"
    blocks = [
        _block(list(lines), level, label)
        for kind, lines in groupby(body.splitlines(), key=_kind)
        if kind != "blank"
    ]
    html = re.sub(
        r"[\ue000-\ue07f]", lambda found: escape(chr(ord(found[0]) - _PRIVATE)), "\n".join(blocks)
    )
    return _after_first_heading(html, shown)


def _split_header(text: str) -> tuple[str, str]:
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, flags=re.DOTALL)
    return (match.group(1), match.group(2)) if match else ("", text)


def _after_first_heading(html: str, addition: str) -> str:
    return (
        re.sub(r"(</h\d>)", lambda match: match.group(1) + addition, html, count=1)
        if addition
        else html
    )


def _kind(line: str) -> str:
    if not line.strip():
        return "blank"
    for start, kind in (("#", "heading"), ("|", "table"), ("- ", "list")):
        if line.startswith(start):
            return kind
    return "text"


def _block(lines: list[str], level: int, label: str) -> str:
    kind = _kind(lines[0])
    if kind == "heading":
        return "\n".join(_heading(line, level) for line in lines)
    if kind == "list":
        return f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in lines)}</ul>"
    if kind == "table":
        return _table(lines, label)
    return f"<p>{_inline(' '.join(lines))}</p>"


def _heading(line: str, level: int) -> str:
    depth = len(line) - len(line.lstrip("#")) - 1 + level
    return f"<h{depth}>{_inline(line.lstrip('#').strip())}</h{depth}>"


def _table(lines: list[str], label: str) -> str:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if not set(line) <= set("|- ")
    ]
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in rows[1:]
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _inline(text: str) -> str:
    html = escape(text)
    html = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", html)
