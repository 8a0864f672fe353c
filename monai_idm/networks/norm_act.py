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
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from monai_idm.reversible import in_format, is_channels_last, memory_format_of, voxel_rows

__all__ = ["NormSiLU"]

_SLICED_VOXELS = 2**19
"""Voxels from which on one group is processed at a time, so that float32 copies of large volumes stay small."""

_LONG_GROUP = 2**16
"""Values of a group from which on torch's CUDA kernel for their mean, one block of threads for a group, takes longer
(43 microseconds for so many on an H200) than several kernels that use all of the GPU."""


_CACHED_VOXELS = 2**13
"""Voxels that are summed at a time where channels come last: half a megabyte at 16 channels."""


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
        h, mean, rstd = _normalised(x, weight, bias, shift, groups, eps)
        ctx.save_for_backward(x, weight, bias, shift, mean, rstd)
        return nn.functional.silu(h, inplace=True).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, *others = ctx.saved_tensors
        dx, dw, db, dshift = _backward(dy, x, *others)
        return dx.to(x.dtype), dw, db, dshift, None, None, None


class _Sliced(torch.autograd.Function):
    """One group after the other, so that float32 copies of a large volume stay small."""

    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, dtype):
        y = torch.empty_like(x, dtype=dtype, memory_format=memory_format_of(x))
        statistics = []
        for c in _groups(x, groups):
            h, *found = _normalised(x[:, c], weight[c], bias[c], None if shift is None else shift[:, c], 1, eps)
            y[:, c] = nn.functional.silu(h, inplace=True)
            del h
            statistics.append(found)
        mean, rstd = (torch.stack(found) for found in zip(*statistics, strict=True))
        ctx.save_for_backward(x, weight, bias, shift, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift, mean, rstd = ctx.saved_tensors
        dx = torch.empty_like(x, memory_format=memory_format_of(x))
        dw, db, dshift = torch.empty_like(weight), torch.empty_like(bias), None if shift is None else shift.clone()
        for c, m, r in zip(_groups(x, len(mean)), mean, rstd, strict=True):
            shift_ = None if shift is None else shift[:, c]
            dx[:, c], dw[c], db[c], dshift_ = _backward(dy[:, c], x[:, c], weight[c], bias[c], shift_, m, r)
            if dshift is not None:
                dshift[:, c] = dshift_
        return dx, dw, db, dshift, None, None, None


def _normalised(x, weight, bias, shift, groups, eps) -> tuple[Tensor, Tensor, Tensor]:
    """The argument of SiLU, in the precision of the weights, mean and 1 / deviation of each group."""
    x_ = _in_precision(x, weight)
    if is_channels_last(x_):
        variance, mean = _moments_of_rows(x_, groups)
    elif _is_long_on_cuda(x, x[0].numel() // groups, _LONG_GROUP):
        values = x_.unflatten(1, (groups, -1))
        variance, mean = torch.var_mean(values, tuple(range(2, values.ndim)), correction=0)
    else:
        h, mean, rstd = torch.native_group_norm(x_, weight, bias, *_sizes(x), groups, eps)
        return h if shift is None else h.add_(_spread(shift, x)), mean, rstd
    rstd = (variance + eps).rsqrt()
    return _argument(x_, *_slope_and_offset(weight, bias, shift, mean, rstd)), mean, rstd


def _moments_of_rows(x, groups) -> tuple[Tensor, Tensor]:
    """Variance and mean of each group, ``(B, groups)``, where channels come last.

    torch's kernel for this format sums squares, not squared differences from the mean: at 64^3 a deviation is wrong by
    1e-4, by 3e-2 where the mean is 30 times as large. Here parts that fit into the cache are read twice.
    """
    rows = voxel_rows(x).unflatten(0, (len(x), -1))
    # an estimate has no cache, and its time is that of the number of operations
    voxels = max(_CACHED_VOXELS, rows.shape[1] // 32) if isinstance(x, FakeTensor) else _CACHED_VOXELS
    parts = rows.split(voxels, 1)
    means = [part.mean(1) for part in parts]
    variances = [(part - mean[:, None]).square_().mean(1) for part, mean in zip(parts, means, strict=True)]
    variance, mean = variances[0], means[0]
    if len(parts) > 1:
        weights = x.new_tensor([part.shape[1] / parts[0].shape[1] for part in parts])[:, None, None]
        weights /= weights.sum()
        of_parts = torch.stack(means)
        mean = (weights * of_parts).sum(0)
        variance = (weights * (torch.stack(variances) + (of_parts - mean).square())).sum(0)
    variance, mean = (t.unflatten(1, (groups, -1)) for t in (variance, mean))
    of_group = mean.mean(2)
    return (variance + (mean - of_group[..., None]).square()).mean(2), of_group


def _backward(dy, x, weight, bias, shift, mean, rstd) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight, bias and shift."""
    if is_channels_last(x) or _is_long_on_cuda(x, x[0, 0].numel(), _SLICED_VOXELS):
        return _backward_by_sums(dy, x, weight, bias, shift, mean, rstd)
    x_ = _in_precision(x, weight)
    h = _argument(x_, *_slope_and_offset(weight, bias, shift, mean, rstd))
    dh = torch.ops.aten.silu_backward(dy.to(h.dtype), h).contiguous()
    del h
    dshift = None if shift is None else dh.flatten(2).sum(2).to(shift.dtype)
    groups = mean.shape[1]
    gradients = torch.ops.aten.native_group_norm_backward(dh, x_, mean, rstd, weight, *_sizes(x), groups, [True] * 3)
    return *gradients, dshift


def _backward_by_sums(dy, x, weight, bias, shift, mean, rstd) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The same in a few passes, a third of the time of torch's kernel where channels come last or groups are long."""
    groups, space = mean.shape[1], tuple(range(2, x.ndim))
    slope, offset = _slope_and_offset(weight, bias, shift, mean, rstd)
    mean, rstd, w = mean[..., None], rstd[..., None], weight.view(groups, -1)
    x_ = _in_precision(x, weight)
    dy_ = in_format(dy.to(weight.dtype), memory_format_of(x_))
    h = _argument(x_, slope, offset)
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


def _slope_and_offset(weight, bias, shift, mean, rstd) -> tuple[Tensor, Tensor]:
    """Normalisation, weight, bias and shift as one factor and one summand per channel, ``(B, groups, C / groups)``."""
    # numbers of a group are (B, groups, 1)
    mean, rstd, w = mean[..., None], rstd[..., None], weight.view(mean.shape[1], -1)
    slope = w * rstd
    offset = torch.addcmul(bias.view_as(w), slope, mean, value=-1)
    return slope, offset if shift is None else offset + shift.view_as(offset)


def _is_long_on_cuda(x: Tensor, values: int, limit: int) -> bool:
    return x.is_cuda and values >= limit


def _argument(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    return torch.addcmul(_spread(offset, x), x, _spread(slope, x))


def _in_precision(x: Tensor, weight: Tensor) -> Tensor:
    x = x.to(weight.dtype)
    return in_format(x, memory_format_of(x))


def _spread(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers for each sample and channel in a shape that broadcasts to that of x."""
    return numbers.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2:].numel()


def _groups(x: Tensor, groups: int) -> Iterator[slice]:
    width = x.shape[1] // groups
    return (slice(start, start + width) for start in range(0, x.shape[1], width))
