"""Base class of handlers that measure each epoch of a trainer: when their figures are published, and where."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_idm.handlers.csv_rows import append_epoch

__all__ = ["EpochMeter"]


class EpochMeter(ABC):
    """Measure each epoch of a trainer: figures in ``engine.state.metrics``, in the log, and in a CSV file.

    Subclasses decide when to measure, and publish their figures by the end of the last iteration: every handler of the
    end of the epoch then sees them, whether it is attached before this one or after. The figures are deleted when the
    next epoch starts, so that an epoch that breaks off leaves neither its own nor older ones. In distributed training
    each process has its own figures; only process 0 logs and writes the file.

    Attributes:
        figures: Figures published in this epoch.
    """

    def __init__(self, csv_file: str | Path | None = None) -> None:
        self.csv_file = None if csv_file is None else Path(csv_file)
        self.figures: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Subscribe to a trainer, an Ignite engine such as ``monai.engines.SupervisedTrainer``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    @abstractmethod
    def start(self, engine: Engine) -> None:
        """Begin to measure an epoch; the measurement of the one before may still be open, if that broke off."""

    @abstractmethod
    def stop(self, engine: Engine) -> None:
        """End the measurement, if it is still open: the epoch is over, and its row is about to be written."""

    def publish(self, engine: Engine, figures: Mapping[str, float | None]) -> None:
        """Put figures in the metrics and in this epoch's row; None is left out of the metrics, and an empty cell."""
        self.figures = dict(figures)
        engine.state.metrics.update({name: value for name, value in figures.items() if value is not None})

    def log(self, level: int, line: str) -> None:
        """Log a line in process 0, under the name of the subclass's module."""
        if idist.get_rank() == 0:
            logging.getLogger(type(self).__module__).log(level, line)

    def _epoch_started(self, engine: Engine) -> None:
        for name in self.figures:
            engine.state.metrics.pop(name, None)
        self.figures = {}
        self.start(engine)

    def _epoch_completed(self, engine: Engine) -> None:
        self.stop(engine)
        if self.figures and self.csv_file is not None and idist.get_rank() == 0:
            append_epoch(self.csv_file, engine, self.figures)
