"""Errors that end a training, and what is said of them where it ends.

Exit codes of a run: 0, done; 1, an error; 4, out of memory; 5, numbers that are none.
"""

from __future__ import annotations

import atexit
import gc
import os
import re
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb
from types import TracebackType

__all__ = ["BadNumbers", "OutOfMemory", "TrainingFailed", "install_error_report"]


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


def install_error_report() -> None:
    """From now on a program that fails ends with what went wrong first as its last line, and with its exit code.

    MONAI wraps errors in others, so that the one that says what to do stands far above the end of a traceback. Where
    an error is met while volumes are cached, the cache's other threads still compute; Python does not wait for them,
    and those that come back to an interpreter that is being taken down abort the process. So it is not taken down:
    what is to run at the end runs, what is written is flushed, and the process is left.
    """
    sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    chain = [error]
    while chain[-1].__cause__ is not None and not isinstance(chain[-1], TrainingFailed):
        chain.append(chain[-1].__cause__)
    # ours say what to do, also where they explain another one, as a damaged file's
    ours = [e for e in chain if e.__traceback__ and _raised_at(e.__traceback__).startswith(_PACKAGE)]
    first = ours[-1] if ours else chain[-1]
    last = ""
    if reported := _reported_by_worker(first):
        last = reported
    elif isinstance(first, TrainingFailed | ValueError | OSError):  # which say what to do
        last = _sentence(first)
    elif len(chain) > 1:
        last = f"{_sentence(first)}; then {' '.join(_sentence(chain[-2]).split())}"
    with suppress(OSError, ValueError):  # where standard error is a file on a full disk, or closed
        if not isinstance(first, TrainingFailed):
            sys.__excepthook__(kind, error, traceback)
            sys.stderr.flush()
    interactive = hasattr(sys, "ps1") or sys.flags.interactive
    if not interactive:
        _finish()
    with suppress(OSError, ValueError):
        if last:
            print(f"\n{last}", file=sys.stderr, flush=True)
    if not interactive:
        _leave(first.exit_code if isinstance(first, TrainingFailed) else 1, isinstance(error, KeyboardInterrupt))


def _finish() -> None:
    """What Python does at the end of a program, before it takes the interpreter down."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for all but daemons, as those of a cache are
    writer = getattr(sys.modules.get("torch.utils.tensorboard.writer"), "SummaryWriter", None)
    for unwritten in [found for found in gc.get_objects() if writer is not None and type(found) is writer]:
        with suppress(Exception):  # the first error is the one to report
            unwritten.flush()
    atexit._run_exitfuncs()


def _leave(code: int, interrupted: bool) -> None:
    """End the process now, while other threads may still compute."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if interrupted and os.name == "posix":  # as Python does, so that a shell sees that it was interrupted
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(130 if interrupted else code)


def _reported_by_worker(error: BaseException) -> str | None:
    """What went wrong first in a process that reads data, which hands on no more than the text of its tracebacks."""
    text = str(error)
    if not text.startswith("Caught ") or "in DataLoader worker process" not in text:
        return None
    chain = text.split("\nDuring handling of the above exception,")[-1]  # before it stands no cause
    reported = []
    for part in chain.split("\nThe above exception was the direct cause"):
        *_, file, rest = re.split(r'^  File "(.+?)", line .*\n', part, flags=re.MULTILINE)
        reported.append((file.startswith(_PACKAGE), re.sub(r"\A(?: .*\n)*", "", rest).strip()))
    return next((sentence for ours, sentence in reported if ours), reported[0][1])


def _raised_at(traceback: TracebackType) -> str:
    """The file of the line that raised."""
    return extract_tb(traceback)[-1].filename


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
