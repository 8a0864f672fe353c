"""Paths that a config was given, against what MONAI and its command line make of them.

``#`` separates the parts of an id in MONAI's configs, and every text in a config is rewritten: ``/data/study#1``
becomes ``/data/study::1``. Before that the command line takes what looks like Python for Python: ``study#1`` is
``study`` and a comment, ``2024_01`` the number 202401.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["require_plain_paths"]

_LANGUAGE = ("$", "@", "%")  # an expression, a reference or a macro, which MONAI replaces on purpose


def require_plain_paths(paths: Mapping[str, Any]) -> None:
    """Refuse paths that are not those that a user gave, before anything is written to them.

    Args:
        paths: The paths of a config by the names of their knobs; None where there is none.
    Raises:
        ValueError: If a path holds ``#``, or ``::``, which ``#`` becomes; or if the command line read something else
            than what was typed.
    """
    for knob, path in paths.items():
        typed = _typed(knob)
        if "#" in (typed or "") or (isinstance(path, str) and ("#" in path or "::" in path)):
            raise ValueError(
                f"{knob}={typed or path!s} holds '#' or '::', which separate the parts of an id in MONAI's configs: "
                f"'#' in a path becomes '::', or is cut off, and files would go to another folder than the one "
                f"named. Rename the folder, or give a link to it, whose path has neither: ln -s 'study#1' study_1"
            )
        if typed is None and (path is None or isinstance(path, str | os.PathLike)):
            continue
        if typed is None or (not typed.startswith(_LANGUAGE) and path != typed and not _quoted(typed, path)):
            raise ValueError(
                f"{knob}={typed or path!s} was read as {path!r}: the command line takes for Python what looks like "
                f"it. Give a path that starts with a folder: --{knob} ./{typed or path!s}"
            )


def _typed(knob: str) -> str | None:
    """What stands for a knob on MONAI's command line; None where it is not there."""
    if Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return None
    found = None
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, given, value = word.partition("=")
        if name.startswith("-") and name.lstrip("-").replace("-", "_") == knob:
            found = value if given else following
    return found


def _quoted(typed: str, path: Any) -> bool:
    """Whether the text was typed as a Python literal on purpose: in quotes, or None."""
    try:
        literal = ast.literal_eval(typed)
    except (ValueError, SyntaxError):
        return False
    return literal == path and (literal is None or typed[0] in "\"'")
