r"""What a reconstruction has to beat: the best Gaussian blur of the same noisy volume.

.. math::
    \sigma^* = \arg\max_\sigma \text{PSNR}_M\big(\text{clip}(G_\sigma * \tilde{x}),\ x\big)

The blur is told the answer: :math:`\sigma^*` is chosen against the reference :math:`x`, for each case and
channel, so no blur of this family does better on it. A network that does not beat it has learned no more than
to smooth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_idm.metrics.volume import psnr

__all__ = ["BLUR_SIGMAS", "best_gaussian_blur"]

# In voxels. Around its maximum PSNR changes by less than 0.05 dB within these steps, as the tests check; the
# sigmas beyond 2.5 are for volumes that are almost all noise.
BLUR_SIGMAS = (
    0.0,
    *(step / 20 for step in range(6, 20)),  # 0.3 to 0.95
    *(step / 10 for step in range(10, 25)),  # 1.0 to 2.4
    *(2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
)


def best_gaussian_blur(
    noisy: Tensor,
    reference: Tensor,
    mask: Tensor | None = None,
    sigmas: Sequence[float] = BLUR_SIGMAS,
    value_range: tuple[float, float] | None = (0.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Blur each channel with the standard deviation that maximises its PSNR in the mask: an oracle.

    Args:
        noisy: Noisy volume on the image's scale (for a diffusion step: divided by the signal's share),
            ``(C, D, H, W)`` or ``(C, H, W)``.
        reference: The clean volume, same shape.
        mask: ``(1, ...)`` or ``(C, ...)``, where PSNR is taken; ``None``: everywhere.
        sigmas: Standard deviations to try, in voxels; 0 is no blur.
        value_range: Clip the blurred values to this, as reconstructions are; it only ever helps where the
            reference lies inside. ``None``: no clipping.
    Returns:
        The blurred volume and the chosen standard deviations in voxels, ``(C,)``.
    Raises:
        ValueError: If ``sigmas`` is empty or holds a negative number, if shapes do not fit or the mask is
            empty.
    """
    if len(sigmas) == 0 or min(sigmas) < 0:
        raise ValueError(f"sigmas are {tuple(sigmas)}; give one or more standard deviations in voxels, 0 or larger")
    noisy = convert_to_tensor(noisy, dtype=torch.float32, device=reference.device, track_meta=False)
    channels = noisy.shape[0]
    column = (-1, *[1] * (noisy.ndim - 1))
    best_psnr = noisy.new_full((channels,), -torch.inf, dtype=torch.float64)
    best_sigma = noisy.new_full((channels,), float(sigmas[0]), dtype=torch.float32)
    best = noisy
    for sigma in sigmas:
        blurred = _blur(noisy, sigma)
        if value_range is not None:
            blurred = blurred.clamp(*value_range)
        score = psnr(blurred, reference, mask).to(best_psnr)
        better = score > best_psnr
        best = torch.where(better.view(column), blurred, best)
        best_psnr = torch.where(better, score, best_psnr)
        best_sigma = torch.where(better, sigma, best_sigma)
    return best, best_sigma


def _blur(volume: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return volume
    kernel = gaussian_1d(torch.tensor(float(sigma)), normalize=True)
    # replicated, not zeros as GaussianFilter pads: a cropped brain touches the border, and darkening it there
    # would make the baseline weaker than it is
    return separable_filtering(volume[:, None], [kernel] * (volume.ndim - 1), mode="replicate")[:, 0]
