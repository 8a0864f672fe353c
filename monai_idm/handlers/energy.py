"""The energy of training, per step and per sample: in ``engine.state.metrics``, in the log, and in a CSV file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_idm.handlers.csv_rows import append_epoch
from monai_idm.meters.energy import EnergyMeter

__all__ = ["EnergyHandler"]

logger = logging.getLogger(__name__)

FIGURES = (
    "energy_j_per_step",
    "energy_j_per_sample",
    "mean_power_w",
    "max_temperature_c",
    "mean_utilisation_percent",
)


class EnergyHandler:
    """Measure the energy of each epoch of a trainer, of its first two minutes, and of the whole run.

    The window is the epoch up to the end of its last iteration: validation run by another handler at the end of the
    epoch stays outside, also of the two minutes and of the run. Of each epoch ``energy_j_per_step``,
    ``energy_j_per_sample``, ``mean_power_w``, ``max_temperature_c`` and ``mean_utilisation_percent`` are written to
    ``engine.state.metrics`` when its last iteration ends, hence before any handler's end of the epoch; what the device
    does not tell is absent. Of the two minutes and of the run a line is logged, with the energy per parameter that the
    paper prints. Where energy is unavailable, one line says why.

    The device is asked once an epoch, and by the meter's thread. In distributed training each process has the figures
    of its own device and samples; the first one logs and writes the file.

    Args:
        device: The device whose energy is asked for, as ``"cuda:0"``.
        csv_file: File to append one row per epoch to, flushed row by row, empty where the device told nothing; a
            resumed run goes on in the same file. ``None``: no file.
        first_s: Seconds of training until the first line is logged.
        meter: To measure with, in place of the device's own.
    Raises:
        ValueError: At the end of an epoch, if ``csv_file`` holds other columns.
    """

    def __init__(
        self,
        device: torch.device | str,
        csv_file: str | Path | None = None,
        first_s: float = 120.0,
        meter: EnergyMeter | None = None,
    ) -> None:
        self.meter = EnergyMeter(device) if meter is None else meter
        self.csv_file = None if csv_file is None else Path(csv_file)
        self.first_s = first_s

    def attach(self, engine: Engine) -> None:
        """Subscribe to a trainer.

        Args:
            engine: An Ignite engine, as ``monai.engines.SupervisedTrainer``; its batches are tensors, or mappings
                or sequences of such, of which the first tells the number of samples.
        """
        engine.add_event_handler(Events.STARTED, self._started)
        if self.meter.available:
            engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
            engine.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
            engine.add_event_handler(Events.COMPLETED, self._completed)

    def _started(self, engine: Engine) -> None:
        self._run = _Bill()
        self._first_is_due = True
        if not self.meter.available and idist.get_rank() == 0:
            logger.info("energy: unavailable (%s)", self.meter.reason)

    def _epoch_started(self, engine: Engine) -> None:
        if self.meter.running:  # the last epoch broke off
            self.meter.stop()
        for name in FIGURES:
            engine.state.metrics.pop(name, None)
        self._steps = self._samples = 0
        self.meter.start()

    def _iteration_started(self, engine: Engine) -> None:
        self._samples += _num_samples(engine.state.batch)  # now, because MONAI takes the batch apart later

    def _iteration_completed(self, engine: Engine) -> None:
        self._steps += 1
        if self._steps == engine.state.epoch_length:
            self._close(engine)
        open_s = self.meter.elapsed_s if self.meter.running else 0.0
        if self._first_is_due and self._run.duration_s + open_s >= self.first_s:
            self._first_is_due = False
            first = self._run + self._bill(self.meter.read()) if self.meter.running else self._run
            self._log(engine, f"the first {first.duration_s:.0f} s", first)

    def _epoch_completed(self, engine: Engine) -> None:
        if self.meter.running:  # it ended before its time, or nobody knew its length
            self._close(engine)
        if self.csv_file is not None and idist.get_rank() == 0:
            append_epoch(self.csv_file, engine, {name: engine.state.metrics.get(name) for name in FIGURES})

    def _completed(self, engine: Engine) -> None:
        if self.meter.running:  # stopped within an epoch
            self._close(engine)
        self._log(engine, "the whole run", self._run)

    def _close(self, engine: Engine) -> None:
        figures = self.meter.stop()
        bill = self._bill(figures)
        self._run += bill
        figures |= bill.shares()
        engine.state.metrics.update({name: figures[name] for name in FIGURES if name in figures})

    def _bill(self, figures: Mapping[str, float]) -> _Bill:
        if "energy_j" not in figures:  # steps without energy would make the others look cheap
            return _Bill()
        return _Bill(figures["energy_j"], figures["duration_s"], self._steps, self._samples)

    def _log(self, engine: Engine, window: str, bill: _Bill) -> None:
        shares = bill.shares()
        if not shares or idist.get_rank() != 0:
            return
        line = f"energy of training, {window}, by {self.meter.source}: {bill.energy_j / bill.duration_s:.0f} W"
        line += "".join(f", {value:.4g} J per {name.rpartition('_')[2]}" for name, value in shares.items())
        network = getattr(engine, "network", None)
        if network is not None:
            share_j = bill.energy_j / sum(p.numel() for p in network.parameters())
            line += f", {share_j:.3g} J per parameter (misleading: a larger network looks better for the same bill)"
        logger.info(line)


@dataclass
class _Bill:
    energy_j: float = 0.0
    duration_s: float = 0.0
    steps: int = 0
    samples: int = 0

    def __add__(self, other: _Bill) -> _Bill:
        return _Bill(
            self.energy_j + other.energy_j,
            self.duration_s + other.duration_s,
            self.steps + other.steps,
            self.samples + other.samples,
        )

    def shares(self) -> dict[str, float]:
        counts = {"energy_j_per_step": self.steps, "energy_j_per_sample": self.samples}
        return {name: self.energy_j / count for name, count in counts.items() if count}


def _num_samples(batch: Any) -> int:
    return next((len(tensor) for tensor in _tensors(batch) if tensor.ndim), 0)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
