"""Errors that end a training, and what is said of them where it ends.

Exit codes of a run: 0, done; 1, an error; 4, out of memory; 5, numbers that are none.
"""

from __future__ import annotations

import sys
from types import TracebackType

__all__ = ["BadNumbers", "OutOfMemory", "TrainingFailed", "tell_plainly"]


class TrainingFailed(RuntimeError):
    """A training ends, for a reason that is known."""

    exit_code = 1


class OutOfMemory(TrainingFailed):
    """A step needs more memory than there is."""

    exit_code = 4


class BadNumbers(TrainingFailed):
    """A loss or a gradient is no number, or the activations are not what they were."""

    exit_code = 5


def tell_plainly() -> None:
    """From now on a program that fails ends with what went wrong first, and with its exit code.

    MONAI wraps errors in others, so that the one that says what to do stands far above the end of a traceback.
    """
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    first = error
    while first.__cause__ is not None and not isinstance(first, TrainingFailed):
        first = first.__cause__
    if not isinstance(first, TrainingFailed):
        sys.__excepthook__(kind, error, traceback)
    if isinstance(first, Exception):
        print(f"\n{type(first).__name__}: {first}", file=sys.stderr)
    if isinstance(first, TrainingFailed):
        raise SystemExit(first.exit_code)  # Python ends with it
