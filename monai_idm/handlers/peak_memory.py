"""The peak memory of every training epoch: in ``engine.state.metrics``, in the log, and in a CSV file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from monai_idm.handlers.csv_rows import append_epoch
from monai_idm.meters import PeakMemoryMeter

__all__ = ["PeakMemoryHandler"]

logger = logging.getLogger(__name__)


class PeakMemoryHandler:
    """Measure the peak memory of each epoch of a trainer.

    On CUDA the window is the whole epoch, up to the end of its last iteration: validation run by another
    handler at the end of the epoch stays outside. Elsewhere tensor storages are counted, which takes time, so
    the window is one iteration of the epoch: the second where there is one, because by then the optimizer's
    states exist. The count starts with the batch and the engine's ``network`` and ``optimizer`` as they are,
    gradients and states included.

    The figures are written to ``engine.state.metrics`` under their own names (see
    :class:`~monai_idm.meters.PeakMemoryMeter`) when an iteration ends, hence before any handler's end of the
    epoch: StatsHandler and TensorBoardStatsHandler show them whether attached before or after. In distributed
    training each process has its own figures; the first one logs and writes the file.

    Args:
        device: The device whose memory is asked for, as ``"cuda:0"`` or ``"cpu"``.
        csv_file: File to append one row per epoch to, in GiB, flushed row by row; a resumed run goes on in
            the same file. ``None``: no file.
    Raises:
        ValueError: At the end of an epoch, if ``csv_file`` holds other columns than this device's.
    """

    def __init__(self, device: torch.device | str, csv_file: str | Path | None = None) -> None:
        self.meter = PeakMemoryMeter(device)
        self.csv_file = None if csv_file is None else Path(csv_file)
        self._figures: dict[str, float] = {}
        self._iterations = 0
        self._logged_gib: float | None = None

    def attach(self, engine: Engine) -> None:
        """Subscribe to a trainer.

        Args:
            engine: An Ignite engine, as ``monai.engines.SupervisedTrainer``.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        if self.meter.counts_storages:
            # Wrapped, not subscribed: counting must end even where the iteration raises, and a handler of
            # EXCEPTION_RAISED would keep the others of that event (CheckpointSaver's last save) from running.
            engine._process_function = self._counted(engine._process_function)
        else:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._read)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _epoch_started(self, engine: Engine) -> None:
        self._figures = {}
        self._iterations = 0
        if not self.meter.counts_storages:
            if self.meter.running:  # the last run broke off within an epoch
                self.meter.stop()
            self.meter.start()

    def _read(self, engine: Engine) -> None:
        self._write(engine, self.meter.read())

    def _counted(self, iteration: Callable[[Engine, Any], Any]) -> Callable[[Engine, Any], Any]:
        def counted(engine: Engine, batch: Any) -> Any:
            self._iterations += 1
            if self._iterations != (1 if engine.state.epoch_length == 1 else 2):
                return iteration(engine, batch)
            self.meter.start(batch, getattr(engine, "network", None), getattr(engine, "optimizer", None))
            try:
                return iteration(engine, batch)
            finally:
                self._write(engine, self.meter.stop())

        return counted

    def _write(self, engine: Engine, figures: dict[str, float]) -> None:
        self._figures = figures
        engine.state.metrics.update(figures)

    def _epoch_completed(self, engine: Engine) -> None:
        if not self.meter.counts_storages:
            self.meter.stop()
        if not self._figures or idist.get_rank() != 0:
            return
        main_gib = next(iter(self._figures.values()))
        if self._logged_gib is None or main_gib > 1.01 * self._logged_gib:
            self._logged_gib = main_gib
            shown = ", ".join(f"{name} {value:.4g}" for name, value in self._figures.items())
            logger.info("epoch %d, memory: %s", engine.state.epoch, shown)
        if self.csv_file is not None:
            append_epoch(self.csv_file, engine, self._figures)
