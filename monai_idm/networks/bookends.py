"""What stands at the two ends of the network: ordinary convolutions, or nothing.

They cannot be inverted. What the paper stores of them would be most of what a step of a large batch stores at all, so
where the core rebuilds they are recomputed, from the image at one end and from the core's exit at the other, which
are there anyway; a few samples at a time.

Bookends of stride 2 take 2^d voxels for one. What sets a voxel apart from its neighbours goes through channels then, or
past the core, through :class:`Shortcut`.
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn

from monai_idm.networks.norm_act import NormSiLU
from monai_idm.reversible import recomputed_in_chunks

__all__ = ["DepthToSpace", "EntryBookend", "ExitBookend", "Shortcut", "SpaceToDepth", "enter", "halves", "leave"]


class EntryBookend(nn.Module):
    """From image channels to the first level: two ordinary convolutions.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Of the image.
        channels: C of the first level.
        stride: 1, or 2 to halve the resolution in the first convolution.
    Source: section 4 of arXiv:2504.10883.
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        hidden = _hidden(channels, stride)
        self.conv1 = (
            convolution(in_channels, hidden, 3, padding=1)
            if stride == 1
            else convolution(in_channels, hidden, 2, stride=2)
        )
        self.act = nn.SiLU()
        self.conv2 = convolution(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(x)))


class ExitBookend(nn.Module):
    """From the first level back to image channels. The reverse of :class:`EntryBookend`.

    It does not start at zero, as the exit of other diffusion networks does: everything before it would then learn late
    (on phantoms at 32^3, after 250 steps, one-step denoising at t = 250 gave 23.6 dB instead of 19.9).
    """

    def __init__(self, spatial_dims: int, channels: int, out_channels: int, stride: int, norm_num_groups: int) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        hidden = _hidden(channels, stride)
        self.norm = NormSiLU(norm_num_groups, channels)
        self.act = nn.SiLU()
        self.conv1 = convolution(channels, hidden, 3, padding=1)
        self.conv2 = (
            convolution(hidden, out_channels, 3, padding=1)
            if stride == 1
            else Conv[Conv.CONVTRANS, spatial_dims](hidden, out_channels, 2, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(self.norm(x))))


class Shortcut(nn.Module):
    r"""From the input to the prediction, past the core: :math:`y + G(e) \, x` with a learned matrix of the channels.

    A velocity or a noise is rough to the last voxel. Most of that is the input itself, in a proportion that depends on
    the timestep, and need not fit into the channels of half the resolution. A new one is closed.

    Args:
        embedding_channels: Of e.
        in_channels: Of x.
        out_channels: Of y.
    Shape: y ``(B, C_out, *spatial)``, x ``(B, C_in, *spatial)`` and e ``(B, E)`` to ``(B, C_out, *spatial)``.
    Source: as c_skip in eq. 7 of arXiv:2206.00364, but learned.
    """

    def __init__(self, embedding_channels: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(embedding_channels, out_channels * in_channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, y: Tensor, x: Tensor, embedding: Tensor) -> Tensor:
        matrix = self.project(embedding).reshape(x.shape[0], y.shape[1], x.shape[1])
        return y + torch.bmm(matrix, x.flatten(2)).reshape(y.shape)


class SpaceToDepth(nn.Module):
    """No bookend: voxels become channels until there are enough, for the ablation of section 4.

    Args:
        spatial_dims: 2 or 3.
        factor: Of every side; channels grow by ``factor ** spatial_dims``.
    """

    def __init__(self, spatial_dims: int, factor: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return pixelunshuffle(x, self.spatial_dims, self.factor)


class DepthToSpace(SpaceToDepth):
    """The reverse of :class:`SpaceToDepth`."""

    def forward(self, x: Tensor) -> Tensor:
        return pixelshuffle(x, self.spatial_dims, self.factor)


def enter(bookend: nn.Module, x: Tensor, branch_batch: int | str, stored: bool) -> list[Tensor]:
    """From an image to the two streams of the core, in the image's precision.

    Args:
        bookend: Entry.
        x: ``(B, C_in, *spatial)``.
        branch_batch: Samples at a time, or ``"auto"``.
        stored: Keep activations instead of recomputing them.
    """
    return recomputed_in_chunks(lambda x_: halves(bookend(x_), x.dtype), x, branch_batch=branch_batch, stored=stored)


def leave(bookend: nn.Module, streams: list[Tensor], branch_batch: int | str, stored: bool) -> Tensor:
    """From the two streams to an image, as :func:`enter`."""

    def image(a: Tensor, b: Tensor) -> list[Tensor]:
        return [bookend(torch.cat([a, b], 1)).to(a.dtype)]

    return recomputed_in_chunks(image, *streams, branch_batch=branch_batch, stored=stored)[0]


def halves(h: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The two halves of the channels, as the core takes them: apart, and in the precision of the weights.

    Under autocast too: a stream in bfloat16 could not be rebuilt. Copies, since a view would pin the other half.
    """
    return [half.to(dtype, copy=True).contiguous() for half in h.chunk(2, 1)]


def _hidden(channels: int, stride: int) -> int:
    """Channels between the two convolutions: half of the core's, as in the paper, or all for 2^d voxels of each."""
    return channels // 2 if stride == 1 else channels
