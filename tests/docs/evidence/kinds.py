"""What evidence is: tables that are built, figures with a source, bounds."""

from __future__ import annotations

from collections.abc import Callable

Table = list[list[str]]
# The tables below a heading of a page, in order; None: a table without figures of result files.
Builders = list[Callable[[], Table] | None]
# figures, as they are shown; where each comes from: a value, or the reason why no file has it
Evidence = tuple[str, float | str]


class AtMost(float):
    """A bound: a figure that is shown as this value or, rounded up, as a little more."""
