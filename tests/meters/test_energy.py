"""The energy meter against a fake NVML."""

import sys
import threading
import time
from types import SimpleNamespace

import pynvml
import pytest
import torch

from monai_idm.meters import energy
from monai_idm.meters.energy import EnergyMeter, EnergySample
from tests.meters.fake_nvml import TICK_S, UUID, FakeNVML

HOUR_S = 3600.0  # longer than any test: the thread never samples by itself


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNVML()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(energy, "perf_counter", fake.clock)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: fake.calls.append("synchronize"))
    return fake


def without_counter(nvml):
    nvml.errors["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVMLError_NotSupported


def test_the_counter_gives_energy_and_mean_power(nvml):
    meter = EnergyMeter("cuda", HOUR_S)
    assert (meter.available, meter.reason, meter.source) == (True, None, "energy counter")
    nvml.gpu_percent = 3  # before the window
    meter.start()
    nvml.pass_time(10, temperature_c=65, gpu_percent=80)
    assert meter.read()["energy_j"] == pytest.approx(2000, abs=200 * TICK_S)
    nvml.pass_time(30, power_w=300, temperature_c=60, gpu_percent=100)
    figures = meter.stop()
    assert list(figures) == [
        "energy_j",
        "mean_power_w",
        "max_temperature_c",
        "mean_utilisation_percent",
        "duration_s",
    ]
    assert figures["energy_j"] == pytest.approx(2000 + 250 * 30, abs=300 * TICK_S)
    assert figures["mean_power_w"] == pytest.approx(9500 / 40, rel=0.01)
    assert figures["max_temperature_c"] == 65
    assert figures["mean_utilisation_percent"] == 90
    assert figures["duration_s"] == 40
    assert "nvmlDeviceGetPowerUsage" not in nvml.calls


def test_a_second_window_starts_from_nothing(nvml):
    meter = EnergyMeter("cuda", HOUR_S)
    meter.start()
    nvml.pass_time(10, temperature_c=80)
    meter.stop()
    nvml.pass_time(100, temperature_c=55)
    meter.start()
    nvml.pass_time(20)
    figures = meter.stop()
    assert figures["energy_j"] == pytest.approx(4000)
    assert (figures["max_temperature_c"], figures["duration_s"]) == (55, 20)


def test_without_a_counter_sampled_power_is_integrated_by_trapezoids(nvml):
    without_counter(nvml)
    meter = EnergyMeter("cuda", HOUR_S)
    assert (meter.available, meter.source) == (True, "sampled power")
    for _ in range(2):
        meter.start()
        expected_j, power_w = 0.0, nvml.power_w
        for seconds, next_w in ((1, 300), (2, 100), (0.5, 250)):
            nvml.pass_time(seconds, next_w)
            expected_j += (power_w + next_w) / 2 * seconds
            power_w = next_w
            assert meter.read()["energy_j"] == pytest.approx(expected_j)
        figures = meter.stop()
        assert figures["mean_power_w"] == pytest.approx(expected_j / 3.5)


def test_samples_are_a_series_to_plot_and_stay_after_the_window(nvml):
    meter = EnergyMeter("cuda", HOUR_S)
    meter.start()
    nvml.pass_time(1, temperature_c=51)
    meter.read()
    nvml.pass_time(1, temperature_c=52, gpu_percent=70)
    meter.stop()
    assert meter.samples == [
        EnergySample(0.0, 0.0, 50, 90),
        EnergySample(1.0, pytest.approx(200), 51, 90),
        EnergySample(2.0, pytest.approx(400), 52, 70),
    ]


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_thread_samples_while_the_window_is_open_and_ends_with_it(nvml):
    meter = EnergyMeter("cuda", interval_s=0.001)
    for _ in range(2):
        meter.start()
        nvml.pass_time(5, temperature_c=77)
        wait_for(lambda: meter.samples[-1].temperature_c == 77)
        nvml.pass_time(5, temperature_c=60)
        assert meter.stop()["max_temperature_c"] == 77
        assert not [thread for thread in threading.enumerate() if thread.name == "EnergyMeter"]


@pytest.mark.parametrize("error", [pynvml.NVMLError_Unknown, pynvml.NVMLError_GpuIsLost, AttributeError])
def test_the_thread_outlives_errors_and_the_figures_stay_right(nvml, error):
    meter = EnergyMeter("cuda", interval_s=0.001)
    meter.start()
    for function in ("TotalEnergyConsumption", "Temperature", "UtilizationRates"):
        nvml.errors[f"nvmlDeviceGet{function}"] = error
    nvml.pass_time(5)
    wait_for(lambda: meter.samples[-1].energy_j is None and meter.samples[-1].temperature_c is None)
    nvml.errors.clear()
    nvml.pass_time(5, temperature_c=70)
    wait_for(lambda: meter.samples[-1].temperature_c == 70)
    figures = meter.stop()
    assert figures["energy_j"] == pytest.approx(2000)
    assert figures["max_temperature_c"] == 70


def test_trapezoids_reach_over_a_lost_sample(nvml):
    without_counter(nvml)
    meter = EnergyMeter("cuda", HOUR_S)
    meter.start()
    nvml.errors["nvmlDeviceGetPowerUsage"] = pynvml.NVMLError_Timeout
    nvml.pass_time(1, 400)
    assert "energy_j" not in meter.read()
    del nvml.errors["nvmlDeviceGetPowerUsage"]
    nvml.pass_time(1, 600)
    assert meter.stop()["energy_j"] == pytest.approx((200 + 600) / 2 * 2)


@pytest.mark.parametrize("moment", ["start", "stop"])
@pytest.mark.parametrize("source", ["TotalEnergyConsumption", "PowerUsage"])
def test_a_window_without_its_first_or_last_reading_has_no_energy(nvml, moment, source):
    if source == "PowerUsage":
        without_counter(nvml)
    meter = EnergyMeter("cuda", HOUR_S)
    for name in ("start", "stop"):
        if name == moment:
            nvml.errors[f"nvmlDeviceGet{source}"] = pynvml.NVMLError_Unknown
        figures = getattr(meter, name)()
        nvml.errors.pop(f"nvmlDeviceGet{source}", None)
        nvml.pass_time(10)
        if name == "start":
            meter.read()
    assert list(figures) == ["max_temperature_c", "mean_utilisation_percent", "duration_s"]


@pytest.mark.parametrize(
    ("before_j", "after_s"),
    [(5e6, 10), (5e6, 30000), (100.0, 10)],
    ids=["below the start", "in the end above the start", "below the last sample"],
)
def test_a_counter_that_begins_anew_gives_no_energy(nvml, before_j, after_s):
    nvml.counted_j = before_j
    meter = EnergyMeter("cuda", HOUR_S)
    meter.start()
    nvml.pass_time(10)
    meter.read()
    nvml.counted_j = 0.0
    nvml.pass_time(9)
    assert "energy_j" not in meter.read()
    nvml.pass_time(after_s)
    figures = meter.stop()
    assert {"energy_j", "mean_power_w"}.isdisjoint(figures)
    assert figures["duration_s"] == 19 + after_s
    meter.start()
    nvml.pass_time(10)
    assert meter.stop()["energy_j"] == pytest.approx(2000)


def test_a_counter_that_has_not_moved_is_not_zero_joules(nvml):
    meter = EnergyMeter("cuda", HOUR_S)
    meter.start()
    nvml.pass_time(0.6 * TICK_S)
    assert {"energy_j", "mean_power_w"}.isdisjoint(meter.stop())


@pytest.mark.parametrize(
    ("function", "figure"),
    [("Temperature", "max_temperature_c"), ("UtilizationRates", "mean_utilisation_percent")],
)
def test_what_the_device_does_not_tell_is_absent(nvml, function, figure):
    nvml.errors[f"nvmlDeviceGet{function}"] = pynvml.NVMLError_NotSupported
    meter = EnergyMeter("cuda", HOUR_S)
    meter.start()
    nvml.pass_time(10)
    figures = meter.stop()
    assert figure not in figures
    assert len(figures) == 4


def only_duration(meter, advance):
    meter.start()
    advance(3)
    assert list(meter.read()) == ["duration_s"]
    return meter.stop() == {"duration_s": 3}


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ({"nvmlInit": pynvml.NVMLError_LibraryNotFound}, "NVML Shared Library Not Found"),
        ({"nvmlInit": pynvml.NVMLError_DriverNotLoaded}, "Driver Not Loaded"),
        ({"nvmlInit": pynvml.NVMLError_NoPermission}, "Insufficient Permissions"),
        ({"nvmlDeviceGetHandleByUUID": pynvml.NVMLError_NotFound}, "Not Found"),
        (
            {
                "nvmlDeviceGetTotalEnergyConsumption": pynvml.NVMLError_NotSupported,
                "nvmlDeviceGetPowerUsage": pynvml.NVMLError_NotSupported,
            },
            "Not Supported",
        ),
    ],
)
def test_a_gpu_that_tells_no_energy_is_unavailable_and_says_why(nvml, errors, reason):
    nvml.errors = errors
    meter = EnergyMeter("cuda:1", HOUR_S)
    assert (meter.available, meter.source) == (False, None)
    assert meter.reason == f"NVML does not report the energy of cuda:1: {reason}"
    assert nvml.opened == 0
    assert only_duration(meter, nvml.pass_time)
    assert nvml.opened == 0


def test_without_the_package_energy_is_unavailable(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = EnergyMeter("cuda", HOUR_S)
    assert meter.reason == "the package nvidia-ml-py is not installed"
    assert only_duration(meter, nvml.pass_time)


def test_without_cuda_energy_is_unavailable(nvml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert EnergyMeter("cuda").reason == "CUDA is not available"
    meter = EnergyMeter("cpu")
    assert meter.reason == "cpu is not an NVIDIA GPU"
    assert only_duration(meter, nvml.pass_time)
    assert nvml.calls == []


def test_nvml_is_opened_once_and_closed_with_the_meter(nvml):
    meter = EnergyMeter("cuda", HOUR_S)
    for _ in range(3):
        meter.start()
        meter.stop()
    assert nvml.opened == nvml.calls.count("nvmlInit") == 1
    del meter
    assert nvml.opened == 0


def test_a_window_holds_the_work_it_was_given_and_no_other(nvml):
    meter = EnergyMeter("cuda", HOUR_S)
    nvml.calls.clear()
    for act in (meter.start, meter.read, meter.stop):
        act()
        assert nvml.calls.count("synchronize") == 1
        assert nvml.calls[0] == "synchronize"  # before the counter is read
        nvml.calls.clear()


def test_a_meter_opens_and_closes_in_turn(nvml):
    meter = EnergyMeter("cuda", HOUR_S)
    with pytest.raises(RuntimeError, match=r"not running; call start\(\)"):
        meter.stop()
    meter.start()
    assert meter.running
    nvml.pass_time(2)
    assert meter.elapsed_s == 2
    with pytest.raises(RuntimeError, match=r"call stop\(\) before the next start"):
        meter.start()
    meter.stop()
    assert not meter.running


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu_draws_watts():
    meter = EnergyMeter("cuda", interval_s=0.2)
    if not meter.available:
        pytest.skip(meter.reason)
    x = torch.randn(4096, 4096, device="cuda")
    meter.start()
    while meter.elapsed_s < 3:
        (x @ x).sum().item()
    figures = meter.stop()
    assert 20 < figures["mean_power_w"] < 2000
    assert figures["energy_j"] == pytest.approx(figures["mean_power_w"] * figures["duration_s"])
    assert 15 < figures["max_temperature_c"] < 110
    assert 0 < figures["mean_utilisation_percent"] <= 100
    assert len(meter.samples) > 5
