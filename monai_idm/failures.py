"""Errors that end a training, and what is said of them where it ends.

Exit codes of a run: 0, done; 1, an error; 4, out of memory; 5, numbers that are none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from traceback import extract_tb
from types import TracebackType

__all__ = ["BadNumbers", "OutOfMemory", "TrainingFailed", "tell_plainly"]


_PACKAGE = str(Path(__file__).parent)


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
    chain = [error]
    while chain[-1].__cause__ is not None and not isinstance(chain[-1], TrainingFailed):
        chain.append(chain[-1].__cause__)
    # ours say what to do, also where they explain another one, as a damaged file's
    ours = [e for e in chain if e.__traceback__ and _raised_at(e.__traceback__).startswith(_PACKAGE)]
    first = ours[-1] if ours else chain[-1]
    if isinstance(first, TrainingFailed):
        print(f"\n{_sentence(first)}", file=sys.stderr)
        raise SystemExit(first.exit_code)  # Python ends with it
    sys.__excepthook__(kind, error, traceback)
    if isinstance(first, ValueError | OSError):  # which say what to do
        print(f"\n{_sentence(first)}", file=sys.stderr)
    elif len(chain) > 1:
        print(f"\n{_sentence(first)}; then {' '.join(_sentence(chain[-2]).split())}", file=sys.stderr)


def _raised_at(traceback: TracebackType) -> str:
    """The file of the line that raised."""
    return extract_tb(traceback)[-1].filename


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
