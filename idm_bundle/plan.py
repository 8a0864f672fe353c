"""``python -m idm_bundle plan``: which networks and volumes fit on a card, before anything is started.

Bytes are estimates, as those of :mod:`monai_idm.networks.plan`, which decides in the training itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from idm_bundle.benchmark import Row, read_rows
from monai_idm.machine import device_name
from monai_idm.meters import EIGHT_BIT_MUON_IN_BACKWARD, MUON, OptimizerBytes, estimate_flops, free_memory_bytes
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.plan import SHARES, StepMemory
from monai_idm.networks.presets import PRESETS

__all__ = ["Option", "Way", "plan"]

_GB = 1e9
_SIZES = ((64, 64, 64), (96, 96, 96), (128, 128, 128), (192, 192, 192), (256, 256, 192))
_STRIDE_2_FROM = 128**3  # voxels, where half the resolution inside is worth its loss of detail
_EPOCHS = 500
_HEADER = (
    f"{'network':8}{'volume':>16}{'stride':>8}{'batch':>7}{'least GB':>10}{'GB':>7}  {'stored levels':15}{'way':24}"
    f"{'TFLOP':>7}"
)


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        name: What the table calls it.
        overlay: Config file on top of train.yaml; None: none.
        optimizer: Memory of its optimizer.
        dtypes: Precision of the network's weights and gradients, which the overlay sets.
        options: Knobs that the command sets besides.
    """

    name: str
    overlay: str | None
    optimizer: OptimizerBytes
    dtypes: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def step_memory(self, preset: str, stride: int, shape: Sequence[int]) -> StepMemory:
        """Memory of a step of a network."""
        how = {"bookend_stride": stride, "precision": "mixed", **self.dtypes}
        with torch.device("meta"):
            network = InvertibleDiffusionUNet.from_preset(preset, **how)
        offload = network.deep_couplings(self.options.get("offload_levels", 0))
        return StepMemory(network, shape, replace(self.optimizer, offload=offload))


_NATIVE = Way(
    "native.yaml",
    "native.yaml",
    EIGHT_BIT_MUON_IN_BACKWARD,
    {"weight_dtype": "bfloat16", "gradient_dtype": "bfloat16"},
)
_WAYS = (  # the fastest and most exact first, that with least memory last
    Way("train.yaml", None, MUON),
    _NATIVE,
    replace(_NATIVE, name="native.yaml, host", options={"offload_levels": 2}),
)


@dataclass(frozen=True)
class Option:
    """A training that may fit on the card.

    Attributes:
        preset: Name of the network.
        size: Voxels per axis.
        stride: ``bookend_stride``.
        batch_size: Samples per step.
        least_bytes: What the card must hold if everything is switched on that saves memory.
        way: The first way that fits; None if none does.
        card_bytes: What the card must hold in this way.
        stored: Number of levels whose activations are stored in this way.
        step_flops: FLOPs of a step in this way.
    """

    preset: str
    size: tuple[int, ...]
    stride: int
    batch_size: int
    least_bytes: float
    way: Way | None = None
    card_bytes: float = 0.0
    stored: int = 0
    step_flops: int = 0

    @property
    def command(self) -> str:
        """The command that starts it; there has to be a way."""
        assert self.way is not None
        configs, options = "bundle/configs/train.yaml", dict(self.way.options)
        if self.way.overlay is not None:  # whose own size needs no zoom, unlike others
            configs, options = f"\"['{configs}','bundle/configs/{self.way.overlay}']\"", {"zoom": "true", **options}
        return (
            f"python -m monai.bundle run training --config_file {configs} --dataset_dir DIR --preset {self.preset} "
            f'--spatial_size "{list(self.size)}" --bookend_stride {self.stride} --batch_size {self.batch_size} '
            + " ".join(f"--{knob} {value}" for knob, value in {"activations": "auto", **options}.items())
        )


def plan(
    card_gb: float | None = None,
    spatial_size: Sequence[int] | None = None,
    preset: str | None = None,
    batch_size: int | None = None,
    cases: int = 369,
    rows: str | Path | None = None,
) -> list[Option]:
    """Print what fits on a card, and the command of the best of it: largest volume, then largest network.

    Args:
        card_gb: GB of the card; None: what is free on the CUDA device that is here.
        spatial_size: Voxels per axis; None: several sizes.
        preset: Name of the network; None: all.
        batch_size: Samples per step; None: 4 at 64^3, else 1.
        cases: Number of training cases, for the days of 500 epochs.
        rows: Rows that ``benchmark`` measured on this card: seconds of a step are FLOPs at the rate of these. None:
            they are not known.
    Raises:
        ValueError: If there is no card and none is given, if a number is out of range or a size does not suit the
            network, or if nothing fits.
    """
    for name, number in (("card_gb", card_gb), ("batch_size", batch_size), ("cases", cases)):
        if number is not None and number <= 0:
            raise ValueError(f"--{name} {number}: it must be above 0")
    budget_bytes, card = _card(card_gb)
    print(f"{card}: {budget_bytes / _GB:.1f} GB, of which the tensors of a step may take {SHARES['cuda']:.0%}")
    rates = _rates(read_rows(rows)) if rows is not None else {}
    print(_HEADER + (f"{'s':>8}{'days':>8}" if rates else ""))
    options = []
    for option in _options(budget_bytes, spatial_size, preset, batch_size):
        options.append(option)
        print(_line(option, rates, cases), flush=True)
    fitting = [option for option in options if option.way is not None]
    if not fitting:
        least = min(options, key=lambda option: option.least_bytes)
        raise ValueError(
            f"nothing of this fits: the least is {least.least_bytes / _GB:.1f} GB, for {least.preset} on "
            f"{_times(least.size)}; take a smaller --spatial_size, or a larger card"
        )
    best = max(fitting, key=lambda option: (prod(option.size), [*PRESETS].index(option.preset), -option.stride))
    print(f"\nThe largest volume, and on it the largest network:\n{best.command}")
    return options


def _card(card_gb: float | None) -> tuple[float, str]:
    """Bytes that are free on the card, and its name."""
    if card_gb is not None:
        return card_gb * _GB, "a card"
    if not torch.cuda.is_available():
        raise ValueError("this PyTorch sees no CUDA device; say how much memory the card has: --card_gb 8")
    return free_memory_bytes("cuda") or 0, f"free on this {device_name('cuda')}"


def _options(
    budget_bytes: float, spatial_size: Sequence[int] | None, preset: str | None, batch_size: int | None
) -> Iterator[Option]:
    """What is asked for, small before large."""
    sizes = _SIZES if spatial_size is None else [tuple(spatial_size)]
    for name in PRESETS if preset is None else [preset]:
        for size in sizes:
            batch = batch_size or (4 if prod(size) <= 64**3 else 1)
            for stride in (2, 1) if prod(size) >= _STRIDE_2_FROM else (1,):
                yield _option(budget_bytes, name, size, stride, batch)


def _option(budget_bytes: float, preset: str, size: tuple[int, ...], stride: int, batch_size: int) -> Option:
    with torch.device("meta"):
        network = InvertibleDiffusionUNet.from_preset(preset, bookend_stride=stride, precision="mixed")
    if any(side < 1 or side % network.divisor for side in size):
        raise ValueError(
            f"--spatial_size {_times(size)}: {preset} with stride {stride} takes multiples of {network.divisor}"
        )
    shape = (batch_size, network.in_channels, *size)
    asked = preset, size, stride, batch_size
    tensor_bytes = SHARES["cuda"] * budget_bytes
    ways = [(way, way.step_memory(preset, stride, shape)) for way in _WAYS]
    least = ways[-1][1].peak_bytes(0) / SHARES["cuda"]
    for way, memory in ways:
        if memory.peak_bytes(0) <= tensor_bytes:
            stored = memory.most_stored(tensor_bytes)
            flops = estimate_flops(network.with_activations(memory.policies(stored)), shape, way.optimizer)
            return Option(*asked, least, way, memory.peak_bytes(stored) / SHARES["cuda"], stored, flops)
    return Option(*asked, least)


def _line(option: Option, rates: dict[str, float], cases: int) -> str:
    start = (
        f"{option.preset:8}{_times(option.size):>16}{option.stride:>8}{option.batch_size:>7}"
        f"{option.least_bytes / _GB:>10.1f}"
    )
    if option.way is None:
        return f"{start}{'':7}  does not fit"
    levels = len(PRESETS[option.preset]["channels"])
    line = f"{start}{option.card_bytes / _GB:>7.1f}  {f'{option.stored} of {levels}':15}{option.way.name:24}"
    line += f"{option.step_flops / 1e12:>7.1f}"
    if option.preset not in rates:
        return line
    step_s = option.step_flops * rates[option.preset]
    return f"{line}{step_s:>8.2f}{_EPOCHS * cases / option.batch_size * step_s / 86400:>8.1f}"


def _rates(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds for each FLOP of a measured step, by network: of the longest step, which waits least for the host."""
    steps = sorted((row.flops, row.network, row.step_s) for row in rows if row.network and row.flops and row.step_s)
    return {network: step_s / flops for flops, network, step_s in steps}


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
