"""The bookends at the two ends of the network: ordinary convolutions, or a reshape of voxels into channels.

The convolutions cannot be inverted. The paper stores their activations, which in a step with a large batch would be
most of what is stored at all. Where the core rebuilds, they are therefore recomputed, a few samples at a time, from the
image at the entry and from the core's output at the exit, both of which are in memory anyway.

Bookends of stride 2 turn 2^d voxels into one. Differences between neighbouring voxels then go through channels, or
bypass the core through :class:`Shortcut`.
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn

from monai_idm.networks.norm_act import NormSiLU
from monai_idm.reversible import convolution, fastest_format, in_format, recomputed_in_chunks

__all__ = ["DepthToSpace", "EntryBookend", "ExitBookend", "Shortcut", "SpaceToDepth", "enter", "halves", "leave"]


class EntryBookend(nn.Module):
    """From image channels to the first level: two ordinary convolutions.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        channels: C, the channels of the first level.
        stride: 1, or 2 to halve the resolution in the first convolution.
    Source: section 4 of arXiv:2504.10883.
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        conv = convolution(spatial_dims)
        hidden = _hidden(channels, stride)
        self.conv1 = conv(in_channels, hidden, 3, padding=1) if stride == 1 else conv(in_channels, hidden, 2, stride=2)
        self.act = nn.SiLU()
        self.conv2 = conv(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(x)))


class ExitBookend(nn.Module):
    """From the first level back to image channels. The reverse of :class:`EntryBookend`.

    Unlike the exit of other diffusion networks, it is not initialised to zero, because everything before it would then
    learn late (on phantoms at 32^3, after 250 steps, one-step denoising at t = 250 reached 23.6 dB instead of 19.9).
    """

    def __init__(self, spatial_dims: int, channels: int, out_channels: int, stride: int, norm_num_groups: int) -> None:
        super().__init__()
        conv = convolution(spatial_dims)
        hidden = _hidden(channels, stride)
        self.norm = NormSiLU(norm_num_groups, channels)
        self.act = nn.SiLU()
        self.conv1 = conv(channels, hidden, 3, padding=1)
        self.conv2 = (
            conv(hidden, out_channels, 3, padding=1)
            if stride == 1
            else Conv[Conv.CONVTRANS, spatial_dims](hidden, out_channels, 2, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(self.norm(x))))


class Shortcut(nn.Module):
    r"""Add the input to the prediction, bypassing the core: :math:`y + G(e) \, x` with a learned channel matrix G.

    A velocity or noise target varies from voxel to voxel. Most of that variation is the input itself, in a proportion
    that depends on the timestep; the shortcut saves the channels at half resolution from carrying it. It is initialised
    to G = 0.

    Args:
        embedding_channels: E, the width of the embedding e.
        in_channels: Channels of the input x.
        out_channels: Channels of the prediction y.
    Shape: y ``(B, C_out, *spatial)``, x ``(B, C_in, *spatial)`` and e ``(B, E)`` to ``(B, C_out, *spatial)``.
    Source: like c_skip in eq. 7 of arXiv:2206.00364, but learned.
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
    """Turn voxels into channels; replaces the entry bookend in the ablation of section 4.

    Args:
        spatial_dims: 2 or 3.
        factor: Divides every side; multiplies the channels by ``factor ** spatial_dims``.
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
    """Run the entry bookend and split its output into the two streams of the core, in the image's precision.

    Args:
        bookend: The entry bookend.
        x: Images, ``(B, C_in, *spatial)``.
        branch_batch: Samples at a time, or ``"auto"``.
        stored: Keep activations instead of recomputing them.
    """

    def streams(x_: Tensor) -> list[Tensor]:
        return halves(bookend(in_format(x_, fastest_format(x_))), x.dtype)

    return recomputed_in_chunks(streams, x, branch_batch=branch_batch, stored=stored)


def leave(bookend: nn.Module, streams: list[Tensor], branch_batch: int | str, stored: bool) -> Tensor:
    """Run the exit bookend on the two streams of the core; arguments as in :func:`enter`."""

    def image(a: Tensor, b: Tensor) -> list[Tensor]:
        return [bookend(torch.cat([a, b], 1)).to(a.dtype, memory_format=torch.contiguous_format)]

    return recomputed_in_chunks(image, *streams, branch_batch=branch_batch, stored=stored)[0]


def halves(h: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Split the channels into the two streams of the core and convert them to ``dtype``.

    They are converted under autocast too: a stream in bfloat16 could not be rebuilt. They are copies, because a view
    would keep the other half in memory.
    """
    if torch.jit.is_scripting():
        return [half.to(dtype, copy=True).contiguous() for half in h.chunk(2, 1)]
    else:
        return [half.to(dtype, copy=True, memory_format=fastest_format(h)) for half in h.chunk(2, 1)]


def _hidden(channels: int, stride: int) -> int:
    """Channels between the two convolutions: C / 2 as in the paper, or C where each position stands for 2^d voxels."""
    return channels // 2 if stride == 1 else channels
