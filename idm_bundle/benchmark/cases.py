"""The training steps that are compared: our network, and the alternatives that a sceptic would choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from monai_idm.machine import has_bfloat16
from monai_idm.meters import EnergyMeter
from monai_idm.networks import InvertibleDiffusionUNet, PatchDiffusionUNet

__all__ = ["STEP_SUITES", "Case"]


@dataclass(frozen=True)
class Case:
    """A training step to measure or estimate.

    Attributes:
        name: Name of the case, unique in its suite.
        network: Name of a network in ``NETWORKS``.
        volume: Voxels per axis.
        batch: Number of samples.
        optimizer: Name of an optimizer in ``OPTIMIZERS``.
        bookend_stride: ``bookend_stride`` of our network.
        weights: ``weight_dtype`` of our network.
        gradients: ``gradient_dtype`` of our network.
        num_res_blocks: ``num_res_blocks`` of our network; None: the preset's.
        offload_levels: Deepest levels of our network whose couplings an optimizer "in backward" offloads.
        segments: Whether our network has the channels of a segmentation (a mask, four contrasts and coordinates), which
            PatchDDM's always has.
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
    gradients: str = "float32"
    num_res_blocks: int | None = None
    offload_levels: int = 0
    segments: bool = False

    def build(self) -> nn.Module:
        return NETWORKS[self.network](self)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, 8 if self.segments or self.network.startswith("PatchDDM") else 2, *self.volume)

    @property
    def packages(self) -> set[str]:
        """Optional packages that it needs when it is run."""
        needed = {"einops"} if self.network.startswith("MONAI") else set()
        return needed | ({"bitsandbytes"} if "8-bit" in self.optimizer else set())

    def small(self) -> Case:
        """The same case with a small network on a small volume, which a CPU runs in a second or two."""
        volume = (16 * self.bookend_stride,) * 3
        return replace(self, network=SMALL.get(self.network, self.network), volume=volume, batch=min(self.batch, 2))


def _ours(case: Case) -> nn.Module:
    changed: dict[str, Any] = {} if case.num_res_blocks is None else {"num_res_blocks": case.num_res_blocks}
    if case.segments:
        changed |= {"in_channels": 8, "out_channels": 1}
    return InvertibleDiffusionUNet.from_preset(
        case.network,
        precision=case.precision,
        activations=case.activations,
        bookend_stride=case.bookend_stride,
        weight_dtype=case.weights,
        gradient_dtype=case.gradients,
        **changed,
    )


def _patch(preset: str, case: Case) -> nn.Module:
    return PatchDiffusionUNet.from_preset(preset, precision=case.precision, activations=case.activations)


def _monai(
    channels: tuple[int, ...], num_head_channels: int, case: Case, num_res_blocks: int = 2, attention: int = -1
) -> nn.Module:
    attention_levels = [False] * len(channels)
    attention_levels[attention] = True
    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=2,
        channels=channels,
        attention_levels=attention_levels,
        num_res_blocks=num_res_blocks,
        norm_num_groups=16,
        num_head_channels=num_head_channels,
    )


NETWORKS: dict[str, Callable[[Case], nn.Module]] = {
    **dict.fromkeys(("light", "base", "paper"), _ours),
    "PatchDDM": partial(_patch, "patchddm"),
    "PatchDDM light": partial(_patch, "light"),
    # MONAI's, at the size of our smallest network and with its attention, of PatchDDM's and of our largest
    "MONAI 3M": partial(_monai, (32, 48, 48, 64), 8, num_res_blocks=1, attention=2),
    "MONAI 24M": partial(_monai, (32, 64, 128, 176), 16),
    "MONAI 348M": partial(_monai, (64, 128, 256, 512, 640), 64),
    "MONAI small": partial(_monai, (16, 32), 16),
}
SMALL = {
    **dict.fromkeys(("base", "paper"), "light"),
    "PatchDDM": "PatchDDM light",
    **dict.fromkeys(("MONAI 3M", "MONAI 24M", "MONAI 348M"), "MONAI small"),
}

# everything that saves memory; the same for every network, as far as it has the switch
LOW: dict[str, Any] = {"precision": "mixed", "optimizer": "in backward, 8-bit"}
LOW_BF16: dict[str, Any] = {**LOW, "weights": "bfloat16"}
LEAST_ADAMW: dict[str, Any] = {**LOW_BF16, "gradients": "bfloat16"}
LEAST: dict[str, Any] = {**LEAST_ADAMW, "optimizer": "in backward, 8-bit, Muon"}
EXACT: dict[str, Any] = {"precision": "exact-mixed"}
ON_HOST: dict[str, Any] = {"offload_levels": 2}
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
        Case("paper, low memory, two levels on the host", "paper", **LOW, **ON_HOST),
        Case("paper, low memory, exact", "paper", **LOW | EXACT),
        Case("paper, low memory, bfloat16 weights", "paper", **LOW_BF16),
        Case("paper, least memory", "paper", **LEAST),
        Case("paper, least memory, exact", "paper", **LEAST | EXACT),
        Case("paper, all switches", "paper", **LEAST, **ON_HOST),
        Case("paper, all switches, exact", "paper", **LEAST | EXACT, **ON_HOST),
        Case("paper, all switches but Muon", "paper", **LEAST_ADAMW, **ON_HOST),
        Case("paper, all switches but Muon, exact", "paper", **LEAST_ADAMW | EXACT, **ON_HOST),
        Case("base", "base"),
        Case("base, low memory", "base", **LOW),
        Case("base, least memory", "base", **LEAST),
        Case("PatchDDM", "PatchDDM", **STORED),
        Case("PatchDDM, checkpointed", "PatchDDM", **CHECKPOINTED),
        Case("PatchDDM, low memory", "PatchDDM", **LOW, **STORED),
        Case("PatchDDM, low memory, checkpointed", "PatchDDM", **LOW, **CHECKPOINTED),
        Case("MONAI's UNet, 24M", "MONAI 24M", **STORED),
        Case("MONAI's UNet, 348M", "MONAI 348M", **STORED),
    ]


def _depth(device: str) -> list[Case]:
    """An increasing number of couplings per level; on a CPU, in a small network."""
    scale: dict[str, Any] = {"network": "paper", **LOW}
    if device == "cpu":
        scale = {"network": "light", "volume": (32, 32, 32), "batch": 2}
    return [
        Case(f"{scale['network']}, {blocks} couplings per level, {name}", num_res_blocks=blocks, **scale, **policy)
        for blocks in (1, 2, 4)
        for name, policy in (("rebuilt", REBUILT), ("checkpointed", CHECKPOINTED), ("stored", STORED))
    ]


def _volume(device: str) -> list[Case]:
    """One volume of increasing size; bookends of stride 2 from 128^3 on."""
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
    least, adamw = {**size, **LEAST}, {**size, **LEAST_ADAMW}
    return [
        *cases,
        Case("paper, 256 x 256 x 192, two levels on the host", "paper", bookend_stride=2, **size, **LOW, **ON_HOST),
        Case("paper, 256 x 256 x 192, bfloat16 weights", "paper", bookend_stride=2, **size, **LOW_BF16),
        Case("paper, 256 x 256 x 192, stride 2, least memory", "paper", bookend_stride=2, **least),
        Case("paper, 256 x 256 x 192, stride 2, all switches", "paper", bookend_stride=2, **least, **ON_HOST),
        Case("paper, 256 x 256 x 192, stride 2, all switches but Muon", "paper", bookend_stride=2, **adamw, **ON_HOST),
        Case("paper, 256 x 256 x 192, stride 1, least memory", "paper", **least),
        Case("paper, 256 x 256 x 192, stride 1, all switches", "paper", **least, **ON_HOST),
        Case("paper, 256 x 256 x 192, stride 1, all switches but Muon", "paper", **adamw, **ON_HOST),
        Case("base, 256 x 256 x 192, stride 1, least memory", "base", **least),
        Case("base, 256 x 256 x 192, stride 1, least memory but Muon", "base", **adamw),
    ]


def _segmentation(device: str) -> list[Case]:
    """Both networks on patches and on whole volumes; on a CPU small ones, as in the study ``segmentation``."""
    patch, whole, stride = (128, 128, 128), (256, 256, 256), 2
    networks: list[tuple[str, dict[str, Any]]] = [("PatchDDM", STORED), ("PatchDDM", CHECKPOINTED)]
    networks += [("base", REBUILT), ("paper", REBUILT)]
    settings: dict[str, Any] = {"batch": 1, "segments": True, **LOW}
    if device == "cpu":
        patch, whole, stride = (16, 16, 16), (32, 32, 32), 1
        networks, settings = [("PatchDDM light", STORED), ("light", REBUILT)], {"batch": 2, "segments": True}
    cases = []
    for network, policy in networks:
        name = f"{network}, {policy['activations']}"
        cases += [
            Case(f"{name}, {patch[0]}^3", network, patch, **settings, **policy),
            Case(f"{name}, {whole[0]}^3", network, whole, bookend_stride=stride, **settings, **policy),
        ]
    return cases


def _optimizer(device: str) -> list[Case]:
    """The switches that save memory, added one after the other: 64^3, batch 4."""
    return [
        Case("stored", "paper", **STORED),
        Case("+ rebuilt", "paper"),
        Case("+ mixed", "paper", precision="mixed"),
        Case("+ fused", "paper", precision="mixed", optimizer="AdamW, fused"),
        Case("+ in backward", "paper", precision="mixed", optimizer="in backward"),
        Case("+ 8-bit states", "paper", **LOW),
        Case("+ bfloat16 weights", "paper", **LOW_BF16),
        Case("+ bfloat16 gradients of streams", "paper", **LEAST_ADAMW),
        Case("+ Muon", "paper", **LEAST),
        Case("+ two levels on the host", "paper", **LEAST, **ON_HOST),
    ]


def _speed(device: str) -> list[Case]:
    """The default of train.yaml, the same network rebuilt in float32, and MONAI's of the same size."""
    low = device == "estimate" or has_bfloat16(torch.device(device))
    default = {"precision": "mixed" if low else "float32", **STORED}  # what "auto" stands for where there is room
    cases = []
    for side, batch in ((32, 2), (64, 1)):
        size: dict[str, Any] = {"volume": (side,) * 3, "batch": batch, "optimizer": "AdamW, fused"}
        cases += [
            Case(f"light, {side}^3, default", "light", **default, **size),
            Case(f"light, {side}^3, rebuilt", "light", **size),
            Case(f"MONAI's UNet, 3M, {side}^3", "MONAI 3M", **size, **STORED),
        ]
    return cases


def _energy(device: str) -> list[Case]:
    """Joules per step, over two minutes as in the paper's figures 4 and 5: 64^3, batch 4."""
    reason = "nothing is run" if device == "estimate" else EnergyMeter(device).reason
    if reason is not None:
        raise ValueError(f"suite energy on {device}: {reason}; use --device cuda, or another suite")
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
    "segmentation": _segmentation,
    "optimizer": _optimizer,
    "speed": _speed,
    "energy": _energy,
}
