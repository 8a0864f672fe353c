"""Whole training steps: our network and what a sceptic would use instead, the optimizer's step included."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from idm_bundle.benchmark.optimizers import OPTIMIZERS
from idm_bundle.benchmark.row import Row
from monai_idm.machine import device_name
from monai_idm.meters import (
    EnergyMeter,
    EnergySample,
    PeakMemoryMeter,
    count_flops,
    denoising_step,
    estimate,
    estimate_flops,
    live_bytes,
)
from monai_idm.networks import InvertibleDiffusionUNet, PatchDiffusionUNet

__all__ = ["STEP_SUITES", "Case", "run_cases"]

logger = logging.getLogger(__name__)
ENERGY_WINDOW_S = 120.0  # as in the paper's figures 4 and 5


@dataclass(frozen=True)
class Case:
    """A training step to look at.

    Attributes:
        name: Unique in its suite.
        network: Name of a network in ``NETWORKS``.
        volume: Voxels per axis.
        optimizer: Name of one in ``OPTIMIZERS``.
        bookend_stride: Of our network.
        weights: Of our network's core: its ``weight_dtype``.
        num_res_blocks: Of our network; None: the preset's.
    """

    name: str
    network: str
    volume: tuple[int, ...] = (64, 64, 64)
    batch: int = 4
    precision: str = "float32"
    activations: str = "rebuilt"
    optimizer: str = "AdamW"
    bookend_stride: int = 1
    weights: str = "float32"
    num_res_blocks: int | None = None

    def build(self) -> nn.Module:
        return NETWORKS[self.network](self)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, 8 if self.network == "PatchDDM" else 2, *self.volume)


def _ours(case: Case) -> nn.Module:
    depth: dict[str, Any] = {} if case.num_res_blocks is None else {"num_res_blocks": case.num_res_blocks}
    return InvertibleDiffusionUNet.from_preset(
        case.network,
        precision=case.precision,
        activations=case.activations,
        bookend_stride=case.bookend_stride,
        weight_dtype=case.weights,
        **depth,
    )


def _patch(case: Case) -> nn.Module:
    return PatchDiffusionUNet.from_preset("patchddm", precision=case.precision, activations=case.activations)


def _monai(channels: tuple[int, ...], num_head_channels: int, case: Case) -> nn.Module:
    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=2,
        channels=channels,
        attention_levels=[False] * (len(channels) - 1) + [True],
        num_res_blocks=2,
        norm_num_groups=16,
        num_head_channels=num_head_channels,
    )


NETWORKS: dict[str, Callable[[Case], nn.Module]] = {
    **dict.fromkeys(("light", "base", "paper"), _ours),
    "PatchDDM": _patch,
    # MONAI's, as large as ours and as PatchDDM's
    "MONAI 24M": lambda case: _monai((32, 64, 128, 176), 16, case),
    "MONAI 348M": lambda case: _monai((64, 128, 256, 512, 640), 64, case),
}

# all that saves memory at once; the same for every network, as far as it has the switch
LOW: dict[str, Any] = {"precision": "mixed", "optimizer": "in backward, 8-bit"}
LOW_BF16: dict[str, Any] = {"precision": "mixed", "optimizer": "in backward, 8-bit, bf16", "weights": "bfloat16"}
REBUILT: dict[str, Any] = {"activations": "rebuilt"}
STORED: dict[str, Any] = {"activations": "stored"}
CHECKPOINTED: dict[str, Any] = {"activations": "checkpointed"}


def _paper(device: str) -> list[Case]:
    """Table 2 and figure 3 of the paper: T1 and T2 at 64^3, batch 4."""
    return [
        Case("paper, stored", "paper", **STORED),
        Case("paper, checkpointed", "paper", **CHECKPOINTED),
        Case("paper", "paper"),
        Case("paper, low memory, stored", "paper", **LOW, **STORED),
        Case("paper, low memory, checkpointed", "paper", **LOW, **CHECKPOINTED),
        Case("paper, low memory", "paper", **LOW),
        Case("paper, low memory, exact", "paper", **{**LOW, "precision": "exact-mixed"}),
        Case("paper, low memory, bfloat16 weights", "paper", **LOW_BF16),
        Case("base", "base"),
        Case("base, low memory", "base", **LOW),
        Case("PatchDDM", "PatchDDM", **STORED),
        Case("PatchDDM, checkpointed", "PatchDDM", **CHECKPOINTED),
        Case("PatchDDM, low memory", "PatchDDM", **LOW, **STORED),
        Case("PatchDDM, low memory, checkpointed", "PatchDDM", **LOW, **CHECKPOINTED),
        Case("MONAI's UNet, 24M", "MONAI 24M", **STORED),
        Case("MONAI's UNet, 348M", "MONAI 348M", **STORED),
    ]


def _depth(device: str) -> list[Case]:
    """More and more couplings per level; on a CPU a small network."""
    scale: dict[str, Any] = {"network": "paper", **LOW}
    if device == "cpu":
        scale = {"network": "light", "volume": (32, 32, 32), "batch": 2}
    return [
        Case(f"{scale['network']}, {blocks} couplings per level, {name}", num_res_blocks=blocks, **scale, **policy)
        for blocks in (1, 2, 4)
        for name, policy in (("rebuilt", REBUILT), ("checkpointed", CHECKPOINTED), ("stored", STORED))
    ]


def _volume(device: str) -> list[Case]:
    """One volume, larger and larger; bookends of stride 2 from 128^3 on."""
    sizes = [(64, 64, 64, 1), (96, 96, 96, 1), (128, 128, 128, 1), (128, 128, 128, 2), (192, 192, 192, 2)]
    cases = []
    for *volume, stride in [*sizes, (256, 256, 192, 2)]:
        size: dict[str, Any] = {"volume": tuple(volume), "batch": 1}
        name = f"{' x '.join(map(str, volume))}, stride {stride}"
        cases += [
            Case(f"paper, {name}", "paper", bookend_stride=stride, **size, **LOW),
            Case(f"paper, {name}, checkpointed", "paper", bookend_stride=stride, **size, **LOW, **CHECKPOINTED),
            Case(f"paper, {name}, stored", "paper", bookend_stride=stride, **size, **LOW, **STORED),
        ]
        if stride == 2:
            cases += [Case(f"PatchDDM, {name[:-10]}, checkpointed", "PatchDDM", **size, **LOW, **CHECKPOINTED)]
    return [*cases, Case("paper, 256 x 256 x 192, bfloat16 weights", "paper", bookend_stride=2, **size, **LOW_BF16)]


def _optimizer(device: str) -> list[Case]:
    """The switches that save memory, one after the other: 64^3, batch 4."""
    return [
        Case("stored", "paper", **STORED),
        Case("+ rebuilt", "paper"),
        Case("+ mixed", "paper", precision="mixed"),
        Case("+ fused", "paper", precision="mixed", optimizer="AdamW, fused"),
        Case("+ in backward", "paper", precision="mixed", optimizer="in backward"),
        Case("+ 8-bit states", "paper", **LOW),
        Case("+ bfloat16 weights", "paper", **LOW_BF16),
    ]


def _energy(device: str) -> list[Case]:
    """Joules of a step over two minutes, as in the paper's figures 4 and 5: 64^3, batch 4."""
    reason = "nothing is run" if device == "estimate" else EnergyMeter(device).reason
    if reason is not None:
        raise ValueError(f"suite energy on {device}: {reason}; take --device cuda, or another suite")
    return [
        Case("paper, low memory", "paper", **LOW),
        Case("paper, low memory, stored", "paper", **LOW, **STORED),
        Case("base, low memory", "base", **LOW),
        Case("PatchDDM, low memory", "PatchDDM", **LOW, **STORED),
    ]


STEP_SUITES: dict[str, Callable[[str], list[Case]]] = {
    "paper": _paper,
    "depth": _depth,
    "volume": _volume,
    "optimizer": _optimizer,
    "energy": _energy,
}


def run_cases(suite: str, device: str, series: dict[str, list[EnergySample]]) -> Iterator[Row]:
    """The rows of a suite of ``STEP_SUITES``.

    Args:
        suite: Its name.
        device: ``"cpu"``, ``"cuda"`` or ``"estimate"``.
        series: The suite ``energy`` adds what the device said over two minutes, per case.
    Raises:
        ValueError: If the device cannot run it.
    """
    for case in STEP_SUITES[suite](device):
        row = _estimated(suite, case) if device == "estimate" else _measured(suite, case, torch.device(device))
        if suite == "energy" and row.peak_bytes is not None:
            energy_j, series[case.name] = _energy_of_a_step(case, device)
            row = replace(row, energy_j=energy_j)
        yield row


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
        optimizer=case.optimizer,
        **figures,
    )


def _estimated(suite: str, case: Case) -> Row:
    with torch.device("meta"):
        network = case.build()
    found = estimate(network, case.shape, OPTIMIZERS[case.optimizer].bytes)
    flops = estimate_flops(network, case.shape)
    return _row(suite, case, network, device="estimate", estimated=True, **found._asdict(), flops=flops)


def _measured(suite: str, case: Case, device: torch.device) -> Row:
    """The third step is measured: by then there are the optimizer's states and, on CUDA, the libraries' workspaces."""
    gc.collect()
    torch.cuda.empty_cache()  # what the case before reserved is not this one's; nothing where CUDA is not used
    network, step = _training(case, device)
    resident = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
    meter = PeakMemoryMeter(device)
    figures: dict[str, Any] = {"device": device_name(device), "estimated": False}
    try:
        flops = count_flops(step)
        step()
        meter.start(network, step.optimizer)
        step()
        peaks = meter.stop()
        seconds = [_seconds(step, device) for _ in range(3)]
    except torch.OutOfMemoryError:
        logger.warning("%s does not fit into the memory of %s", case.name, device)
        return _row(suite, case, network, **figures, resident_bytes=resident, peak_bytes=None)
    peak_gib = peaks["allocated_peak_gib" if device.type == "cuda" else "live_peak_gib"]
    return _row(
        suite,
        case,
        network,
        **figures,
        resident_bytes=resident + _state_bytes(step.optimizer),
        peak_bytes=round(peak_gib * 2**30),
        reserved_bytes=round(peaks["reserved_peak_gib"] * 2**30) if device.type == "cuda" else None,
        flops=flops,
        step_s=min(seconds),
    )


class _Step:
    def __init__(self, case: Case, network: nn.Module) -> None:
        self.network, self.shape = network, case.shape
        self.optimizer = OPTIMIZERS[case.optimizer](network)

    def __call__(self) -> None:
        denoising_step(self.network, self.shape)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _training(case: Case, device: torch.device) -> tuple[nn.Module, _Step]:
    torch.manual_seed(0)
    network = case.build().to(device)
    return network, _Step(case, network)


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    with live_bytes(optimizer) as states:  # the maps of 8-bit states are shared
        return states.current_bytes


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _energy_of_a_step(case: Case, device: str) -> tuple[float | None, list[EnergySample]]:
    _, step = _training(case, torch.device(device))
    for _ in range(3):
        step()
    meter = EnergyMeter(device)
    meter.start()
    steps = 0
    while meter.elapsed_s < ENERGY_WINDOW_S:
        step()
        steps += 1
        torch.cuda.synchronize(device)  # or the host would run ahead of the clock
    joules = meter.stop().get("energy_j")
    return None if joules is None else joules / steps, meter.samples
