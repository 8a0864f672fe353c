"""Step the kernel of a convolution by Muon, in whichever memory format, sharded or whole, with its state as a tensor or
in 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from monai_idm.distributed import distribute_like, from_local, to_local
from monai_idm.optimizers.momentum import CODES, EightBitMomentum, FullMomentum, Momentum, dequantize
from monai_idm.optimizers.muon import muon_step

__all__ = ["kernel_step"]

_MOMENTUM = "momentum_buffer"  # name of the state that is a tensor


@torch.no_grad()
def kernel_step(
    weights: Tensor,
    gradient: Tensor,
    group: Mapping[str, Any],
    state: dict[str, Any],
    eight_bit: bool = False,
    norm: Tensor | None = None,
    skip: Tensor | None = None,
    rounding: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Step a single kernel.

    If it is sharded, every process steps the full kernel: all must call this.

    Args:
        weights: The kernel, changed in place.
        gradient: Its gradient.
        group: Settings of its parameter group; ``lr``, ``weight_decay`` and ``lambda_l2`` are read.
        state: Its state, changed in place.
        eight_bit: Whether the state takes a byte per weight.
        norm: Norm of the weights, needed if ``group["lambda_l2"]`` is not 0.
        skip: A boolean on the device: true leaves weights and state as they are. The host does not wait for it.
        rounding: What becomes of float32 weights before they are written; needed if weights are bfloat16.
    """
    sharded = hasattr(weights, "full_tensor")
    # a shard is rounded after the step, by its own process; a whole kernel is rounded part by part during the step
    matrix = _whole(weights.float() if sharded and rounding is not None else weights.detach()).flatten(1).contiguous()
    momentum, full = _momentum(gradient, state, eight_bit, torch.promote_types(weights.dtype, torch.float32))

    def regularised(gradient: Tensor, weights: Tensor) -> Tensor:
        assert norm is not None
        return torch.addcdiv(gradient, weights, norm, value=group["lambda_l2"])

    muon_step(
        matrix,
        _whole(gradient).flatten(1).contiguous(),
        momentum,
        group["lr"],
        group["weight_decay"],
        skip,
        regularised if group["lambda_l2"] else None,
        None if sharded else rounding,
    )
    if isinstance(momentum, FullMomentum) and full is not None:
        _write(momentum.values, full)
        if eight_bit:
            shard = to_local(full).flatten()
            EightBitMomentum(state, len(shard), shard.device).write(slice(0, len(shard)), shard, skip)
    _write(matrix, weights.detach(), rounding if sharded else None)


def _momentum(
    gradient: Tensor, state: dict[str, Any], eight_bit: bool, precision: torch.dtype
) -> tuple[Momentum, Tensor | None]:
    """The state of the full kernel, and the tensor of the kernel's shape to which to write it."""
    if eight_bit and not hasattr(gradient, "full_tensor"):
        return EightBitMomentum(state, gradient.numel(), gradient.device), None
    zeros = partial(torch.zeros_like, gradient, dtype=precision, memory_format=torch.preserve_format)
    if eight_bit:
        full = from_local(dequantize(state).view(to_local(gradient).shape), gradient) if CODES in state else zeros()
    else:
        if _MOMENTUM not in state:
            state[_MOMENTUM] = zeros()
        full = state[_MOMENTUM]
    return FullMomentum(_whole(full).flatten().contiguous()), full


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _write(values: Tensor, kernel: Tensor, rounding: Callable[[Tensor], Tensor] | None = None) -> None:
    """Write values back to a kernel, unless they share its memory."""
    shard = to_local(distribute_like(values.view(kernel.shape), kernel))
    if shard.data_ptr() != to_local(kernel).data_ptr():
        to_local(kernel).copy_(shard if rounding is None else rounding(shard))
