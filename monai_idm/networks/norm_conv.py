"""A convolution of normalised channels which, of large volumes, keeps no normalised copy for the backward pass.

A convolution needs its input again for the gradient of its kernel. To normalise that input once more takes a few
percent of the time of the convolution; to keep it takes as much memory as the convolution's output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from monai_idm.networks import norm_act
from monai_idm.networks.norm_act import NormSiLU

__all__ = ["norm_conv"]


def norm_conv(norm: NormSiLU, conv: Any, *parts: Tensor, shift: Tensor | None = None) -> Tensor:
    """``conv(norm(x, shift))``.

    Args:
        norm: The normalisation.
        conv: The convolution.
        parts: x, or the two halves of its channels (then without a shift), ``(B, C, *spatial)``.
        shift: Shift per channel, ``(B, C)``.
    """
    large = parts[0].shape[2:].numel() >= norm_act.LARGE_VOXELS and norm.num_groups % len(parts) == 0
    if not large or not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return conv(norm(*parts, shift) if len(parts) == 1 else norm.joined(*parts))

    def of_part(x: Tensor, shift: Tensor | None, scale: Tensor, offset: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        h = norm.fused(x, scale, offset, shift, norm.num_groups // len(parts))
        return functional_call(conv, {"weight": kernel, "bias": bias}, (h,))

    # all weights are arguments: when the backward pass recomputes, those of the modules may be others
    scales, offsets = norm.weight.chunk(len(parts)), norm.bias.chunk(len(parts))
    kernels, biases = conv.weight.chunk(len(parts), 1), (conv.bias, torch.zeros_like(conv.bias))
    total = None
    for part, *weights in zip(parts, scales, offsets, kernels, biases, strict=False):
        # recomputing stops before the convolution, as soon as its input is there
        y = checkpoint(of_part, part, shift, *weights, use_reentrant=False, preserve_rng_state=False)
        total = y if total is None else total + y
    assert total is not None
    return total
