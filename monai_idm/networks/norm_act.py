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

from monai_idm.reversible import in_format, is_channels_last, memory_format_of

__all__ = ["LARGE_VOXELS", "NormSiLU"]

LARGE_VOXELS = 2**19
"""Voxels from which on a volume is processed in parts, and memory counts more than time."""

_PART = 2**18
"""Voxels of a part on CUDA, so that float32 copies of large volumes stay small."""

_LONG_GROUP = 2**16
"""Values of a group from which on torch's CUDA kernel for their mean, one block of threads for a group, takes longer
(43 microseconds for so many on an H200) than several kernels that use all of the GPU."""


_CACHED_PART = 2**13
"""Voxels of a part on a CPU, which stay in its cache: half a megabyte at 16 channels."""


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
            return self.fused(x, self.weight, self.bias, shift, self.num_groups)

    @torch.jit.unused
    def joined(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The same of two halves of the channels, which are joined in the precision of the output."""
        if torch.compiler.is_compiling() or self.num_groups % 2:
            return self(torch.cat([x1, x2], 1))
        weights, biases = self.weight.chunk(2), self.bias.chunk(2)
        halves = zip((x1, x2), weights, biases, strict=True)
        return torch.cat([self.fused(x, w, b, None, self.num_groups // 2) for x, w, b in halves], 1)

    @torch.jit.unused
    def fused(self, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, groups: int) -> Tensor:
        """The same with weights other than its own, as one function; the result has the precision of autocast."""
        # the type in which the next convolution computes
        low = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
        function = _InParts if x.shape[2:].numel() >= LARGE_VOXELS else _Whole
        return function.apply(x, weight, bias, shift, groups, self.eps, dtype)

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


class _InParts(torch.autograd.Function):
    """One part of the voxels after the other, so that float32 copies of a large volume stay small."""

    @staticmethod
    def forward(ctx, x, weight, bias, shift, groups, eps, dtype):
        y = torch.empty_like(x, dtype=dtype, memory_format=memory_format_of(x))
        variance, mean = _moments((x_.to(weight.dtype) for (x_,) in _parts(x)), groups)
        rstd = (variance + eps).rsqrt()
        slope, offset = _slope_and_offset(weight, bias, shift, mean, rstd)
        for x_, y_ in _parts(x, y):
            y_.copy_(nn.functional.silu(_argument(x_.to(weight.dtype), slope, offset), inplace=True))
        ctx.save_for_backward(x, weight, bias, shift, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, bias, shift, mean, rstd = ctx.saved_tensors
        slope, offset = _slope_and_offset(weight, bias, shift, mean, rstd)

        def argument_and_gradient(x_, dy_):
            h = _argument(x_, slope, offset)
            return h, torch.ops.aten.silu_backward(dy_.to(h.dtype), h)

        db, dot = torch.zeros_like(slope), torch.zeros_like(slope)
        for x_, dy_ in _parts(x, dy):
            x_ = x_.to(weight.dtype)
            h, dh = argument_and_gradient(x_, dy_)
            db += dh.sum(2).view_as(slope)
            dot += torch.mul(dh, x_, out=h).sum(2).view_as(slope)
        by_x, rest, dw = _factors(db, dot, weight, mean, rstd, x[0, 0].numel())
        dx = torch.empty_like(x, memory_format=memory_format_of(x))
        for x_, dy_, dx_ in _parts(x, dy, dx):  # dh again: to keep it would take as much memory as dx
            x_ = x_.to(weight.dtype)
            h, dh = argument_and_gradient(x_, dy_)
            dx_.copy_(_input_gradient(dh, x_, slope, by_x, rest, out=h))
        return dx, dw, db.sum(0).flatten(), None if shift is None else db.flatten(1).to(shift.dtype), None, None, None


def _normalised(x, weight, bias, shift, groups, eps) -> tuple[Tensor, Tensor, Tensor]:
    """The argument of SiLU, in the precision of the weights, mean and 1 / deviation of each group."""
    x_ = _in_precision(x, weight)
    if is_channels_last(x_):
        variance, mean = _moments((part for (part,) in _parts(x_)), groups)
    elif _is_long_on_cuda(x, x[0].numel() // groups, _LONG_GROUP):
        values = x_.unflatten(1, (groups, -1))
        variance, mean = torch.var_mean(values, tuple(range(2, values.ndim)), correction=0)
    else:
        h, mean, rstd = torch.native_group_norm(x_, weight, bias, *_sizes(x), groups, eps)
        return h if shift is None else h.add_(_spread(shift, x)), mean, rstd
    rstd = (variance + eps).rsqrt()
    return _argument(x_, *_slope_and_offset(weight, bias, shift, mean, rstd)), mean, rstd


def _moments(parts, groups) -> tuple[Tensor, Tensor]:
    """Variance and mean of each group, ``(B, groups)``, from parts ``(B, C, voxels)``.

    torch's kernel for volumes whose channels come last sums squares, not squared differences from the mean: at 64^3 a
    deviation is wrong by 1e-4, by 3e-2 where the mean is 30 times as large. Here parts that fit into the cache are read
    twice.
    """
    means, variances, counts = [], [], []
    for part in parts:
        means.append(part.mean(2))
        variances.append((part - means[-1][..., None]).square_().mean(2))
        counts.append(part.shape[2])
    variance, mean = variances[0], means[0]
    if len(counts) > 1:
        voxels = sum(counts)
        weights = mean.new_tensor([count / voxels for count in counts])[:, None, None]
        of_parts = torch.stack(means)
        mean = (weights * of_parts).sum(0)
        variance = (weights * (torch.stack(variances) + (of_parts - mean).square())).sum(0)
    variance, mean = (t.unflatten(1, (groups, -1)) for t in (variance, mean))
    of_group = mean.mean(2)
    return (variance + (mean - of_group[..., None]).square()).mean(2), of_group


def _backward(dy, x, weight, bias, shift, mean, rstd) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight, bias and shift."""
    if is_channels_last(x) or _is_long_on_cuda(x, x[0, 0].numel(), LARGE_VOXELS):
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
    space = tuple(range(2, x.ndim))
    slope, offset = _slope_and_offset(weight, bias, shift, mean, rstd)
    x_ = _in_precision(x, weight)
    dy_ = in_format(dy.to(weight.dtype), memory_format_of(x_))
    h = _argument(x_, slope, offset)
    own = dy_.dtype != dy.dtype  # a converted copy, which may be overwritten
    dh = torch.ops.aten.silu_backward.grad_input(dy_, h, grad_input=dy_ if own else torch.empty_like(dy_))
    db, dot = dh.sum(space).view_as(slope), torch.mul(dh, x_, out=h).sum(space).view_as(slope)
    by_x, rest, dw = _factors(db, dot, weight, mean, rstd, x[0, 0].numel())
    dx = _input_gradient(dh, x_, slope, by_x, rest, out=h)
    return dx, dw, db.sum(0).flatten(), None if shift is None else db.flatten(1).to(shift.dtype)


def _factors(db, dot, weight, mean, rstd, voxels) -> tuple[Tensor, Tensor, Tensor]:
    """``by_x`` and ``rest`` of :func:`_input_gradient`, and the gradient of the weight.

    Args:
        db: Gradient of the argument of SiLU, summed over the voxels, ``(B, groups, C / groups)``.
        dot: The same of its product with x.
    """
    mean, rstd, w = mean[..., None], rstd[..., None], weight.view(mean.shape[1], -1)
    dw = (dot - mean * db) * rstd
    # dx = rstd (w dh - m(w dh) - n m(w dh n)) with n = (x - mean) rstd and m, the mean over a group
    count = voxels * w.shape[1]
    by_x = (w * dw).sum(2, keepdim=True) * rstd.square() / -count
    rest = (w * db).sum(2, keepdim=True) * rstd / -count - by_x * mean
    return by_x.expand_as(db), rest.expand_as(db), dw.sum(0).flatten()


def _input_gradient(dh, x, slope, by_x, rest, out) -> Tensor:
    """Gradient of x from that of the argument of SiLU: ``slope * dh + by_x * x + rest``."""
    dx = torch.addcmul(_spread(rest, x), x, _spread(by_x, x), out=out)
    return dx.addcmul_(dh, _spread(slope, x))


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


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same voxels of every tensor, ``(B, C, voxels)``."""
    x = tensors[0]
    voxels = _PART if x.is_cuda else _CACHED_PART
    if isinstance(x, FakeTensor):  # an estimate is for CUDA, and its time is that of the number of operations
        voxels = max(_PART, x[0, 0].numel() // 32)
    return zip(*(t.flatten(2).split(voxels, 2) for t in tensors), strict=True)
