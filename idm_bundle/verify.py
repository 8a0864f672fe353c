"""``python -m idm_bundle verify``: do the laws of the reversible engine hold on this machine?

Each law is a number that is measured here, and a limit that it has to keep. Rebuilt activations are compared with
stored ones of the same network in the same run, so that a slow or busy machine changes only the time that it takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idm_bundle.measure import seconds
from monai_idm.atomic_file import write_json
from monai_idm.machine import VERSIONS, device_name
from monai_idm.meters import count_flops, live_bytes
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.bookends import enter
from monai_idm.reversible import true_float32

__all__ = ["Finding", "verify"]

Gradients = dict[str, Tensor]

# the paper's network with a sixteenth of its parameters: the same levels, couplings and attentions, and at the first
# level the same channels per group (in groups of one, the gradient of a bias before the normalisation is only rounding)
PAPER_DEPTH: dict[str, Any] = {
    "channels": (16, 32, 64, 128, 256, 512),
    "num_res_blocks": (2, 2, 2, 2, 3, 2),
    "attention_levels": (False, False, False, True, True, False),
    "num_head_channels": 16,
    "norm_num_groups": 2,
    "embedding_channels": 192,
}
THREE_LEVELS: dict[str, Any] = {
    "channels": (16, 32, 64),
    "attention_levels": (False, True, False),
    "num_head_channels": 12,
    "embedding_channels": 64,
}

EXACT_ON_CUDA = 0.7
"""Limit on exact memory, rebuilt / stored, on CUDA. Attention there is plain products, whose backward pass repeats bit
for bit. Their matrices, tokens by tokens of one attention, are in the peak of both steps, and large in this network."""


@dataclass(frozen=True)
class Finding:
    """One law, measured.

    Attributes:
        law: Statement of the law.
        bar: Largest value that keeps it.
        value: Value that was measured.
    """

    law: str
    bar: float
    value: float

    @property
    def holds(self) -> bool:
        return self.value <= self.bar


def verify(device: str = "cpu", file: str | Path | None = None) -> list[Finding]:
    """Measure every law, print a table, and write it to a file.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        file: JSON file to write, with the machine and the versions; None: no file.
    Returns:
        A finding for each law.
    """
    if device.startswith("cuda"):
        torch.backends.cudnn.deterministic = True  # exactness needs convolutions that repeat bit for bit
    findings = []
    print(f"{'law':<78} {'bar':>9} {'found':>9}")
    for finding in itertools.chain(*(law(torch.device(device)) for law in LAWS)):
        findings.append(finding)
        mark = "" if finding.holds else "  MISSED"
        print(f"{finding.law:<78} {finding.bar:>9.3g} {finding.value:>9.3g}{mark}", flush=True)
    if file is not None:
        write_json(Path(file), _record(device, findings))
    return findings


def _equal_bits(device: torch.device) -> Iterator[Finding]:
    for precision in ("exact", "exact-mixed"):
        unequal = 0
        for seed, size in itertools.product(range(3), ((12, 12, 12), (16, 12, 20))):
            net = _network(device, seed, **THREE_LEVELS, precision=precision)
            rebuilt, stored = (
                _gradients(net, activations, (2, 2, *size), seed) for activations in ("rebuilt", "stored")
            )
            unequal += sum(not torch.equal(rebuilt[name], stored[name]) for name in stored)
        yield Finding(f"{precision}: tensors of gradients that differ, 3 seeds, 2 sizes", 0, unequal)


def _rounding(device: torch.device) -> Iterator[Finding]:
    for precision, bar, worst_bar in (("float32", 1e-5, 1e-5), ("mixed", 2e-2, 1e-1)):
        # bfloat16 convolutions of 2^3 voxels are not reliable on a CPU: with 96 voxels the deepest side is 3
        side = 96 if precision == "mixed" else 64
        net = _network(device, 0, **PAPER_DEPTH, precision=precision)
        rebuilt, stored = (
            _gradients(net, activations, (1, 2, *[side] * 3), 0) for activations in ("rebuilt", "stored")
        )
        yield from _errors(f"{precision}, paper's depth", rebuilt, stored, bar, worst_bar)


def _narrow_gradients(device: torch.device) -> Iterator[Finding]:
    narrow, wide = (
        _gradients(_network(device, 0, **PAPER_DEPTH, gradient_dtype=dtype), "rebuilt", (1, 2, 64, 64, 64), 0)
        for dtype in ("bfloat16", "float32")
    )
    yield from _errors("bfloat16 gradients, paper's depth", narrow, wide, 2e-2, 1e-1)


def _errors(what: str, found: Gradients, expected: Gradients, bar: float, worst_bar: float) -> Iterator[Finding]:
    total = _norm(expected.values())
    even = total / len(expected) ** 0.5
    worst = max(float(_norm([found[n] - g]) / max(_norm([g]), 1e-3 * even)) for n, g in expected.items())
    overall = float(_norm([found[n] - g for n, g in expected.items()]) / total)
    yield Finding(f"{what}: gradient error, all parameters together", bar, overall)
    yield Finding(f"{what}: gradient error, worst parameter", worst_bar, worst)


def _round_trip(device: torch.device) -> Iterator[Finding]:
    net = _network(device, 0, **PAPER_DEPTH)
    x = torch.randn(1, 2, 64, 64, 64, device=device)
    embedding = net.embedding(torch.zeros(1, device=device), None, None)
    with torch.no_grad(), true_float32():
        stream = enter(net.entry, x, "auto", stored=True)
        rebuilt = net.core.inverse(net.core(stream, embedding, "stored"), embedding)
    size, error = (max(float(t.abs().max()) for t in ts) for ts in (stream, map(torch.sub, stream, rebuilt)))
    # rounding, most of it of convolutions, depends on the order in which their kernels add: with weights of four seeds
    # 0.6e-5 to 0.8e-5 on a CPU in contiguous memory, 1.0e-5 to 1.3e-5 with channels last, 1.2e-5 on an H200; with
    # convolutions in float64 0.4e-5
    yield Finding("float32, paper's depth: core, there and back, of its largest value", 2e-5, error / size)


def _memory(device: torch.device) -> Iterator[Finding]:
    shape = (1, 2, 32, 32, 32)
    peaks = {}
    for precision, activations, blocks in itertools.product(
        ("float32", "mixed", "exact"), ("rebuilt", "stored"), (1, 4)
    ):
        net = _network(device, 0, **THREE_LEVELS, num_res_blocks=blocks, precision=precision)
        peaks[precision, activations, blocks] = _peak_above_weights(net.with_activations(activations), shape)
    for precision in ("float32", "mixed", "exact"):
        growth = peaks[precision, "rebuilt", 4] / peaks[precision, "rebuilt", 1] - 1
        yield Finding(f"{precision}: growth of the peak above weights, 1 to 4 couplings per level", 0.01, growth)
    for precision in ("float32", "mixed", "exact"):
        ratio = peaks[precision, "rebuilt", 4] / peaks[precision, "stored", 4]
        bar = EXACT_ON_CUDA if precision == "exact" and device.type == "cuda" else 0.40
        yield Finding(f"{precision}: peak above weights, rebuilt / stored, 4 couplings per level", bar, ratio)
    elements = THREE_LEVELS["channels"][0] * 32**3
    side_bytes = (
        _bytes_between_passes(device, shape, "exact") - _bytes_between_passes(device, shape, "float32")
    ) / elements
    yield Finding("exact: side information, bytes per element of the first level", 4, side_bytes)


def _cost(device: torch.device) -> Iterator[Finding]:
    shape = (2, 2, 32, 32, 32)
    net = _network(device, 0, **THREE_LEVELS, num_res_blocks=4)

    def flops(activations: str) -> int:
        return count_flops(lambda: _step(net.with_activations(activations), shape))

    yield Finding("FLOPs of a step, rebuilt / stored", 1.34, flops("rebuilt") / flops("stored"))
    times: dict[str, list[float]] = {"rebuilt": [], "stored": []}
    for _, activations in itertools.product(range(6), times):  # in turn, so that a busy moment affects both
        twin = net.with_activations(activations)
        times[activations].append(seconds(partial(_step, twin, shape), device))
    ratio = min(times["rebuilt"][1:]) / min(times["stored"][1:])
    yield Finding("time of a step, rebuilt / stored", 1.4 if device.type == "cuda" else 1.5, ratio)


LAWS: tuple[Callable[[torch.device], Iterator[Finding]], ...] = (
    _equal_bits,
    _rounding,
    _narrow_gradients,
    _round_trip,
    _memory,
    _cost,
)


def _network(device: torch.device, seed: int, **arguments: Any) -> InvertibleDiffusionUNet:
    torch.manual_seed(seed)
    net = InvertibleDiffusionUNet(3, 2, 2, **arguments)
    with torch.no_grad():  # away from the initial weights, where branches and attention are zero, and maps identities
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return net.to(device)


def _step(net: nn.Module, shape: tuple[int, ...], seed: int = 0) -> None:
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    x, target = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    t = torch.linspace(3, 1500, shape[0]).long().to(device)
    with true_float32():  # as in training
        nn.functional.mse_loss(net(x, t), target).backward()


def _gradients(net: InvertibleDiffusionUNet, activations: str, shape: tuple[int, ...], seed: int) -> Gradients:
    net.zero_grad()
    _step(net.with_activations(activations), shape, seed)
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def _norm(tensors: Any) -> float:
    return float(torch.stack([t.double().norm() for t in tensors]).norm())


def _peak_above_weights(net: nn.Module, shape: tuple[int, ...]) -> int:
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    with live_bytes() as memory:
        _step(net, shape)
    return memory.peak_bytes


def _bytes_between_passes(device: torch.device, shape: tuple[int, ...], precision: str) -> int:
    """Bytes alive between the forward and the backward pass."""
    net = _network(device, 0, **THREE_LEVELS, num_res_blocks=4, precision=precision)
    x, t = torch.randn(shape, device=device), torch.zeros(shape[0], device=device)
    with live_bytes() as memory:
        y = net(x, t)
        alive = memory.current_bytes
    assert y.requires_grad
    return alive


def _record(device: str, findings: list[Finding]) -> dict[str, Any]:
    return {
        "findings": [{**asdict(finding), "holds": finding.holds} for finding in findings],
        "device": device_name(device),
        "versions": VERSIONS,
    }
