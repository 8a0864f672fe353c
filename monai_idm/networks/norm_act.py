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

from monai_idm.reversible import in_format, is_channels_last, memory_format_of

__all__ = ["NormSiLU"]

_SLICED_VOXELS = 2**19
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
            if torch.compiler.is_compiling():
                return self._unfused(x, shift)
            # the type in which the next convolution computes
            low = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
            function = _Sliced if x.shape[2:].numel() >= _SLICED_VOXELS else _Whole
            return function.apply(x, self.weight, self.bias, shift, self.num_groups, self.eps, dtype)

    def _unfused(self, x: Tensor, shift: Tensor | None) -> Tensor:
        h = nn.functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        if shift is not None:
            h = h + shift.reshape(list(shift.shape) + [1] * (h.dim() - 2))
        return nn.functional.silu(h)


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, dtype):
        h, _, mean, rstd = _normalised(x, weight, bias, shift, groups, eps)
        ctx.save_for_backward(x, weight, bias, shift, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        return nn.functional.silu(h, inplace=True).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift, *statistics = ctx.saved_tensors
        if is_channels_last(x):
            dx, dw, db, dshift = _channels_last_backward(dy, x, weight, bias, shift, *statistics)
        else:
            dx, dw, db, dshift = _backward(dy, x, weight, bias, shift, ctx.groups, ctx.eps)
        return dx.to(x.dtype), dw, db, dshift, None, None, None


class _Sliced(torch.autograd.Function):
    """One group after the other, so that float32 copies of a large volume stay small."""

    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, dtype):
        ctx.save_for_backward(x, weight, bias, shift)
        ctx.groups, ctx.eps = groups, eps
        y = torch.empty_like(x, dtype=dtype, memory_format=memory_format_of(x))
        for c in _groups(x, groups):
            h = _normalised(x[:, c], weight[c], bias[c], None if shift is None else shift[:, c], 1, eps)[0]
            y[:, c] = nn.functional.silu(h, inplace=True)
            del h
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift = ctx.saved_tensors
        dx = torch.empty_like(x, memory_format=memory_format_of(x))
        dw, db, dshift = torch.empty_like(weight), torch.empty_like(bias), None if shift is None else shift.clone()
        for c in _groups(x, ctx.groups):
            shift_ = None if shift is None else shift[:, c]
            dx[:, c], dw[c], db[c], dshift_ = _backward(dy[:, c], x[:, c], weight[c], bias[c], shift_, 1, ctx.eps)
            if dshift is not None:
                dshift[:, c] = dshift_
        return dx, dw, db, dshift, None, None, None


def _normalised(x, weight, bias, shift, groups, eps) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The argument of SiLU, x in the precision of the weights, mean and 1 / deviation."""
    x_ = x.to(weight.dtype)
    x_ = in_format(x_, memory_format_of(x_))
    h, mean, rstd = torch.native_group_norm(x_, weight, bias, *_sizes(x), groups, eps)
    if shift is not None:
        h.add_(_spread(shift, x))
    return h, x_, mean, rstd


def _backward(dy, x, weight, bias, shift, groups, eps) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight, bias and shift."""
    h, x_, mean, rstd = _normalised(x, weight, bias, shift, groups, eps)
    dh = torch.ops.aten.silu_backward(dy.to(h.dtype), h).contiguous()
    del h
    dshift = None if shift is None else dh.flatten(2).sum(2).to(shift.dtype)
    gradients = torch.ops.aten.native_group_norm_backward(dh, x_, mean, rstd, weight, *_sizes(x), groups, [True] * 3)
    return *gradients, dshift


def _channels_last_backward(dy, x, weight, bias, shift, mean, rstd) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The same where channels come last: a few passes that take a third of the time of torch's kernel."""
    groups, space = mean.shape[1], tuple(range(2, x.ndim))
    # numbers of a sample and channel are (B, groups, C / groups), those of a group (B, groups, 1)
    mean, rstd, w = mean[..., None], rstd[..., None], weight.view(groups, -1)
    slope = w * rstd
    offset = bias.view_as(w) - slope * mean
    if shift is not None:
        offset = offset + shift.view_as(offset)
    x_, dy_ = (in_format(t.to(weight.dtype), memory_format_of(x)) for t in (x, dy))
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
    return dx, dw.sum(0).flatten(), db.sum(0).flatten(), None if shift is None else db.flatten(1).to(shift.dtype)


def _spread(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers for each sample and channel in a shape that broadcasts to that of x."""
    return numbers.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2:].numel()


def _groups(x: Tensor, groups: int) -> Iterator[slice]:
    width = x.shape[1] // groups
    return (slice(start, start + width) for start in range(0, x.shape[1], width))
