"""Measure the peak memory of every training epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_idm.handlers.epoch_meter import EpochMeter
from monai_idm.meters import PeakMemoryMeter

__all__ = ["PeakMemoryHandler"]


class PeakMemoryHandler(EpochMeter):
    """Measure the peak memory of each epoch of a trainer, in GiB: see :class:`~monai_idm.meters.PeakMemoryMeter`.

    On CUDA the whole epoch is measured, up to the end of its last iteration: validation that another handler runs at
    the end of the epoch is not included. On other devices tensor storages are counted, which takes time, so only one
    iteration of each epoch is measured: the second, if there is one, because the optimizer's states exist by then. The
    count includes the batch and the engine's ``network`` and ``optimizer`` from the start, with gradients and states.

    To count, :meth:`attach` wraps the function that the engine runs in each iteration, a private attribute of Ignite.
    Counting must end even if an iteration raises, and Ignite has no event for that: a handler of ``EXCEPTION_RAISED``
    that raises keeps later ones (CheckpointSaver's last save) from running, and one that does not may swallow the
    error.

    A line is logged for the first epoch and whenever the peak grows by more than 1 %.

    Args:
        device: The device whose memory is measured, such as ``"cuda:0"`` or ``"cpu"``.
        csv_file: File to append one row per epoch to; a resumed run continues the same file. ``None``: no file.
    Raises:
        ValueError: At the end of an epoch, if ``csv_file`` has other columns than this device's.
    """

    def __init__(self, device: torch.device | str, csv_file: str | Path | None = None) -> None:
        super().__init__(csv_file)
        self.meter = PeakMemoryMeter(device)
        self._iterations = 0
        self._logged_gib = -math.inf

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        if self.meter.counts_storages:
            engine._process_function = self._counted(engine._process_function)
        else:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def start(self, engine: Engine) -> None:
        self._iterations = 0
        if not self.meter.counts_storages:
            if self.meter.running:
                self.meter.stop()
            self.meter.start()

    def stop(self, engine: Engine) -> None:
        if not self.meter.counts_storages:
            self.meter.stop()
        peak_gib = next(iter(self.figures.values()), -math.inf)
        if peak_gib > 1.01 * self._logged_gib:
            self._logged_gib = peak_gib
            shown = ", ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
            self.log(logging.INFO, f"epoch {engine.state.epoch}, memory: {shown}")

    def _iteration_completed(self, engine: Engine) -> None:
        self.publish(engine, self.meter.read())

    def _counted(self, iteration: Callable[[Engine, Any], Any]) -> Callable[[Engine, Any], Any]:
        def counted(engine: Engine, batch: Any) -> Any:
            self._iterations += 1
            if self._iterations != (1 if engine.state.epoch_length == 1 else 2):
                return iteration(engine, batch)
            self.meter.start(batch, getattr(engine, "network", None), getattr(engine, "optimizer", None))
            try:
                return iteration(engine, batch)
            finally:
                self.publish(engine, self.meter.stop())

        return counted
