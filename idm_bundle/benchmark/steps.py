"""Training steps, estimated or run, including the optimizer's step."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from idm_bundle.benchmark.cases import STEP_SUITES, Case
from idm_bundle.benchmark.optimizers import OPTIMIZERS
from idm_bundle.benchmark.row import Row, error_text
from idm_bundle.measure import peaks, seconds
from monai_idm.machine import device_name
from monai_idm.meters import (
    EnergyMeter,
    EnergySample,
    count_flops,
    denoising_step,
    estimate,
    estimate_flops,
    live_bytes,
)

__all__ = ["run_case", "run_cases"]

logger = logging.getLogger(__name__)


def run_cases(
    suite: str, device: str, series: dict[str, list[EnergySample]], energy_window_s: float = 120.0
) -> Iterator[Row]:
    """The rows of a suite of ``STEP_SUITES``.

    Args:
        suite: Name of the suite.
        device: ``"cpu"``, ``"cuda"`` or ``"estimate"``.
        series: Dictionary to which the suite ``energy`` adds the readings of its window, by the name of the case.
        energy_window_s: Seconds over which the suite ``energy`` measures a case; two minutes as in the paper's
            figures 4 and 5.
    Raises:
        ValueError: If the device cannot run the suite.
    """
    for case in STEP_SUITES[suite](device):
        row = run_case(suite, case, device)
        if suite == "energy" and row.peak_bytes is not None:
            energy_j, series[case.name] = _energy_of_a_step(case, device, energy_window_s)
            row = replace(row, energy_j=energy_j)
        yield row


def run_case(suite: str, case: Case, device: str) -> Row:
    """The row of one case; arguments as in :func:`run_cases`."""
    return _estimated(suite, case) if device == "estimate" else _measured(suite, case, torch.device(device))


def _row(suite: str, case: Case, network: nn.Module, **figures: Any) -> Row:
    return Row(
        suite=suite,
        case=case.name,
        network=case.network,
        parameters=sum(p.numel() for p in network.parameters()),
        volume=case.volume,
        batch=case.batch,
        precision=case.precision + (", bfloat16 weights" if case.weights == "bfloat16" else ""),
        activations=case.activations,
        optimizer=case.optimizer + (f", {case.offload_levels} levels on the host" if case.offload_levels else ""),
        **figures,
    )


def _estimated(suite: str, case: Case) -> Row:
    with torch.device("meta"):
        network = case.build()
    optimizer = replace(OPTIMIZERS[case.optimizer].bytes, offload=_offload(case, network))
    estimated = estimate(network, case.shape, optimizer)
    flops = estimate_flops(network, case.shape, optimizer)
    return _row(suite, case, network, device="estimate", estimated=True, **estimated._asdict(), flops=flops)


def _measured(suite: str, case: Case, device: torch.device) -> Row:
    """Measure the third step: by then the optimizer's states and, on CUDA, the libraries' workspaces exist.

    FLOPs are unknown where a step fits but counting them does not.
    """
    gc.collect()
    torch.cuda.empty_cache()  # memory reserved by the previous case must not count; does nothing without CUDA
    network, step = _training(case, device)
    figures: dict[str, Any] = {"device": device_name(device), "estimated": False, "peak_bytes": None}
    try:
        step()
        step()
        figures |= peaks(step, device, *step.on_device())
        figures["step_s"] = min(seconds(step, device) for _ in range(3))
    except torch.OutOfMemoryError as error:
        logger.warning("%s does not fit into the memory of %s", case.name, device)
        figures["error"] = f"no room: {error_text(error)}"
    else:
        # last, and only if there is room: torch's counter keeps the gradients of all modules' inputs and outputs, with
        # which a rebuilt step takes two to three times as much memory, and that would stay in the allocator's cache
        with suppress(torch.OutOfMemoryError):
            figures["flops"] = count_flops(step)
    step.optimizer.zero_grad()  # gradients that are left if a step did not fit
    with live_bytes(*step.on_device()) as resident:
        return _row(suite, case, network, **figures, resident_bytes=resident.current_bytes)


class _Step:
    def __init__(self, case: Case, network: nn.Module) -> None:
        self.network, self.shape = network, case.shape
        self.optimizer = OPTIMIZERS[case.optimizer](network, _offload(case, network))

    def __call__(self) -> None:
        denoising_step(self.network, self.shape)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def on_device(self) -> list[Any]:
        """Weights, buffers and states that are there between steps, also where the device is the host."""
        on_host = {p for module in getattr(self.optimizer, "offloaded", ()) for p in module.parameters()}
        here = [p for p in self.network.parameters() if p not in on_host]
        return [here, [*self.network.buffers()], [self.optimizer.state[p] for p in here if p in self.optimizer.state]]


def _offload(case: Case, network: Any) -> Sequence[nn.Module]:
    return network.deep_couplings(case.offload_levels) if case.offload_levels else ()


def _training(case: Case, device: torch.device) -> tuple[nn.Module, _Step]:
    torch.manual_seed(0)
    with device:  # weights are drawn there: 344M take a host seconds
        network = case.build()
    return network, _Step(case, network)


def _energy_of_a_step(case: Case, device: str, window_s: float) -> tuple[float | None, list[EnergySample]]:
    _, step = _training(case, torch.device(device))
    for _ in range(3):
        step()
    meter = EnergyMeter(device)
    meter.start()
    steps = 0
    while meter.elapsed_s < window_s:
        step()
        steps += 1
        torch.cuda.synchronize(device)  # otherwise the host would count steps that the device has not finished
    joules = meter.stop().get("energy_j")
    return None if joules is None else joules / steps, meter.samples
