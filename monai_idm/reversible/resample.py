"""Lossless resampling by a factor of two, and the split and merge of channels around it.

Source: learnable orthogonal resampling after Etmann et al. 2020, arXiv:2005.05220.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_idm.reversible.cayley import cayley
from monai_idm.reversible.memory_format import from_voxel_rows, is_channels_last, memory_format_of, voxel_rows
from monai_idm.reversible.operation import Rebuilt, ReversibleOperation, Tensors
from monai_idm.reversible.orthogonal import Orthogonal
from monai_idm.reversible.outer_product import outer_product

__all__ = ["Merge", "OrthogonalDownsample", "OrthogonalUpsample", "Split"]


class Split(ReversibleOperation):
    r"""Set channels of both halves aside for the skip connection.

    .. math:: (a, b) \mapsto (a_{skip}, b_{skip}, a_{low}, b_{low})

    Args:
        skip_channels: Number of channels set aside from each half.
    """

    num_outputs = 4

    def __init__(self, skip_channels: int) -> None:
        super().__init__()
        self.skip_channels = skip_channels

    def map(self, inputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        return _split(inputs, self.skip_channels)

    def inverse(self, outputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        return _merge(outputs)

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, remainders: Tensors) -> Rebuilt:
        return Rebuilt(_merge_away(outputs), _merge_away(gradients), [], [])


class Merge(ReversibleOperation):
    r"""Bring the skip connection back: eq. 2 of the paper, for both halves. The reverse of :class:`Split`.

    .. math:: (a_{skip}, b_{skip}, a_{low}, b_{low}) \mapsto (a, b)

    Args:
        skip_channels: Number of channels of the skip connection in each half.
    """

    num_inputs = 4

    def __init__(self, skip_channels: int) -> None:
        super().__init__()
        self.skip_channels = skip_channels

    def map(self, inputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        return _merge(inputs)

    def inverse(self, outputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        return _split(outputs, self.skip_channels)

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, remainders: Tensors) -> Rebuilt:
        return Rebuilt(_split_away(outputs, self.skip_channels), _split_away(gradients, self.skip_channels), [], [])


class OrthogonalDownsample(Orthogonal):
    r"""Halve every side: a strided convolution whose kernel is one orthogonal matrix per channel.

    The ``2 ** spatial_dims`` voxels of a cell become as many channels; nothing is lost. The matrices are initialised
    to the Haar wavelet transform.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels of both halves together, before downsampling.
    Shape: halves ``(B, C/2, *spatial)`` to ``(B, C/2 * 2 ** spatial_dims, *spatial / 2)``.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__(channels, 2**spatial_dims, 2**spatial_dims)

    def matrix(self) -> Tensor:
        return _wavelets(self.generator)

    def multiply(self, w: Tensor, halves: Tensors) -> Tensors:
        w1, w2 = w.chunk(2)
        return [_down(w1, halves[0]), _down(w2, halves[1])]

    def multiply_transposed(self, w: Tensor, halves: Tensors) -> Tensors:
        w1, w2 = w.chunk(2)
        return [_up(w1, halves[0]), _up(w2, halves[1])]

    def undo(self, w: Tensor, outputs: Tensors) -> Tensors:
        return [_up(v, outputs.pop(0).to(w.dtype)) for v in w.chunk(2)]

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        return _outer([dy.to(inputs[0].dtype) for dy in gradients], inputs)


class OrthogonalUpsample(Orthogonal):
    """Double every side: the reverse of :class:`OrthogonalDownsample`, with matrices of its own.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels of both halves together, after upsampling.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__(channels, 2**spatial_dims, 2**spatial_dims)

    def matrix(self) -> Tensor:
        return _wavelets(self.generator)

    def multiply(self, w: Tensor, halves: Tensors) -> Tensors:
        w1, w2 = w.chunk(2)
        return [_up(w1, halves[0]), _up(w2, halves[1])]

    def multiply_transposed(self, w: Tensor, halves: Tensors) -> Tensors:
        w1, w2 = w.chunk(2)
        return [_down(w1, halves[0]), _down(w2, halves[1])]

    def undo(self, w: Tensor, outputs: Tensors) -> Tensors:
        return [_down(v, outputs.pop(0).to(w.dtype)) for v in w.chunk(2)]

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        return _outer(inputs, [dy.to(inputs[0].dtype) for dy in gradients])


def _split(halves: Tensors, k: int) -> Tensors:
    (a_skip, a_low), (b_skip, b_low) = [_parts(half, k) for half in halves]
    return [a_skip, b_skip, a_low, b_low]


def _parts(half: Tensor, k: int) -> Tensors:
    """The first k channels and the others, as copies: a view would keep the whole tensor in memory."""
    parts = half.split([k, half.shape[1] - k], 1)
    if torch.jit.is_scripting():
        return [part.clone() for part in parts]
    else:
        return [part.clone(memory_format=memory_format_of(half)) for part in parts]


def _merge(parts: Tensors) -> Tensors:
    a_skip, b_skip, a_low, b_low = parts
    return [torch.cat([a_skip, a_low], 1), torch.cat([b_skip, b_low], 1)]


@torch.jit.unused
def _split_away(halves: Tensors, k: int) -> Tensors:
    """The same, one half after the other, each of which is freed; empties the list."""
    a_skip, a_low = _parts(halves.pop(0), k)
    b_skip, b_low = _parts(halves.pop(0), k)
    return [a_skip, b_skip, a_low, b_low]


@torch.jit.unused
def _merge_away(parts: Tensors) -> Tensors:
    """The same, one half after the other, whose parts are then freed; empties the list."""
    a = torch.cat([parts.pop(0), parts.pop(1)], 1)
    return [a, torch.cat([parts.pop(0), parts.pop(0)], 1)]


def _wavelets(generator: Tensor) -> Tensor:
    """One matrix per channel, in float64; the Haar transform for a generator of zeros."""
    signs = torch.ones([1, 1], dtype=torch.float64, device=generator.device)  # built there: a copy would wait for it
    scale = 1.0
    while signs.shape[0] < generator.shape[-1]:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)], 0)
        scale = scale / 2**0.5
    return cayley(generator) @ (signs * scale)


def _down(w: Tensor, fine: Tensor) -> Tensor:
    """From the fine to the coarse grid: W times the voxels of every cell."""
    sides = [side // 2 for side in fine.shape[2:]]
    if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript skips a block only for this exact condition
        if is_channels_last(fine):
            return from_voxel_rows(torch.mm(_cell_rows(fine), _dense(w).mT), fine.shape[0], sides)
    return (w @ _cells(fine)).flatten(1, 2).unflatten(2, sides)


def _up(w: Tensor, coarse: Tensor) -> Tensor:
    """From the coarse to the fine grid: W^T times the channels of every cell."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if is_channels_last(coarse):
            return _fine(torch.mm(voxel_rows(coarse), _dense(w)), coarse)
    return _voxels(w.transpose(1, 2) @ _columns(coarse, w.shape[2]), coarse)


def _outer(coarse: Tensors, fine: Tensors) -> Tensor:
    """Outer product of coarse channels and fine voxels for each channel, summed over its cells and the batch."""
    cell = 2 ** (fine[0].ndim - 2)
    pairs = zip(coarse, fine, strict=True)
    if is_channels_last(fine[0]):
        return torch.cat([_of_channels(torch.mm(voxel_rows(y).mT, _cell_rows(x)), cell) for y, x in pairs])
    return torch.cat([outer_product([_columns(y, cell)], [_cells(x)]) for y, x in pairs])


# fine and coarse tensors are both rearranged to columns (B, C, cell, N), each of which holds the voxels of one cell


def _cells(fine: Tensor) -> Tensor:
    shape = [fine.shape[0], fine.shape[1]]
    inside: list[int] = []
    outside: list[int] = []
    cell = 1  # not 2 ** d, which TorchScript types as a float
    for i, side in enumerate(fine.shape[2:]):
        shape += [side // 2, 2]
        inside += [3 + 2 * i]
        outside += [2 + 2 * i]
        cell *= 2
    cells = fine.reshape(shape).permute([0, 1] + inside + outside)  # noqa: RUF005
    return cells.reshape([fine.shape[0], fine.shape[1], cell, -1])


def _voxels(columns: Tensor, coarse: Tensor) -> Tensor:
    d = coarse.dim() - 2
    split = [columns.shape[0], columns.shape[1]] + [2] * d
    shape = [columns.shape[0], columns.shape[1]]
    order = [0, 1]
    for i, side in enumerate(coarse.shape[2:]):
        split += [side]
        shape += [2 * side]
        order += [2 + d + i, 2 + i]
    return columns.reshape(split).permute(order).reshape(shape)


def _columns(coarse: Tensor, cell: int) -> Tensor:
    return coarse.reshape([coarse.shape[0], coarse.shape[1] // cell, cell, -1])


# Channels last: a row holds all channels of a cell, (B * N, C * cell). One product with the matrices of all channels on
# the diagonal of a larger one is faster than a small product for each channel.


@torch.jit.unused
def _cell_rows(fine: Tensor) -> Tensor:
    d = fine.ndim - 2
    shape = [size for side in fine.shape[2:] for size in (side // 2, 2)]
    cells = fine.movedim(1, -1).reshape(fine.shape[0], *shape, -1)  # B, then outside and inside of a cell in turn, C
    return cells.permute(0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), -1).reshape(-1, 2**d * fine.shape[1])


@torch.jit.unused
def _fine(rows: Tensor, coarse: Tensor) -> Tensor:
    d = coarse.ndim - 2
    cells = rows.reshape(coarse.shape[0], *coarse.shape[2:], *[2] * d, -1)  # B, outside, inside, C
    order = [dim for i in range(d) for dim in (1 + i, 1 + d + i)]
    sides = [2 * side for side in coarse.shape[2:]]
    return cells.permute(0, *order, -1).reshape(coarse.shape[0], *sides, -1).movedim(-1, 1)


@torch.jit.unused
def _dense(w: Tensor) -> Tensor:
    """Channel c's matrix at the rows ``c * cell + i`` of the coarse channels and the columns ``j * C + c`` of cells."""
    c, cell, _ = w.shape
    return w.permute(1, 2, 0).diag_embed().permute(2, 0, 1, 3).reshape(c * cell, cell * c)


@torch.jit.unused
def _of_channels(dense: Tensor, cell: int) -> Tensor:
    """The matrices of the channels from the large one."""
    c = len(dense) // cell
    return dense.reshape(c, cell, cell, c).diagonal(dim1=0, dim2=3).permute(2, 0, 1)
