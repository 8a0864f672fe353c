"""The bookends at the two ends of the network: ordinary convolutions, or a reshape of voxels into channels.

The convolutions cannot be inverted. The paper stores their activations, which in a step with a large batch would be
most of what is stored at all. Where the core rebuilds, they are therefore recomputed, a few samples at a time, from the
image at the entry and from the core's output at the exit, both of which are in memory anyway.

Bookends of stride 2 turn blocks of 2^d voxels into one. Differences between the voxels of a block then go through
channels, or bypass the core through :class:`Shortcut`.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.layers.factories import Conv, Pool
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn

from monai_idm.networks.norm_act import NormSiLU
from monai_idm.networks.norm_conv import norm_conv
from monai_idm.reversible import convolution, fastest_format, in_format, recomputed_in_chunks

__all__ = [
    "DepthToSpace",
    "EntryBookend",
    "ExitBookend",
    "Shortcut",
    "SpaceToDepth",
    "bypass",
    "enter",
    "halves",
    "leave",
]


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

    def forward(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """The image from all channels, or from the two halves of them."""
        if torch.jit.is_scripting():
            h = self.conv1(self.norm(x))
        else:
            h = norm_conv(self.norm, self.conv1, x) if rest is None else norm_conv(self.norm, self.conv1, x, rest)
        return self.conv2(self.act(h))


class Shortcut(nn.Module):
    r"""Let the input bypass the core, and more of its detail where the core asks for it.

    .. math:: y + G(e) \, x + g \odot D(e) \, (x - \bar x) + g' \odot D'(e) \, (\bar x - \bar{\bar x})

    A velocity or noise target varies from voxel to voxel. Most of that variation is the input itself, in a proportion
    that depends on the timestep, and on the place: in air all detail of the input is noise, in the brain part of it is
    anatomy. So one of the streams that leave the core also decides, for each block of :math:`2^d` voxels, how far two
    gates from 0 to 1 are open: g for the difference of its voxels from its mean :math:`\bar x`, and g' for the
    difference of that from the mean of the block of :math:`4^d` voxels. Without gates, as much of the noise would
    remain in air as in the brain, and samples would have grain in their background.

    G, D and D' are matrices between channels, of which every element is the sinh of a linear function of the embedding
    e: the proportion, such as :math:`\alpha / \sigma` for a velocity, grows by orders of magnitude towards little
    noise, and where it is wrong by 20 %, so much of the noise remains. At the start all three are 0.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels of that stream; the other would need memory and adds nothing.
        in_channels: Channels of the input x.
        out_channels: Channels of the prediction y.
        embedding_channels: E, the width of the embedding e.
        norm_num_groups: Groups of the normalisation before the gates.
    Shape: y ``(B, C_out, *spatial)``, what ``gates`` makes of the stream, ``(B, 2 C_out, *half of spatial)``,
        x ``(B, C_in, *spatial)`` and e ``(B, E)`` to ``(B, C_out, *spatial)``; every side is divisible by 4.
    Source: like c_skip in eq. 7 of arXiv:2206.00364, but learned, and with gates.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        norm_num_groups: int,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(embedding_channels, 3 * out_channels * in_channels)
        conv = convolution(spatial_dims)
        self.gates = nn.Sequential(NormSiLU(norm_num_groups, channels), conv(channels, 2 * out_channels, 3, padding=1))
        self.mean = Pool[Pool.AVG, spatial_dims](2)
        self.spread = nn.Upsample(scale_factor=2.0)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, y: Tensor, gates: Tensor, x: Tensor, embedding: Tensor) -> Tensor:
        fine_gate, coarse_gate = gates.sigmoid().chunk(2, 1)
        of_all, of_fine, of_coarse = (
            self.project(embedding).sinh().reshape(x.shape[0], 3, y.shape[1], x.shape[1]).unbind(1)
        )
        mean = self.mean(x)
        fine = torch.bmm(of_fine, (x - self.spread(mean)).flatten(2)).reshape(y.shape)
        coarse = torch.bmm(of_coarse, (mean - self.spread(self.mean(mean))).flatten(2)).reshape(coarse_gate.shape)
        y = torch.baddbmm(y.flatten(2), of_all, x.flatten(2)).reshape(y.shape)
        return torch.addcmul(y, self.spread(fine_gate), fine) + self.spread(coarse_gate * coarse)


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

    def forward(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        return pixelshuffle(x if rest is None else torch.cat([x, rest], 1), self.spatial_dims, self.factor)


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


def leave(
    bookend: nn.Module,
    streams: list[Tensor],
    branch_batch: int | str,
    stored: bool,
    gradient_dtype: torch.dtype | None = None,
) -> Tensor:
    """Run the exit bookend on the two streams of the core, or gates on one.

    Args:
        bookend: The exit bookend.
        streams: The streams.
        branch_batch, stored: As in :func:`enter`.
        gradient_dtype: Precision to which the core rounds the gradients of the streams.
    """

    def image(*parts: Tensor) -> list[Tensor]:
        return [bookend(*parts).to(parts[0].dtype, memory_format=torch.contiguous_format)]

    how: dict[str, Any] = {"branch_batch": branch_batch, "stored": stored, "gradient_dtype": gradient_dtype}
    return recomputed_in_chunks(image, *streams, **how)[0]


def bypass(shortcut: nn.Module, *tensors: Tensor, branch_batch: int | str, stored: bool) -> Tensor:
    """Run the shortcut on its inputs; further arguments as in :func:`enter`.

    It is recomputed apart from the exit bookend, whose activations are then not in memory at the same time.
    """
    return recomputed_in_chunks(lambda *chunk: [shortcut(*chunk)], *tensors, branch_batch=branch_batch, stored=stored)[
        0
    ]


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
