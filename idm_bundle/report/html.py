"""Pieces of HTML: paragraphs, sections, and tables that scroll sideways in a container of their own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["group", "note", "paragraph", "row", "section", "table"]


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>\n"


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table in its own container, in which a wide one scrolls sideways."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table><tr>{cells}</tr>\n{"".join(rows)}</table></div>'


def row(cells: Sequence[str], names: int = 1, changed: bool = False) -> str:
    """A row of names and values; of a changed setting the first value is bold."""
    classes = [""] * names + ["value changed" if changed else "value"] + ["value"] * (len(cells) - names - 1)
    return "<tr>" + "".join(map(_cell, cells, classes)) + "</tr>\n"


def _cell(text: str, kind: str) -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def group(name: str) -> str:
    return f'<tr><th class="group" colspan="3">{escape(name)}</th></tr>\n'


def section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}" if content else ""
