"""Parts of a network: single operations, layer after layer, and sampling. No optimizer takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from idm_bundle.benchmark.row import Row
from idm_bundle.measure import peaks, seconds
from monai_idm.machine import device_name
from monai_idm.meters import count_flops, live_bytes
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.branch import ResidualBranch
from monai_idm.networks.norm_act import NormSiLU
from monai_idm.networks.presets import PRESETS
from monai_idm.reversible import (
    AdditiveCoupling,
    AttentionScale,
    CheckerboardAttention,
    OrthogonalMixing,
    ReversibleOperation,
    ReversibleSequence,
)

__all__ = ["OPERATION_SUITES"]


def _attention(device: str) -> Iterator[Row]:
    """The attention on a skip connection, and a coupling of the same level; channels of `light`'s third level."""
    for side in (8, 16, 32):
        for name in ("attention", "coupling"):
            for activations in ("rebuilt", "stored"):
                with _on(device):  # the block must not span the yield
                    row = _measure(
                        *_operation(name, side, activations),
                        suite="attention",
                        case=f"{name}, {side}^3 tokens, {activations}",
                        network="CheckerboardAttention" if name == "attention" else "AdditiveCoupling",
                        volume=(side,) * 3,
                        batch=1,
                        precision="float32",
                        activations=activations,
                        estimated=device == "estimate",
                    )
                yield row


def _operation(name: str, side: int, activations: str) -> tuple[nn.Module, Callable]:
    operation: ReversibleOperation
    channels: tuple[int, ...]
    if name == "attention":
        operation, channels = CheckerboardAttention(AttentionScale(3, 96, 32, 8)), (48, 48, 16, 16)
    else:
        operation, channels = AdditiveCoupling(ResidualBranch(3, 64, 128, 8)), (64, 64)
    chain = ReversibleSequence([operation])
    leaves = [torch.randn(1, c, side, side, side).requires_grad_() for c in channels]
    return chain, partial(chain, leaves, torch.zeros(1, 128), activations)


def _kernels(device: str) -> Iterator[Row]:
    """Where the time of a step goes: convolutions and normalisations of the paper's first level, and its matrices."""
    size, channels = ((4, 32, 16, 16, 16), 64) if device == "cpu" else ((4, 32, 64, 64, 64), 1024)
    kernels = [(name, precision) for name in KERNELS for precision in ("float32", "mixed")]
    for name, precision in [*kernels, ("orthogonal matrix", "float32")]:
        with _on(device):  # the block must not span the yield
            module, run = _matrix(channels) if name == "orthogonal matrix" else _kernel(name, precision, size)
            row = _measure(
                module,
                run,
                suite="kernels",
                case=f"{name}, {precision}",
                network=type(module).__name__,
                volume=size[2:],
                batch=size[0],
                precision=precision,
                activations="stored",
                estimated=device == "estimate",
            )
        yield row


KERNELS: dict[str, Callable[[], nn.Module]] = {
    "Conv3d": partial(nn.Conv3d, 32, 32, 3, padding=1),
    "Conv3d, channels last": partial(nn.Conv3d, 32, 32, 3, padding=1),
    "NormSiLU": partial(NormSiLU, 8, 32),
    "GroupNorm and SiLU": lambda: nn.Sequential(nn.GroupNorm(8, 32), nn.SiLU()),
}


def _kernel(name: str, precision: str, size: tuple[int, ...]) -> tuple[nn.Module, Callable[[], Tensor]]:
    memory_format = torch.channels_last_3d if name.endswith("channels last") else torch.contiguous_format
    module = KERNELS[name]()
    x = torch.randn(size).to(memory_format=memory_format).requires_grad_()

    def run() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "mixed"):
            return module(x)

    return module, run


def _matrix(channels: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    mixing = OrthogonalMixing(channels)
    return mixing, lambda: mixing.condition(mixing.generator)[0]


def _layers(device: str) -> Iterator[Row]:
    """Bytes alive after each layer of `light`'s forward pass at 32^3: they grow where activations are stored."""
    with _on(device):
        net = InvertibleDiffusionUNet.from_preset("light")
        x, t = torch.randn(2, 2, 32, 32, 32), torch.tensor([10, 1500])
        operations = cast(Iterable[nn.Module], net.core.operations)
        layers = [("entry bookend", net.entry)]
        layers += [(f"{type(o).__name__}, level {n}", o) for n, o in zip(net.levels, operations, strict=True)]
        layers += [("exit bookend", net.exit)]
        modules = [layer for _, layer in layers]
        alive = {a: _alive_after(modules, partial(net.with_activations(a), x, t)) for a in ("rebuilt", "stored")}
    for activations, bytes_ in alive.items():
        for i, ((name, layer), current) in enumerate(zip(layers, bytes_, strict=True)):
            yield Row(
                suite="layers",
                case=f"{i:02d} {name}",
                network="light",
                parameters=sum(p.numel() for p in layer.parameters()),
                volume=(32, 32, 32),
                batch=2,
                precision="float32",
                activations=activations,
                device=_name(device),
                estimated=device == "estimate",
                resident_bytes=sum(p.nbytes for p in net.parameters()),
                peak_bytes=current,
            )


def _sampling(device: str) -> Iterator[Row]:
    """One pass of a network in sampling, without gradients; also of a network of level 0 alone, with one coupling."""
    sizes: list[tuple[str, tuple[int, ...], int]] = [("paper", (64, 64, 64), 1), ("paper", (256, 256, 192), 2)]
    if device == "cpu":
        sizes = [("light", (32, 32, 32), 1), ("light", (64, 64, 64), 1)]
    for preset, volume, stride in sizes:
        name = f"{preset}, {' x '.join(map(str, volume))}"
        alone = {"channels": PRESETS[preset]["channels"][:1], "attention_levels": (False,), "num_res_blocks": 1}
        for case, changes in ((name, {}), (f"{name}, level 0 alone", alone)):
            with _on(device):  # the block must not span the yield
                net = InvertibleDiffusionUNet.from_preset(preset, bookend_stride=stride, **changes)
                row = _pass(net, case, preset, volume, estimated=device == "estimate")
            yield row


OPERATION_SUITES: dict[str, Callable[[str], Iterator[Row]]] = {
    "kernels": _kernels,
    "attention": _attention,
    "layers": _layers,
    "sampling": _sampling,
}


def _pass(net: InvertibleDiffusionUNet, case: str, preset: str, volume: tuple[int, ...], estimated: bool) -> Row:
    x, t = torch.randn(1, net.in_channels, *volume), torch.tensor([10])
    resident = sum(p.nbytes for p in net.parameters())

    @torch.no_grad()
    def run() -> None:
        net(x, t)

    return Row(
        suite="sampling",
        case=case,
        network=preset,
        parameters=sum(p.numel() for p in net.parameters()),
        volume=volume,
        batch=1,
        precision=net.precision,
        activations="none",
        device="estimate" if estimated else device_name(x.device),
        estimated=estimated,
        **peaks(run, x.device, net, x),  # type: ignore[arg-type]
        resident_bytes=resident,
    )


def _alive_after(layers: Sequence[nn.Module], run: Callable[[], Tensor]) -> list[int]:
    """Bytes alive after each layer, without the weights."""
    alive: list[int] = []
    with live_bytes() as memory:
        hooks = [layer.register_forward_hook(lambda *_: alive.append(memory.current_bytes)) for layer in layers]
        y = run()  # kept alive, because it keeps the stored activations alive
    for hook in hooks:
        hook.remove()
    assert y.requires_grad
    return alive


def _measure(module: nn.Module, run: Callable[[], Tensor | Sequence[Tensor]], estimated: bool, **described: Any) -> Row:
    """One row: memory, FLOPs and the fastest of three steps, each measured separately."""
    parameters = list(module.parameters())
    device = parameters[0].device

    def step() -> None:
        y = run()
        outputs = [y] if isinstance(y, Tensor) else y
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])

    step()  # gradients of the parameters and, on CUDA, the libraries' workspaces exist from now on
    measured = peaks(step, device, module)
    step_s = None if estimated else min(seconds(step, device) for _ in range(3))
    return Row(
        **described,
        **measured,  # type: ignore[arg-type]
        parameters=sum(p.numel() for p in parameters),
        device="estimate" if estimated else device_name(device),
        estimated=estimated,
        resident_bytes=sum(p.nbytes for p in parameters),
        flops=count_flops(step) or None,  # last: torch's counter needs memory that would stay in the allocator's cache
        step_s=step_s,
    )


@contextmanager
def _on(device: str) -> Iterator[None]:
    """Inside the block, new tensors are created on the device, or are fake for an estimate."""
    with FakeTensorMode() if device == "estimate" else torch.device(device):
        yield


def _name(device: str) -> str:
    return "estimate" if device == "estimate" else device_name(device)
