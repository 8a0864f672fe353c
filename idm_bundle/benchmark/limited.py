"""Rows measured within a time limit: a case that takes too long, fails or crashes costs only its own row.

Each part runs in a process of its own, which can be stopped, and whose end gives back all memory of the device. Rows
come through a pipe, the moment they are measured. A process is started anew, not forked: CUDA does not survive a fork.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import monotonic

from idm_bundle.benchmark.device import kernels_of_training
from idm_bundle.benchmark.plan import Part, Unit
from idm_bundle.benchmark.row import Row, error_text
from monai_idm.machine import device_name

__all__ = ["run_within"]

logger = logging.getLogger(__name__)
LEAST_S = 5.0  # a process needs that long to start
DONE, UNUSABLE = "done", "unusable"


def run_within(minutes: float, parts: Sequence[Part], device: str) -> Iterator[Row]:
    """Run parts in their order, and leave out what the time does not suffice for.

    A unit may take the time left to its part or, unless it is the part's last one, half of it.

    Args:
        minutes: Time for all parts.
        parts: The most important first.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    """
    ends = monotonic() + 60 * minutes
    name = device  # its model, once a process has reported it: here, CUDA must not take memory
    for part in parts:
        for row in _run(part, device, monotonic() + part.share * (ends - monotonic())):
            if not row.estimated and row.device != device:
                name = row.device
            yield replace(row, device=name) if row.device == device else row


def _run(part: Part, device: str, ends: float) -> Iterator[Row]:
    worker, left_out = _Worker(part, device), []
    try:
        for unit in part.units:
            left = ends - monotonic()
            if left < LEAST_S:
                left_out.append(unit.case)
            else:
                yield from worker.run(unit, left if unit is part.units[-1] else left / 2)
    finally:
        worker.stop()
    if left_out:
        logger.info("left out, no time: %s", "; ".join(left_out))


class _Worker:
    """A process that runs units; when it has been stopped, the next unit starts another."""

    def __init__(self, part: Part, device: str) -> None:
        self.part, self.device = part, device
        self.process: BaseProcess | None = None

    def run(self, unit: Unit, limit_s: float) -> Iterator[Row]:
        """The rows of a unit; the last one has an error if the unit did not end."""
        ends = monotonic() + limit_s
        process = self.process or self._start()
        error = f"stopped after {limit_s:.0f} s"
        try:
            self.pipe.send(unit)
            while self.pipe.poll(max(0.0, ends - monotonic())):
                received = self.pipe.recv()
                if isinstance(received, Row):
                    yield received
                    continue
                if received == UNUSABLE:
                    self.stop()
                return
        except (EOFError, OSError):
            process.join()
            error = f"its process ended with exit code {process.exitcode}"
        self.stop()
        yield Row(suite=unit.suite, case=unit.case, device=self.device, error=error)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()  # from then on, the device has its memory back
            self.process = None

    def _start(self) -> BaseProcess:
        context = get_context("spawn")
        self.pipe, its = context.Pipe()
        with _allocator(self.part.allocator):
            self.process = context.Process(target=_serve, args=(its, self.device), daemon=True)
            self.process.start()
        its.close()  # so that the end of the process ends the pipe
        return self.process


def _serve(pipe: Connection, device: str) -> None:
    """Run the units that come through a pipe, and send their rows, then ``DONE``; after some errors, ``UNUSABLE``."""
    with kernels_of_training(device):
        while True:
            unit, ended = pipe.recv(), DONE
            try:
                for row in unit.rows(device):
                    pipe.send(row)
            except Exception as error:  # the others shall be measured
                pipe.send(Row(suite=unit.suite, case=unit.case, device=device_name(device), error=error_text(error)))
                if not isinstance(error, ValueError):  # a missing package, a wrong device: our own checks
                    traceback.print_exc()
                    ended = UNUSABLE  # CUDA does not recover from every error
            pipe.send(ended)


@contextmanager
def _allocator(setting: str | None) -> Iterator[None]:
    """Set CUDA's allocator for processes that are started in the block; torch reads the variables only once."""
    before = os.environ.copy()
    if setting is not None:
        os.environ |= {"PYTORCH_ALLOC_CONF": setting, "PYTORCH_CUDA_ALLOC_CONF": setting}  # the new and the old name
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
