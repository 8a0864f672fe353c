"""The residual branch inside a coupling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_idm.networks.norm_act import NormSiLU
from monai_idm.networks.norm_conv import norm_conv
from monai_idm.reversible import convolution

__all__ = ["ResidualBranch"]


class ResidualBranch(nn.Module):
    """Branch F of a coupling: two convolutions of the same width, with the embedding added between them.

    GroupNorm, SiLU, 3^3 convolution, GroupNorm, + projected embedding, SiLU, 3^3 convolution. The last convolution is
    initialised to zero, so that a new coupling is the identity. The embedding is added after the second normalisation.
    Added before it, as is usual, it would lose the part that is common to the channels of a group, and with one channel
    per group all of it (on phantoms at 32^3, adding it after gains 0.3 dB in the same time).

    Args:
        spatial_dims: 2 or 3.
        channels: Input and output channels: half of the level's channels.
        embedding_channels: E, the width of the embedding.
        norm_num_groups: Groups of every GroupNorm; must divide ``channels``.
    Shape: ``(B, channels, *spatial), (B, E) -> (B, channels, *spatial)``, in the precision of the last convolution.
    """

    def __init__(self, spatial_dims: int, channels: int, embedding_channels: int, norm_num_groups: int) -> None:
        super().__init__()
        self.norm1 = NormSiLU(norm_num_groups, channels)
        self.conv1 = convolution(spatial_dims)(channels, channels, 3, padding=1)
        self.project = nn.Linear(embedding_channels, channels)
        self.norm2 = NormSiLU(norm_num_groups, channels)
        self.conv2 = convolution(spatial_dims)(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.conv2(self.norm2(self.conv1(self.norm1(x)), self._shift(embedding)))
        else:
            return norm_conv(self.norm2, self.conv2, norm_conv(self.norm1, self.conv1, x), shift=self._shift(embedding))

    def _shift(self, embedding: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.project(embedding)
        else:
            # in float32 under autocast too: to convert these few numbers would take longer than to compute with them
            with torch.autocast(embedding.device.type, enabled=False):
                return nn.functional.linear(embedding, self.project.weight.to(embedding.dtype), self.project.bias)
