"""Errors that end a run, and how a failed run reports them: in its last line and its exit code.

Exit codes of a run: 0, done; 1, an error; 4, out of memory; 5, NaN, infinite or runaway values.
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

__all__ = ["BadNumbers", "OutOfMemory", "TrainingFailed", "exit_successfully", "install_error_report"]


_PACKAGE = str(Path(__file__).parent)


class TrainingFailed(RuntimeError):
    """A training run ends for a known reason."""

    exit_code = 1


class OutOfMemory(TrainingFailed):
    """A step needs more memory than is available."""

    exit_code = 4


class BadNumbers(TrainingFailed):
    """A loss or gradient is NaN, infinite or runaway, or rebuilt activations differ from the original ones."""

    exit_code = 5


def install_error_report() -> None:
    """Make a program that fails print the error that came first as its last line, and exit with that error's code.

    MONAI wraps errors in others, so that the one that says what to do is far above the end of the traceback. If an
    error occurs while volumes are cached, the cache's other threads are still computing; Python does not wait for them,
    and a thread that returns to an interpreter that is shutting down aborts the process. So the interpreter is not shut
    down: exit handlers run, output is flushed, and the process exits directly.
    """
    sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    chain = [error]
    while chain[-1].__cause__ is not None and not isinstance(chain[-1], TrainingFailed):
        chain.append(chain[-1].__cause__)
    # our own errors say what to do, even if raised from another one, such as that of a damaged file
    ours = [e for e in chain if e.__traceback__ and _raised_at(e.__traceback__).startswith(_PACKAGE)]
    first = ours[-1] if ours else chain[-1]
    last_line = ""
    if reported := _reported_by_worker(first):
        last_line = reported
    elif isinstance(first, TrainingFailed | ValueError | OSError):  # whose messages suffice
        last_line = _sentence(first)
    elif len(chain) > 1:
        last_line = f"{_sentence(first)}; then {' '.join(_sentence(chain[-2]).split())}"
    with suppress(OSError, ValueError):  # standard error may be closed, or a file on a full disk
        if not isinstance(first, TrainingFailed):
            sys.__excepthook__(kind, error, traceback)
            sys.stderr.flush()
    interactive = hasattr(sys, "ps1") or sys.flags.interactive
    if not interactive:
        _finish()
    with suppress(OSError, ValueError):
        if last_line:
            print(f"\n{last_line}", file=sys.stderr, flush=True)
    if not interactive:
        _leave(first.exit_code if isinstance(first, TrainingFailed) else 1, isinstance(error, KeyboardInterrupt))


def exit_successfully() -> None:
    """End the process with exit code 0 like a failed one: exit handlers run, the interpreter is not shut down."""
    _finish()
    _leave(0, interrupted=False)


def _finish() -> None:
    """Do what Python does at the end of a program before it shuts the interpreter down."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for all threads but daemons, such as a cache's
    writer = getattr(sys.modules.get("torch.utils.tensorboard.writer"), "SummaryWriter", None)
    for events in [item for item in gc.get_objects() if writer is not None and type(item) is writer]:
        with suppress(Exception):  # the first error is the one to report
            events.flush()
    atexit._run_exitfuncs()


def _leave(code: int, interrupted: bool) -> None:
    """End the process now, while other threads may still compute."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if interrupted and os.name == "posix":  # as Python does, so that a shell sees the interruption
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(130 if interrupted else code)


def _reported_by_worker(error: BaseException) -> str | None:
    """The error that came first in a DataLoader worker, which passes on only the text of its tracebacks."""
    text = str(error)
    if not text.startswith("Caught ") or "in DataLoader worker process" not in text:
        return None
    chain = text.split("\nDuring handling of the above exception,")[-1]  # what precedes it is not the cause
    reported = []
    for part in chain.split("\nThe above exception was the direct cause"):
        *_, file, rest = re.split(r'^  File "(.+?)", line .*\n', part, flags=re.MULTILINE)
        reported.append((file.startswith(_PACKAGE), re.sub(r"\A(?: .*\n)*", "", rest).strip()))
    return next((sentence for ours, sentence in reported if ours), reported[0][1])


def _raised_at(traceback: TracebackType) -> str:
    """The file of the line that raised the error."""
    return extract_tb(traceback)[-1].filename


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
