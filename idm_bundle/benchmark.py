"""``python -m idm_bundle benchmark``: bytes, FLOPs and seconds of training steps, one JSON object per line.

A row is one case: a network or an operation, forward and backward, at one size. Its keys are fixed, null where a figure
is unknown. Bytes are those of tensors, counted, on a CPU; the allocator's own on CUDA.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from monai_idm.atomic_file import atomic_file
from monai_idm.machine import VERSIONS, device_name
from monai_idm.meters import PeakMemoryMeter, live_bytes
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.branch import ResidualBranch
from monai_idm.reversible import (
    AdditiveCoupling,
    AttentionScale,
    CheckerboardAttention,
    ReversibleOperation,
    ReversibleSequence,
)

__all__ = ["SUITES", "Row", "benchmark"]


@dataclass(frozen=True)
class Row:
    """One line of the benchmark: a step, or, in the suite ``layers``, the moment behind a layer."""

    suite: str
    case: str
    network: str
    parameters: int
    volume: tuple[int, ...]
    batch: int
    precision: str
    activations: str
    optimizer: str | None
    device: str
    estimated: bool
    resident_bytes: int
    peak_bytes: int
    reserved_bytes: int | None
    flops: int | None
    step_s: float | None
    energy_j: float | None
    versions: dict[str, str]


def benchmark(suite: str, device: str = "cpu", file: str | Path | None = None) -> list[Row]:
    """Run a suite, print a table, and write the rows down.

    Args:
        suite: A key of ``SUITES``.
        device: ``"cpu"`` or ``"cuda"``.
        file: To write, one JSON object per line; None: none.
    """
    rows = []
    print(f"{'case':<44} {'activations':<13} {'peak MiB':>10} {'GFLOP':>10} {'s':>9}")
    for row in SUITES[suite](torch.device(device)):
        rows.append(row)
        gflop = "" if row.flops is None else f"{row.flops / 1e9:.2f}"
        mib = f"{row.peak_bytes / 2**20:.1f}"
        seconds = "" if row.step_s is None else f"{row.step_s:.4f}"
        print(f"{row.case:<44} {row.activations:<13} {mib:>10} {gflop:>10} {seconds:>9}", flush=True)
    if file is not None:
        with atomic_file(Path(file)) as unfinished:
            unfinished.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return rows


def _attention(device: torch.device) -> Iterator[Row]:
    """The attention on a skip connection beside a coupling of the same level, with the channels of `light`'s third."""
    for side in (8, 16, 32):
        attention = CheckerboardAttention(AttentionScale(3, 96, 32, 8))
        coupling = AdditiveCoupling(ResidualBranch(3, 64, 128, 8))
        skip, low, half = (torch.randn(1, c, side, side, side) for c in (48, 16, 64))
        cases: list[tuple[str, ReversibleOperation, list[Tensor]]] = [
            ("attention", attention, [skip, skip, low, low]),
            ("coupling", coupling, [half, half]),
        ]
        for name, operation, inputs in cases:
            for activations in ("rebuilt", "stored"):
                chain = ReversibleSequence([operation]).to(device)
                leaves = [x.to(device, copy=True).requires_grad_() for x in inputs]
                embedding = torch.zeros(1, 128, device=device)
                yield _measure(
                    chain,
                    partial(chain, leaves, embedding, activations),
                    suite="attention",
                    case=f"{name}, {side}^3 tokens",
                    network=type(operation).__name__,
                    volume=(side,) * 3,
                    batch=1,
                    precision="float32",
                    activations=activations,
                )


def _depth(device: torch.device) -> Iterator[Row]:
    """`light` at 32^3 with more and more couplings per level."""
    for blocks in (1, 2, 4):
        net = InvertibleDiffusionUNet.from_preset("light", num_res_blocks=blocks).to(device)
        x, t = torch.randn(2, 2, 32, 32, 32, device=device), torch.tensor([10, 1500], device=device)
        for activations in ("rebuilt", "checkpointed", "stored"):
            twin = net.with_activations(activations)
            yield _measure(
                net,
                partial(twin, x, t),
                suite="depth",
                case=f"light, {blocks} couplings per level",
                network="light",
                volume=(32, 32, 32),
                batch=2,
                precision="float32",
                activations=activations,
            )


def _layers(device: torch.device) -> Iterator[Row]:
    """What is alive behind every layer of `light`'s forward pass at 32^3: where activations are stored, it grows."""
    net = InvertibleDiffusionUNet.from_preset("light").to(device)
    x, t = torch.randn(2, 2, 32, 32, 32, device=device), torch.tensor([10, 1500], device=device)
    operations = cast(Iterable[nn.Module], net.core.operations)
    layers = [("entry bookend", net.entry)]
    layers += [(f"{type(o).__name__}, level {n}", o) for n, o in zip(net.levels, operations, strict=True)]
    layers += [("exit bookend", net.exit)]
    for activations in ("rebuilt", "stored"):
        alive = _alive_behind([layer for _, layer in layers], partial(net.with_activations(activations), x, t))
        for i, ((name, layer), current) in enumerate(zip(layers, alive, strict=True)):
            yield Row(
                suite="layers",
                case=f"{i:02d} {name}",
                network="light",
                parameters=sum(p.numel() for p in layer.parameters()),
                volume=(32, 32, 32),
                batch=2,
                precision="float32",
                activations=activations,
                optimizer=None,
                device=device_name(device),
                estimated=False,
                resident_bytes=sum(p.nbytes for p in net.parameters()),
                peak_bytes=current,
                reserved_bytes=None,
                flops=None,
                step_s=None,
                energy_j=None,
                versions=VERSIONS,
            )


def _alive_behind(layers: Sequence[nn.Module], run: Callable[[], Tensor]) -> list[int]:
    """Bytes there are when each layer has run, weights not counted."""
    alive: list[int] = []
    with live_bytes() as memory:
        hooks = [layer.register_forward_hook(lambda *_: alive.append(memory.current_bytes)) for layer in layers]
        y = run()  # held: it holds what is stored
    for hook in hooks:
        hook.remove()
    assert y.requires_grad
    return alive


SUITES: dict[str, Callable[[torch.device], Iterator[Row]]] = {
    "attention": _attention,
    "depth": _depth,
    "layers": _layers,
}


_CPU_ATTENTION = {  # torch's counter knows the attention of CUDA only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda dy, q, k, v, *_, **__: sdpa_backward_flop_count(dy, q, k, v)
    ),
}


def _measure(module: nn.Module, run: Callable[[], Tensor | Sequence[Tensor]], **described: Any) -> Row:
    """One row: memory, FLOPs and the fastest of three steps, each measured by itself."""
    parameters = list(module.parameters())
    device = parameters[0].device

    def step() -> None:
        y = run()
        outputs = [y] if isinstance(y, Tensor) else y
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])

    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        step()
    meter = PeakMemoryMeter(device)
    meter.start(module)
    step()
    peaks = meter.stop()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    peak_gib = peaks["allocated_peak_gib" if device.type == "cuda" else "live_peak_gib"]
    return Row(
        **described,
        parameters=sum(p.numel() for p in parameters),
        optimizer=None,
        device=device_name(device),
        estimated=False,
        resident_bytes=sum(p.nbytes for p in parameters),
        peak_bytes=round(peak_gib * 2**30),
        reserved_bytes=round(peaks["reserved_peak_gib"] * 2**30) if device.type == "cuda" else None,
        flops=counter.get_total_flops() or None,
        step_s=min(seconds),
        energy_j=None,
        versions=VERSIONS,
    )
