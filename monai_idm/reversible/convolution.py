"""A 3D convolution around two faults of a CPU's convolutions.

oneDNN's gradient of the weights is wrong, and often infinite, where a CPU with AVX-512 convolves volumes of two voxels
along the first axis in bfloat16 (kernel 3, padding 1; seen with torch 2.11 and 2.13, oneDNN 3.12). With a plane of
zeros behind the volume, and its output cut off, the result is the same and the gradient is right.

torch does not use oneDNN for a single small volume in float32, but a kernel that takes two to ten times as long. Here
oneDNN is called directly; the backward pass, which cannot be, gets a second volume of zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_idm.reversible.memory_format import memory_format_of

__all__ = ["convolution"]

_SMALL = 20480
"""Channels times voxels of the first two axes up to which torch takes its own kernel."""


class _Conv3d(nn.Conv3d):
    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102 # alone: what is in it is not scripted
            if input.device.type == "cpu" and not torch.compiler.is_compiling():
                if self.stride[0] == 1 and _is_wrong(input):
                    longer = nn.functional.pad(input, (0, 0, 0, 0, 0, 1))
                    y = self._conv_forward(longer, self.weight, self.bias)
                    return y[:, :, :2].contiguous(memory_format=memory_format_of(y))
                if self.groups == 1 and _is_slow(input):
                    return _OneDNN.apply(input, self.weight, self.bias, self.stride, self.padding, self.dilation)
        return self._conv_forward(input, self.weight, self.bias)


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, *geometry):
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.has_bias = geometry, bias is not None
        stride, padding, dilation = geometry
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad
        dy, x = (torch.cat([t, torch.zeros_like(t)]) for t in (dy, x))
        dx, dw, db = torch.ops.aten.convolution_backward(
            dy, x, weight, [len(weight)], *ctx.geometry, False, [0, 0, 0], 1, [*needed[:2], ctx.has_bias and needed[2]]
        )
        return None if dx is None else dx[:1], dw, db, None, None, None


def convolution(spatial_dims: int) -> Any:
    """torch's class of convolutions, but right in bfloat16 and fast with a single small volume on a CPU too.

    Args:
        spatial_dims: 2 or 3.
    """
    return nn.Conv2d if spatial_dims == 2 else _Conv3d


def _is_wrong(x: Tensor) -> bool:
    return x.shape[2] == 2 and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))


def _is_slow(x: Tensor) -> bool:
    return (
        x.shape[0] == 1
        and x.shape[1:4].numel() <= _SMALL
        and x.dtype == torch.float32
        and type(x) is Tensor  # oneDNN takes no fake tensors
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )
