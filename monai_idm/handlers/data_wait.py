"""How long a trainer waits for data: in ``engine.state.metrics``, in the log, and in a CSV file."""

from __future__ import annotations

import logging
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import Timer

from monai_idm.handlers.csv_rows import append_epoch

__all__ = ["DataWaitHandler"]

logger = logging.getLogger(__name__)

ALARM_PERCENT = 5.0


class DataWaitHandler:
    """Measure how long each epoch of a trainer waits for its batches.

    ``data_wait_s`` is the time between asking the loader for a batch and having it, ``data_wait_percent`` its share of
    the epoch, from its start to the end of its last iteration. Both stand in ``engine.state.metrics`` from the end of
    each iteration on, hence before any handler's end of the epoch. A GPU may still be at work on earlier batches
    meanwhile: the share is the most that faster loading can save. Once, a warning is logged: after the first epoch,
    which fills caches, more than 5 % should not be lost. In distributed training each process has its own figures;
    the first one logs and writes the file.

    Args:
        csv_file: File to append one row per epoch to, flushed row by row; a resumed run goes on in the same file.
            ``None``: no file.
    Raises:
        ValueError: At the end of an epoch, if ``csv_file`` holds other columns.
    """

    def __init__(self, csv_file: str | Path | None = None) -> None:
        self.csv_file = None if csv_file is None else Path(csv_file)
        self._epoch = Timer()
        self._waiting = Timer()

    def attach(self, engine: Engine) -> None:
        """Subscribe to a trainer.

        Args:
            engine: An Ignite engine, as ``monai.engines.SupervisedTrainer``.
        """
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._waiting.resume)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._waiting.pause)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _started(self, engine: Engine) -> None:
        self._alarmed = False
        self._filling = True

    def _epoch_started(self, engine: Engine) -> None:
        self._figures: dict[str, float] = {}
        self._epoch.reset()
        self._waiting.reset()
        self._waiting.pause()  # a timer runs when reset

    def _write(self, engine: Engine) -> None:
        wait_s = self._waiting.value()
        self._figures = {"data_wait_s": wait_s, "data_wait_percent": 100 * wait_s / self._epoch.value()}
        engine.state.metrics.update(self._figures)

    def _epoch_completed(self, engine: Engine) -> None:
        filling, self._filling = self._filling, False
        if not self._figures or idist.get_rank() != 0:
            return
        wait_s, percent = self._figures.values()
        if percent > ALARM_PERCENT and not filling and not self._alarmed:
            self._alarmed = True
            logger.warning(
                "epoch %d waited for data for %.3g s, %.0f %% of its time; give the DataLoader more num_workers, "
                "or keep preprocessed volumes in memory with CacheDataset",
                engine.state.epoch,
                wait_s,
                percent,
            )
        if self.csv_file is not None:
            append_epoch(self.csv_file, engine, self._figures)
