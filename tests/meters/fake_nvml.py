"""A fake NVML, errors included, and a clock that is moved by hand."""

from types import SimpleNamespace

import pynvml

UUID = "0c1d2e3f-0000-1111-2222-333344445555"
TICK_S = 0.125  # between two updates of the energy counter


class FakeNVML:
    """Two devices, of which CUDA sees the second; real exceptions; a counter that is updated every 125 ms."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self):
        self.now_s = 1000.0
        self.opened = 0
        self.errors = {}  # function: exception class
        self.calls = []
        self.handles = {b"GPU-" + b"f" * 36: "other", b"GPU-" + UUID.encode(): "ours"}
        self.power_w, self.temperature_c, self.gpu_percent = 200.0, 50, 90
        self.counted_j = 5e6

    def clock(self):
        return self.now_s

    def pass_time(self, seconds, power_w=None, temperature_c=None, gpu_percent=None):
        """Run for a while, with power changing linearly to ``power_w``."""
        end_w = self.power_w if power_w is None else power_w
        self.counted_j += (self.power_w + end_w) / 2 * seconds
        self.now_s += seconds
        self.power_w = end_w
        self.temperature_c = temperature_c or self.temperature_c
        self.gpu_percent = gpu_percent or self.gpu_percent

    def _answer(self, function, handle=None):
        self.calls.append(function)
        if function in self.errors:
            raise self.errors[function]()
        if function != "nvmlInit" and not self.opened:
            raise pynvml.NVMLError_Uninitialized()
        if handle not in (None, "ours"):
            raise pynvml.NVMLError_InvalidArgument()

    def nvmlInit(self):
        self._answer("nvmlInit")
        self.opened += 1

    def nvmlShutdown(self):
        self._answer("nvmlShutdown")
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self._answer("nvmlDeviceGetHandleByUUID")
        uuid = uuid.encode() if isinstance(uuid, str) else uuid
        if uuid not in self.handles:
            raise pynvml.NVMLError_NotFound()
        return self.handles[uuid]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self._answer("nvmlDeviceGetTotalEnergyConsumption", handle)
        behind_s = self.now_s % TICK_S
        return int((self.counted_j - self.power_w * behind_s) * 1000)

    def nvmlDeviceGetPowerUsage(self, handle):
        self._answer("nvmlDeviceGetPowerUsage", handle)
        return int(self.power_w * 1000)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        self._answer("nvmlDeviceGetTemperature", handle)
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self.temperature_c

    def nvmlDeviceGetUtilizationRates(self, handle):
        self._answer("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=self.gpu_percent, memory=5)
