"""Measure how long a trainer waits for data."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events
from ignite.handlers import Timer

from monai_idm.handlers.epoch_meter import EpochMeter

__all__ = ["DataWaitHandler"]

ALARM_PERCENT = 5.0


class DataWaitHandler(EpochMeter):
    """Measure how long each epoch of a trainer waits for its batches.

    ``data_wait_s`` is the time between requesting batches from the loader and receiving them; ``data_wait_percent`` is
    its share of the epoch's time, from the start of the epoch to the end of its last iteration. Both are up to date
    after every iteration. A GPU may still be working on earlier batches meanwhile, so the share is the most that faster
    loading can save. One warning is logged per run, for the first epoch that loses more than 5 %; the run's first
    epoch, which fills caches, is not counted.

    Args:
        csv_file: File to append one row per epoch to; a resumed run continues the same file. ``None``: no file.
    Raises:
        ValueError: At the end of an epoch, if ``csv_file`` has other columns.
    """

    def __init__(self, csv_file: str | Path | None = None) -> None:
        super().__init__(csv_file)
        self._epoch = Timer()
        self._waiting = Timer()
        self._filling = self._warned = False

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        engine.add_event_handler(Events.STARTED, self._run_started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._waiting.resume)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._waiting.pause)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    def start(self, engine: Engine) -> None:
        self._epoch.reset()
        self._waiting.reset()
        self._waiting.pause()  # resetting a timer starts it

    def stop(self, engine: Engine) -> None:
        filling, self._filling = self._filling, False
        if filling or self._warned or self.figures.get("data_wait_percent", 0.0) <= ALARM_PERCENT:
            return
        self._warned = True
        wait_s, percent = self.figures.values()
        self.log(
            logging.WARNING,
            f"epoch {engine.state.epoch} waited for data for {wait_s:.3g} s, {percent:.0f} % of its time; "
            "give the DataLoader more num_workers, or keep preprocessed volumes in memory with CacheDataset",
        )

    def _run_started(self, engine: Engine) -> None:
        self._filling, self._warned = True, False

    def _iteration_completed(self, engine: Engine) -> None:
        wait_s = self._waiting.value()
        self.publish(engine, {"data_wait_s": wait_s, "data_wait_percent": 100 * wait_s / self._epoch.value()})
