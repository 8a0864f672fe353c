r"""GroupNorm, a shift and SiLU as one function, which keeps nothing but its input for the backward pass.

.. math:: y = \mathrm{silu}(\gamma \, (x - \mu_g) / \sigma_g + \beta + s)

Written with torch's layers, backward would keep three tensors of the input's size, two of them in float32; around a
bfloat16 convolution that is most of what a branch needs while it runs. Recomputing them costs little beside a
convolution. Statistics are taken in float32, on every device and under autocast.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_idm.reversible import AUTO_VOXELS

__all__ = ["NormSiLU"]


class NormSiLU(nn.GroupNorm):
    """SiLU of a group normalisation, to which something may have been added.

    Args:
        num_groups: Must divide ``num_channels``.
        num_channels: C.
    Shape: ``(B, C, *spatial)`` and a shift ``(B, C)``, or none, to ``(B, C, *spatial)``.
    """

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            return self._plain(x, shift)
        else:
            if torch.compiler.is_exporting():
                return self._plain(x, shift)
            # what the convolution behind it will ask for
            low = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
            return _NormSiLU.apply(x, self.weight, self.bias, shift, self.num_groups, self.eps, dtype)

    def _plain(self, x: Tensor, shift: Tensor | None) -> Tensor:
        h = nn.functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        if shift is not None:
            h = h + shift.reshape(list(shift.shape) + [1] * (h.dim() - 2))
        return nn.functional.silu(h)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, dtype):
        ctx.save_for_backward(x, weight, bias, shift)
        ctx.groups, ctx.eps = groups, eps
        y = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
        for c, few in _slices(x, groups):
            y[:, c] = nn.functional.silu(_normalised(x, weight, bias, shift, c, few, eps)[0], inplace=True)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift = ctx.saved_tensors
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        dw, db, dshift = torch.empty_like(weight), torch.empty_like(bias), None if shift is None else shift.clone()
        for c, few in _slices(x, ctx.groups):
            h, x_, mean, rstd = _normalised(x, weight, bias, shift, c, few, ctx.eps)
            dh = torch.ops.aten.silu_backward(dy[:, c].to(h.dtype), h)
            del h
            if dshift is not None:
                dshift[:, c] = dh.flatten(2).sum(2)
            dx[:, c], dw[c], db[c] = torch.ops.aten.native_group_norm_backward(
                dh, x_, mean, rstd, weight[c], *_sizes(x_), few, [True, True, True]
            )
        return dx, dw, db, dshift, None, None, None


def _normalised(x, weight, bias, shift, c, groups, eps) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The argument of SiLU on some channels, those of x in the precision of the weights, and their statistics."""
    x_ = x[:, c].to(weight.dtype).contiguous()
    h, mean, rstd = torch.native_group_norm(x_, weight[c], bias[c], *_sizes(x_), groups, eps)
    if shift is not None:
        h.add_(shift[:, c].reshape(*x_.shape[:2], *[1] * (x.ndim - 2)))
    return h, x_, mean, rstd


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2:].numel()


def _slices(x: Tensor, groups: int) -> Iterator[tuple[slice, int]]:
    """Channels at a time, and their groups: in large volumes one group, so that float32 copies stay small."""
    few = 1 if x.shape[2:].numel() >= AUTO_VOXELS else groups
    width = x.shape[1] // groups * few
    return ((slice(start, start + width), few) for start in range(0, x.shape[1], width))
