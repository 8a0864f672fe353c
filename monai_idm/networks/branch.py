"""The function inside a coupling."""

from __future__ import annotations

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from monai_idm.networks.norm_act import NormSiLU

__all__ = ["ResidualBranch"]


class ResidualBranch(nn.Module):
    """Branch F of a coupling: two convolutions of one width, the embedding added between them.

    GroupNorm, SiLU, 3^3 convolution, GroupNorm, + projected embedding, SiLU, 3^3 convolution. The last one starts at
    zero: a new coupling is the identity. Added before the second normalisation, as is usual, the embedding would
    lose what its group has in common, in groups of one channel all of it (on phantoms at 32^3, +0.3 dB in the same
    time).

    Args:
        spatial_dims: 2 or 3.
        channels: Width, in and out: half of the level's channels.
        embedding_channels: E.
        norm_num_groups: Must divide ``channels``.
    Shape: ``(B, channels, *spatial), (B, E) -> (B, channels, *spatial)``.
    """

    def __init__(self, spatial_dims: int, channels: int, embedding_channels: int, norm_num_groups: int) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        self.norm1 = NormSiLU(norm_num_groups, channels)
        self.conv1 = convolution(channels, channels, 3, padding=1)
        self.project = nn.Linear(embedding_channels, channels)
        self.norm2 = NormSiLU(norm_num_groups, channels)
        self.conv2 = convolution(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x))
        # in the stream's precision here, where backward drops the low copy of its gradient as soon as it may
        return self.conv2(self.norm2(h, self.project(embedding))).to(x.dtype)
