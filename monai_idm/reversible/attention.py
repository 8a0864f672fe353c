r"""Invertible attention on a skip connection: the paper's iTrans, extended to volumes.

.. math::
    a = y_2 \odot f(y_1) \quad (1), \qquad y_i^U = \mathrm{concat}(y_1, a, c) \quad (2), \qquad
    y_2 = a \oslash f(y_1) \quad (4)

:math:`y_1` and :math:`y_2` are the even and the odd sites of a checkerboard. Eq. 2 as printed drops :math:`y_1`, which
would make it impossible to invert, so :math:`y_1` is kept here. A second half-step with the parities swapped lets both
halves change. The scale f is bounded to [1/2, 2], so that neither direction amplifies rounding much; published iTrans
inverts a C x C matrix whose condition number may reach 201.

Source: eqs. 1-4 of arXiv:2504.10883; checkerboard attention in flows is Sukthanker et al. 2022, arXiv:2106.03959.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from monai_idm.reversible.convolution import convolution
from monai_idm.reversible.fixed_point import remainder, restore, snap
from monai_idm.reversible.memory_format import memory_format_of
from monai_idm.reversible.operation import Rebuilt, ReversibleOperation, Tensors, linearise, summed

__all__ = ["AttentionScale", "CheckerboardAttention"]

_SHORT = 512
"""Sites up to which attention on a CPU is faster in float32: in bfloat16, its backward pass takes 2 ms at least."""


class CheckerboardAttention(ReversibleOperation):
    """Scale each parity of the skip connection by attention to the other parity; the low pair passes unchanged.

    Args:
        scale: The scale f, see :class:`AttentionScale`.
    Shape: ``(a_skip, b_skip, a_low, b_low)`` in and out.
    """

    num_inputs = 4
    num_outputs = 4

    def __init__(self, scale: nn.Module) -> None:
        super().__init__()
        self.scale = scale

    def map(self, inputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        y, low = torch.cat(inputs[:2], 1), inputs[2:]
        for parity in (0, 1):
            known, free = _sites(y, parity)
            s = self._scale_of(_gather(y, known), list(y.shape[2:]), parity)
            y2 = _gather(y, free)
            a = snap(y2 * s) if self.exact else y2 * s
            if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript skips a block only for this exact condition
                if self.exact and remainders is not None:
                    remainders += remainder([y2], [a / s])
            y = _scatter(y, free, a)
        return _halves(y) + low

    def inverse(self, outputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        y, low = torch.cat(outputs[:2], 1), outputs[2:]
        for parity in (1, 0):
            known, free = _sites(y, parity)
            s = self._scale_of(_gather(y, known), list(y.shape[2:]), parity)
            y = _scatter(y, free, self._divide(_gather(y, free), s, remainders and remainders[parity : parity + 1]))
        return _halves(y) + low

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, remainders: Tensors) -> Rebuilt:
        y, low = torch.cat(outputs[:2], 1), outputs[2:]
        dy, dlow = torch.cat(gradients[:2], 1).to(y.dtype), gradients[2:]
        weight_gradients = []
        for parity in (1, 0):
            known, free = _sites(y, parity)
            with self._kernels(y):
                s = linearise(self.scale, _gather(y, known), shape=list(y.shape[2:]), parity=parity)
                a, da = _gather(y, free), _gather(dy, free)
                y2 = self._divide(a, s.value, remainders[parity : parity + 1])
                (dy1,), dw = s.pull(da * y2)
            y, dy = _scatter(y, free, y2), _scatter(dy, free, da * s.value)
            if dy1 is not None:
                dy = _scatter(dy, known, _gather(dy, known) + dy1)
            weight_gradients.append(dw)
        return Rebuilt([*_halves(y), *low], [*_halves(dy), *dlow], [], summed(weight_gradients))

    def _scale_of(self, y1: Tensor, shape: list[int], parity: int) -> Tensor:
        if torch.jit.is_scripting():
            return self.scale(y1, shape, parity)
        else:
            with self._kernels(y1):
                return self.scale(y1, shape, parity)

    @torch.jit.unused
    def _kernels(self, y: Tensor) -> AbstractContextManager:
        """On CUDA the backward passes of fused attention do not repeat bit for bit; those of plain products do."""
        return sdpa_kernel(SDPBackend.MATH) if self.exact and y.is_cuda else nullcontext()

    def _divide(self, a: Tensor, s: Tensor, remainders: Tensors | None) -> Tensor:
        return restore([a / s], remainders)[0] if self.exact else a / s


class AttentionScale(nn.Module):
    r"""The scale f of eq. 1: bounded, computed by multi-head attention from the sites of one parity to the other.

    .. math:: s = \exp(\log 2 \cdot \tanh(u)), \qquad u = \mathrm{out}(\mathrm{softmax}(Q K^T / \sqrt{d}) V)

    Keys and values come from the known sites; the query of a free site is a depthwise convolution over its neighbours,
    all of which are known. Positions are sinusoidal. ``out`` is initialised to zero, so the scale starts at 1.

    Args:
        spatial_dims: 2 or 3.
        channels: C, the channels of both halves of the skip connection together.
        num_head_channels: Channels per head; must divide C.
        norm_num_groups: Groups of the GroupNorm; must divide C.
    Shape: known sites ``(B, C, N_known)`` to the scale of the free sites ``(B, C, N_free)``.
    """

    def __init__(self, spatial_dims: int, channels: int, num_head_channels: int, norm_num_groups: int) -> None:
        super().__init__()
        if channels % num_head_channels:
            raise ValueError(
                f"attention on a skip connection of {channels} channels cannot be split into heads of "
                f"num_head_channels={num_head_channels}; choose a divisor of {channels}"
            )
        self.num_heads = channels // num_head_channels
        self.norm = nn.GroupNorm(norm_num_groups, channels)
        self.neighbours = convolution(spatial_dims)(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, y1: Tensor, shape: list[int], parity: int) -> Tensor:
        channels = y1.shape[1]
        known, free = _parities(shape, parity, y1.device)
        position = _position(shape, channels, y1)
        v = self.norm(y1)
        if y1.stride(1) == 1:
            grid = v.new_zeros([v.shape[0]] + list(shape) + [channels]).movedim(-1, 1)  # noqa: RUF005
        else:
            grid = v.new_zeros([v.shape[0], channels] + list(shape))  # noqa: RUF005
        q = _gather(self._neighbourhoods(_scatter(grid, known, v)), free)
        # contiguous: on strided tokens a linear layer's kernel, and so the last bit, depends on requires_grad
        v = v.transpose(1, 2).contiguous()
        query = self._heads(self.to_q((q.transpose(1, 2) + position.index_select(0, free)).contiguous()))
        key = self._heads(self.to_k(v + position.index_select(0, known)))
        attended = self._attended(query, key, self._heads(self.to_v(v)))
        u = self.out(attended.transpose(1, 2).flatten(2)).transpose(1, 2)
        # in the stream's precision: under autocast u is bfloat16
        return torch.exp(math.log(2.0) * torch.tanh(u.to(y1.dtype)))

    def _neighbourhoods(self, grid: Tensor) -> Tensor:
        """The depthwise convolution, in float32 under autocast too: a CPU then needs half the time."""
        if torch.jit.is_scripting():
            return self.neighbours(grid)
        else:
            with torch.autocast(grid.device.type, enabled=False):
                return self.neighbours._conv_forward(grid, self.neighbours.weight.to(grid.dtype), None)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return scaled_dot_product_attention(query, key, value)
        else:
            if query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[2] <= _SHORT:
                query, key, value = query.float(), key.float(), value.float()
            return scaled_dot_product_attention(query, key, value)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, [self.num_heads, -1]).transpose(1, 2)


def _sites(y: Tensor, parity: int) -> tuple[Tensor, Tensor]:
    return _parities(list(y.shape[2:]), parity, y.device)


def _parities(shape: list[int], parity: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat indices of the sites whose coordinates sum to ``parity`` modulo 2, and of the remaining sites."""
    odd = _coordinates(shape, device).sum(1) % 2
    # sorted instead of masked: indexing with a mask makes the host wait until the GPU has counted the selected sites
    order = ((odd != parity) * len(odd) + torch.arange(len(odd), device=device)).argsort()
    count = (len(odd) + 1 - parity) // 2
    return order[:count], order[count:]


def _coordinates(shape: list[int], device: torch.device) -> Tensor:
    """Integer coordinates of every site, ``(N, spatial_dims)``."""
    axes = torch.meshgrid([torch.arange(side, device=device) for side in shape], indexing="ij")
    return torch.stack(axes, -1).flatten(0, -2)


def _gather(y: Tensor, sites: Tensor) -> Tensor:
    y_ = y.flatten(2)
    if y_.stride(1) == 1:  # channels last: whole rows are copied
        return y_.transpose(1, 2).index_select(1, sites).transpose(1, 2)
    return y_.index_select(2, sites)


def _scatter(y: Tensor, sites: Tensor, values: Tensor) -> Tensor:
    y_ = y.flatten(2)
    if y_.stride(1) == 1:
        tokens = y_.transpose(1, 2).index_copy(1, sites, values.transpose(1, 2))
        return tokens.unflatten(1, list(y.shape[2:])).movedim(-1, 1)
    return y_.index_copy(2, sites, values).unflatten(2, list(y.shape[2:]))


def _halves(y: Tensor) -> Tensors:
    a, b = y.chunk(2, 1)
    if torch.jit.is_scripting():
        return [a.clone(), b.clone()]
    else:
        return [half.clone(memory_format=memory_format_of(y)) for half in (a, b)]


def _position(shape: list[int], channels: int, like: Tensor) -> Tensor:
    """Sinusoidal encoding of every site's position, ``(N, C)``; the axes share the channels equally."""
    coordinates = _coordinates(shape, like.device).to(like.dtype)
    count = channels // (2 * len(shape))
    frequencies = torch.pow(1000.0, -torch.arange(count, device=like.device, dtype=like.dtype) / max(count, 1))
    angles = coordinates[:, :, None] * frequencies
    encoding = torch.cat((angles.sin(), angles.cos()), 2).flatten(1)
    return nn.functional.pad(encoding, [0, channels - encoding.shape[1]])
