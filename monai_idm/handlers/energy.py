"""Measure the energy of training, per step and per sample."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_idm.handlers.epoch_meter import EpochMeter
from monai_idm.meters.energy import EnergyMeter

__all__ = ["EnergyHandler"]

FIGURES = (
    "energy_j_per_step",
    "energy_j_per_sample",
    "mean_power_w",
    "max_temperature_c",
    "mean_utilisation_percent",
)


class EnergyHandler(EpochMeter):
    """Measure the energy of each epoch of a trainer, of its first two minutes, and of the whole run.

    Measuring stops when the last iteration of an epoch ends: validation that another handler runs at the end of the
    epoch counts neither for the epoch nor for the two minutes or the run. Each epoch has the figures
    ``energy_j_per_step``, ``energy_j_per_sample``, ``mean_power_w``, ``max_temperature_c`` and
    ``mean_utilisation_percent``, except those that the device does not report. One line is logged for the two minutes
    and one for the run, with the energy per parameter that the paper prints. If energy is unavailable, one line gives
    the reason.

    The handler reads the device once per epoch and once for the two minutes; between these only the meter's thread
    does. In distributed training each process measures its own device and samples.

    Args:
        device: The device whose energy is measured, such as ``"cuda:0"``.
        csv_file: File to append one row per epoch to, with empty cells for what the device did not report; a resumed
            run continues the same file. ``None``: no file.
        first_s: Seconds of training until the first line is logged.
        meter: Meter to use instead of a new one for the device.
    Raises:
        ValueError: At the end of an epoch, if ``csv_file`` has other columns.
    """

    def __init__(
        self,
        device: torch.device | str,
        csv_file: str | Path | None = None,
        first_s: float = 120.0,
        meter: EnergyMeter | None = None,
    ) -> None:
        super().__init__(csv_file)
        self.meter = EnergyMeter(device) if meter is None else meter
        self.first_s = first_s

    def attach(self, engine: Engine) -> None:
        """Subscribe to a trainer. A batch has as many samples as its first tensor, however nested, has rows."""
        engine.add_event_handler(Events.STARTED, self._run_started)
        if self.meter.available:
            super().attach(engine)
            engine.add_event_handler(Events.ITERATION_STARTED, self._iteration_started)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
            engine.add_event_handler(Events.COMPLETED, self._run_completed)

    def start(self, engine: Engine) -> None:
        if self.meter.running:
            self.meter.stop()
        self._steps = self._samples = 0
        self.meter.start()

    def stop(self, engine: Engine) -> None:
        if self.meter.running:
            measured = self.meter.stop()
            bill = self._bill(measured)
            self._run += bill
            measured |= bill.shares()
            self.publish(engine, {name: measured.get(name) for name in FIGURES})

    def _run_started(self, engine: Engine) -> None:
        self._run = _Bill()
        self._first_is_due = True
        if not self.meter.available:
            self.log(logging.INFO, f"energy: unavailable ({self.meter.reason})")

    def _iteration_started(self, engine: Engine) -> None:
        self._samples += _num_samples(engine.state.batch)  # counted now, because MONAI decollates the batch later

    def _iteration_completed(self, engine: Engine) -> None:
        self._steps += 1
        if self._steps == engine.state.epoch_length:  # if its length is unknown, the end of the epoch stops the meter
            self.stop(engine)
        open_s = self.meter.elapsed_s if self.meter.running else 0.0
        if self._first_is_due and self._run.duration_s + open_s >= self.first_s:
            self._first_is_due = False
            first = self._run + self._bill(self.meter.read()) if self.meter.running else self._run
            self._log_bill(engine, f"the first {first.duration_s:.0f} s", first)

    def _run_completed(self, engine: Engine) -> None:
        self.stop(engine)  # the run may end within an epoch
        self._log_bill(engine, "the whole run", self._run)

    def _bill(self, figures: Mapping[str, float]) -> _Bill:
        if "energy_j" not in figures:  # counting steps whose energy is unknown would make the others look cheap
            return _Bill()
        return _Bill(figures["energy_j"], figures["duration_s"], self._steps, self._samples)

    def _log_bill(self, engine: Engine, window: str, bill: _Bill) -> None:
        shares = bill.shares()
        if not shares:
            return
        line = f"energy of training, {window}, by {self.meter.source}: {bill.energy_j / bill.duration_s:.0f} W"
        line += "".join(f", {value:.4g} J per {name.rpartition('_')[2]}" for name, value in shares.items())
        network = getattr(engine, "network", None)
        if network is not None:
            share_j = bill.energy_j / sum(p.numel() for p in network.parameters())
            line += f", {share_j:.3g} J per parameter (misleading: at equal energy a larger network looks better)"
        self.log(logging.INFO, line)


@dataclass
class _Bill:
    energy_j: float = 0.0
    duration_s: float = 0.0
    steps: int = 0
    samples: int = 0

    def __add__(self, other: _Bill) -> _Bill:
        return _Bill(*map(operator.add, astuple(self), astuple(other)))

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
