"""Simple features of a volume, which sets of volumes are compared by: they need no network and no download.

``intensity`` is a histogram of the foreground; ``texture`` the logarithm of the power spectrum in bands of spatial
frequency; ``layout`` the means of 4 x 4 x 4 blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

__all__ = ["BINS", "FEATURES", "features"]

FEATURES = ("intensity", "texture", "layout")
BINS, BANDS, BLOCKS = 32, 8, 4  # of the histogram; of the spectrum; a side, of the layout
FOREGROUND = 0.05  # share of the intensity range above which a voxel of any modality is foreground


def features(volume: Tensor) -> dict[str, Tensor]:
    """The features that MMD compares, see the head of this module.

    Args:
        volume: Volume ``(C, D, H, W)``, 0 to 1.
    Returns:
        One-dimensional tensors by the names in ``FEATURES``.
    """
    inside = (volume > FOREGROUND).any(0)
    values = volume[:, inside] if inside.any() else volume.flatten(1)
    histograms = [torch.histc(channel, BINS, 0, 1) / channel.numel() for channel in values]
    power = torch.fft.rfftn(volume - volume.mean((1, 2, 3), keepdim=True), dim=(1, 2, 3)).abs().square()
    axes = [torch.fft.fftfreq(n) for n in volume.shape[1:3]] + [torch.fft.rfftfreq(volume.shape[3])]
    frequency = sum(f.square() for f in torch.meshgrid(*axes, indexing="ij")).sqrt()  # type: ignore[union-attr]
    band = (frequency * 2 * BANDS).long()
    spectrum = [power[:, band == number].mean(1) for number in range(BANDS)]
    return {
        "intensity": torch.stack(histograms).flatten(),
        "texture": torch.stack(spectrum).clamp(min=1e-8).log10().flatten(),
        "layout": adaptive_avg_pool3d(volume, BLOCKS).flatten(),
    }
