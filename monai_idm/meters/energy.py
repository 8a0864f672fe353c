r"""Energy, temperature and utilisation of a GPU over a window of work, as NVML reports them.

With the device's energy counter :math:`c` in mJ or, if it has none, its power :math:`p` in W, sampled at the times
:math:`t_0, \dots, t_n` of the window,

.. math::
    E = \frac{c(t_n) - c(t_0)}{1000} \qquad \text{or} \qquad E = \sum_{i=1}^n \frac{p_{i-1} + p_i}{2} (t_i - t_{i-1}).

The counter moves every 20 to 100 ms, so windows of 10 s and more are meaningful. Both count the whole device, idle
power and other programs included. Figures that could not be measured are absent, never 0.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import torch

__all__ = ["EnergyMeter", "EnergySample"]


class EnergySample(NamedTuple):
    """What the device reported at one moment; None for what it did not report.

    Attributes:
        time_s: Time since the window was opened.
        energy_j: Energy since the window was opened.
        temperature_c: Temperature of the chip.
        utilisation_percent: Share of the time just before the sample in which some kernel ran.
    """

    time_s: float
    energy_j: float | None
    temperature_c: float | None
    utilisation_percent: float | None


class EnergyMeter:
    """Energy of a window of work, in J, and the power, temperature and utilisation that go with it.

    A thread samples the device while the window is open. An NVML error removes only the figures that it affects.

    Args:
        device: The device to measure, such as ``"cuda:0"``; the meter is unavailable for any but NVIDIA GPUs.
        interval_s: Seconds between two samples.

    Attributes:
        available: Whether the device reports its energy.
        reason: Why it does not, in words; None if it does.
        source: ``"energy counter"``, ``"sampled power"`` or None.
        samples: Samples of the open window, or else of the last one, oldest first: a series to plot.
        running: Whether the window is open.
    """

    def __init__(self, device: torch.device | str, interval_s: float = 1.0) -> None:
        self.device = torch.device(device)
        self.interval_s = interval_s
        self.samples: list[EnergySample] = []
        self.running = False
        self.source: str | None = None
        self.reason = self._connect()
        self.available = self.reason is None
        self._started_s = perf_counter()
        self._origin_j: float | None = None
        self._power: tuple[float, float, float] | None = None  # last sample: time, power, energy up to it
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since :meth:`start`, without waiting for the device."""
        return perf_counter() - self._started_s

    def start(self) -> None:
        """Open the window once the device has finished its earlier work.

        Raises:
            RuntimeError: If the window is open already.
        """
        if self.running:
            raise RuntimeError("the meter is running already; call stop() before the next start()")
        self._synchronize()
        self.samples = []
        self._started_s = perf_counter()
        self.running = True
        if self.available:
            self._power = None
            self._origin_j = self._query(lambda: self._total_j(0.0))
            self._sample()
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="EnergyMeter", daemon=True)
            self._thread.start()

    def read(self) -> dict[str, float]:
        """The figures since :meth:`start`, once the device has finished its work; the window stays open.

        Returns:
            ``energy_j``, ``mean_power_w``, ``max_temperature_c``, ``mean_utilisation_percent`` and ``duration_s``,
            without those that the device does not report; only the last if the meter is unavailable.
        Raises:
            RuntimeError: If the window is not open.
        """
        if not self.running:
            raise RuntimeError("the meter is not running; call start() before read() or stop()")
        self._synchronize()
        if not self.available:
            return {"duration_s": self.elapsed_s}
        with self._lock:
            self._sample()
            return _figures(self.samples)

    def stop(self) -> dict[str, float]:
        """Close the window and return what :meth:`read` returns."""
        figures = self.read()
        self.running = False
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
        return figures

    def _connect(self) -> str | None:
        """Find the device in NVML and the source of its energy; return the reason if that fails."""
        if self.device.type != "cuda":
            return f"{self.device} is not an NVIDIA GPU"
        if not torch.cuda.is_available():
            return "CUDA is not available"
        try:
            import pynvml as nvml
        except ImportError:
            return "the package nvidia-ml-py is not installed"
        close = None
        try:
            nvml.nvmlInit()
            close = weakref.finalize(self, nvml.nvmlShutdown)
            # not by index: CUDA_VISIBLE_DEVICES renumbers CUDA's devices but not NVML's
            uuid = torch.cuda.get_device_properties(self.device).uuid
            self._nvml: Any = nvml
            self._handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self.source = self._find_source()
        except nvml.NVMLError as error:
            if close is not None:
                close()
            return f"NVML does not report the energy of {self.device}: {error}"
        return None

    def _find_source(self) -> str:
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError:
            self._nvml.nvmlDeviceGetPowerUsage(self._handle)
            return "sampled power"
        return "energy counter"

    def _synchronize(self) -> None:
        if self.device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.synchronize(self.device)

    def _watch(self) -> None:
        while not self._ended.wait(self.interval_s):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        nvml, handle = self._nvml, self._handle
        time_s = self.elapsed_s
        total_j = self._query(lambda: self._total_j(time_s))
        energy_j = None if total_j is None or self._origin_j is None else total_j - self._origin_j
        known_j = (sample.energy_j for sample in reversed(self.samples) if sample.energy_j is not None)
        if energy_j is not None and energy_j < next(known_j, 0.0):
            # the counter started again (it wrapped, or the driver restarted): this window's energy is lost
            energy_j = self._origin_j = None
        temperature_c = self._query(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        utilisation_percent = self._query(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        self.samples.append(EnergySample(time_s, energy_j, temperature_c, utilisation_percent))

    def _total_j(self, time_s: float) -> float:
        """Joules since some moment at or before the start of the window."""
        if self.source == "energy counter":
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000
        power_w = self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        last_s, last_w, total_j = self._power or (time_s, power_w, 0.0)
        total_j += (last_w + power_w) / 2 * (time_s - last_s)
        self._power = (time_s, power_w, total_j)
        return total_j

    def _query(self, quantity: Callable[[], float]) -> float | None:
        try:
            return quantity()
        except (self._nvml.NVMLError, AttributeError):  # AttributeError: a later NVML may drop functions
            return None


def _figures(samples: Sequence[EnergySample]) -> dict[str, float]:
    figures = {}
    duration_s, energy_j, *_ = samples[-1]
    if energy_j:  # no device runs on 0 J: the counter has not moved yet
        figures["energy_j"] = energy_j
        figures["mean_power_w"] = energy_j / duration_s
    temperatures_c = [s.temperature_c for s in samples if s.temperature_c is not None]
    if temperatures_c:
        figures["max_temperature_c"] = float(max(temperatures_c))
    # the first sample describes the time before the window
    utilisations = [s.utilisation_percent for s in samples[1:] if s.utilisation_percent is not None]
    if utilisations:
        figures["mean_utilisation_percent"] = sum(utilisations) / len(utilisations)
    return figures | {"duration_s": duration_s}
