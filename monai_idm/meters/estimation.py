"""Estimates the memory and the FLOPs of a training step without running it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_idm.meters.flops import count_flops
from monai_idm.meters.memory import live_bytes
from monai_idm.meters.optimizer_bytes import OptimizerBytes
from monai_idm.optimizers.muon import is_kernel, orthogonalise_
from monai_idm.optimizers.offload import Offload

__all__ = ["Estimate", "denoising_step", "estimate", "estimate_flops"]


class Estimate(NamedTuple):
    """Memory of a training step.

    Attributes:
        resident_bytes: Weights, buffers and optimizer states, which stay allocated between steps.
        peak_bytes: Maximum at any time, from the image to the optimizer's step, resident bytes included.
    """

    resident_bytes: int
    peak_bytes: int


def estimate(network: nn.Module, shape: Sequence[int], optimizer: OptimizerBytes | None = None) -> Estimate:
    """Count the bytes of one training step on fake tensors, which have a shape and a device but no memory.

    The forward and the backward pass are run; the optimizer's states and temporaries are added by formula.

    Args:
        network: A diffusion network ``net(x, timesteps)``; its weights are neither read nor copied, and may be on the
            device ``"meta"``.
        shape: Shape of its input, ``(B, C, *spatial)``.
        optimizer: Memory of the optimizer; None: AdamW as it runs on CUDA.
    Returns:
        The bytes of tensors only, without scratch memory inside kernels and the allocator's cache, and without what is
        on the host.
    """
    optimizer = optimizer or OptimizerBytes()
    trained = [p for p in network.parameters() if p.requires_grad]
    with FakeTensorMode():
        twin = _fake(network)
        offload = _offload(network, twin, optimizer) if optimizer.offload else None
        on_device = [p for p in twin.parameters() if offload is None or p not in offload]
        states = int(sum(optimizer.state_bytes(p) for p in on_device if p.requires_grad))
        with live_bytes(on_device, [*twin.buffers()]) as memory:
            resident = memory.current_bytes
            if optimizer.in_backward:
                for p in twin.parameters():
                    p.register_post_accumulate_grad_hook(partial(_step, optimizer, offload))
            denoising_step(twin, shape)
            if not optimizer.in_backward:
                together = (sum if optimizer.all_at_once else max)(optimizer.temporary_bytes(p) for p in trained)
                torch.empty(int(together), dtype=torch.uint8)
    return Estimate(resident + states, memory.peak_bytes + states)


def estimate_flops(network: nn.Module, shape: Sequence[int], optimizer: OptimizerBytes | None = None) -> int:
    """Count the FLOPs of one training step on fake tensors; arguments as in :func:`estimate`."""

    def step() -> None:
        denoising_step(twin, shape)
        if optimizer is not None and optimizer.muon:
            for p in twin.parameters():
                if p.requires_grad and is_kernel(p):
                    orthogonalise_(torch.empty(p.flatten(1).shape, dtype=torch.bfloat16))

    with FakeTensorMode():
        twin = _fake(network)
        return count_flops(step)


def denoising_step(network: nn.Module, shape: Sequence[int]) -> None:
    """Run a forward and a backward pass on noise, with the tensors that a trainer holds during a step.

    Args:
        network: A diffusion network ``net(x, timesteps)``, trained to predict the noise. If it has classes
            (``num_class_embeds``), the first one is used.
        shape: Shape of its input, ``(B, C, *spatial)``.
    """
    weight = next(network.parameters())
    image, noise = (torch.randn(tuple(shape), device=weight.device) for _ in range(2))
    noisy = image + noise
    timesteps = torch.zeros(shape[0], dtype=torch.long, device=weight.device)
    classes = {} if getattr(network, "num_class_embeds", None) is None else {"class_labels": timesteps}
    prediction = network(noisy, timesteps, **classes)
    # clone: torch's loss keeps memory as large as the prediction, which fake tensors do not show
    nn.functional.mse_loss(prediction, noise[:, : prediction.shape[1]]).clone().backward()


def _offload(network: nn.Module, twin: nn.Module, optimizer: OptimizerBytes) -> Offload:
    """What keeps a part of the fake network on a host, with fake states."""
    twins = dict(zip(network.modules(), twin.modules(), strict=True))
    modules = [twins[module] for module in optimizer.offload]
    states: dict[Tensor, dict[str, Any]] = {
        p: {"states": torch.empty(int(optimizer.state_bytes(p)), dtype=torch.uint8)}
        for module in modules
        for p in module.parameters()
    }
    return Offload(modules, states.__getitem__)


def _step(optimizer: OptimizerBytes, offload: Offload | None, p: Tensor) -> None:
    offload = offload if offload is not None and p in offload else None
    if offload is not None:
        offload.fetch(p)
    torch.empty(int(optimizer.temporary_bytes(p)), dtype=torch.uint8)
    p.grad = None
    if offload is not None:
        torch.autograd.graph.increment_version(p)
        offload.put_back(p)


def _fake(network: nn.Module) -> nn.Module:
    """A copy whose tensors are fake; call it in a FakeTensorMode."""

    device = next(network.parameters()).device  # what is offloaded is on the host

    def like(tensor: Tensor) -> Tensor:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu" if tensor.is_meta else device)
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake

    tensors: list[Tensor] = [*network.parameters(), *network.buffers()]
    for module in network.modules():  # MONAI's attention holds tensors that are neither parameters nor buffers
        tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(network, {id(t): like(t) for t in tensors})  # deepcopy keeps what is in the memo
