r"""GroupNorm, a shift and SiLU as one function that keeps only its input for the backward pass.

.. math:: y = \mathrm{silu}(\gamma \, (x - \mu_g) / \sigma_g + \beta + s)

With torch's layers, three tensors of the input's size would be kept for the backward pass, two of them in float32;
around a bfloat16 convolution that is most of a branch's working memory. Recomputing them costs little compared with a
convolution. Statistics are computed in float32, on every device and under autocast.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_idm.reversible import is_channels_last, memory_format_of

__all__ = ["NormSiLU"]

_SLICED_VOXELS = 2**20
"""Voxels from which on one group is processed at a time, so that float32 copies of large volumes stay small."""


class NormSiLU(nn.GroupNorm):
    """SiLU of a group normalisation plus an optional shift per channel.

    Args:
        num_groups: Number of groups; must divide ``num_channels``.
        num_channels: C, the number of channels.
    Shape: ``(B, C, *spatial)``, with or without a shift ``(B, C)``, to ``(B, C, *spatial)``.
    """

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            return self._unfused(x, shift)
        else:
            if torch.compiler.is_exporting():
                return self._unfused(x, shift)
            # the type in which the next convolution computes
            low = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
            whole = is_channels_last(x) and x.shape[2:].numel() < _SLICED_VOXELS
            function = _ChannelsLast if whole else _NormSiLU
            return function.apply(x, self.weight, self.bias, shift, self.num_groups, self.eps, dtype)

    def _unfused(self, x: Tensor, shift: Tensor | None) -> Tensor:
        h = nn.functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        if shift is not None:
            h = h + shift.reshape(list(shift.shape) + [1] * (h.dim() - 2))
        return nn.functional.silu(h)


class _NormSiLU(torch.autograd.Function):
    """By torch's kernels, which are fastest where the voxels of a channel lie next to each other."""

    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, dtype):
        ctx.save_for_backward(x, weight, bias, shift)
        ctx.groups, ctx.eps = groups, eps
        y = torch.empty_like(x, dtype=dtype, memory_format=memory_format_of(x))
        for c, n in _slices(x, groups):
            y[:, c] = nn.functional.silu(_normalised(x, weight, bias, shift, c, n, eps)[0], inplace=True)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift = ctx.saved_tensors
        dx = torch.empty_like(x, memory_format=memory_format_of(x))
        dw, db, dshift = torch.empty_like(weight), torch.empty_like(bias), None if shift is None else shift.clone()
        for c, n in _slices(x, ctx.groups):
            h, x_, mean, rstd = _normalised(x, weight, bias, shift, c, n, ctx.eps)
            dh = torch.ops.aten.silu_backward(dy[:, c].to(h.dtype), h)
            del h
            if dshift is not None:
                dshift[:, c] = dh.flatten(2).sum(2)
            dx[:, c], dw[c], db[c] = torch.ops.aten.native_group_norm_backward(
                dh.contiguous(), x_, mean, rstd, weight[c], *_sizes(x_), n, [True, True, True]
            )
        return dx, dw, db, dshift, None, None, None


class _ChannelsLast(torch.autograd.Function):
    """Where the channels of a voxel lie next to each other: torch's backward kernel would take 2 to 3 times as long."""

    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, dtype):
        x_ = x.to(weight.dtype)
        h, mean, rstd = torch.native_group_norm(x_, weight, bias, *_sizes(x), groups, eps)
        ctx.save_for_backward(x, weight, bias, shift, mean, rstd)
        if shift is not None:
            h.add_(_spread(shift, x))
        return nn.functional.silu(h, inplace=True).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift, mean, rstd = ctx.saved_tensors
        groups, space = mean.shape[1], tuple(range(2, x.ndim))
        # numbers of a sample and channel are (B, groups, C / groups), those of a group (B, groups, 1)
        mean, rstd, w = mean[..., None], rstd[..., None], weight.view(groups, -1)
        slope = w * rstd
        offset = bias.view_as(w) - slope * mean
        if shift is not None:
            offset = offset + shift.view_as(offset)
        x_, dy_ = x.to(weight.dtype), dy.to(weight.dtype).contiguous(memory_format=memory_format_of(x))
        h = torch.addcmul(_spread(offset, x), x_, _spread(slope, x))
        dh = torch.ops.aten.silu_backward(dy_, h)
        db, dot = dh.sum(space).view_as(slope), torch.mul(dh, x_, out=h).sum(space).view_as(slope)
        dw = (dot - mean * db) * rstd
        # dx = rstd (w dh - m(w dh) - n m(w dh n)) with n = (x - mean) rstd and m, the mean over a group
        count = x[0, 0].numel() * w.shape[1]
        by_x = (w * dw).sum(2, keepdim=True) * rstd.square() / -count
        rest = (w * db).sum(2, keepdim=True) * rstd / -count - by_x * mean
        dx = torch.addcmul(_spread(rest.expand_as(slope), x), x_, _spread(by_x.expand_as(slope), x), out=h)
        dx.addcmul_(dh, _spread(slope, x))
        dshift = None if shift is None else db.flatten(1).to(shift.dtype)
        return dx.to(x.dtype), dw.sum(0).flatten(), db.sum(0).flatten(), dshift, None, None, None


def _spread(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers for each sample and channel in a shape that broadcasts to that of x."""
    return numbers.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def _normalised(x, weight, bias, shift, c, groups, eps) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For a slice of channels: the argument of SiLU, x in the precision of the weights, mean and 1 / deviation."""
    x_ = x[:, c].to(weight.dtype).contiguous()
    h, mean, rstd = torch.native_group_norm(x_, weight[c], bias[c], *_sizes(x_), groups, eps)
    if shift is not None:
        h.add_(_spread(shift[:, c], x_))
    return h, x_, mean, rstd


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2:].numel()


def _slices(x: Tensor, groups: int) -> Iterator[tuple[slice, int]]:
    """Slices of channels to process together, each with its number of groups."""
    groups_per_slice = 1 if x.shape[2:].numel() >= _SLICED_VOXELS else groups
    width = x.shape[1] // groups * groups_per_slice
    return ((slice(start, start + width), groups_per_slice) for start in range(0, x.shape[1], width))
