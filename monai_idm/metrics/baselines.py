r"""Baselines that a result should beat: the best Gaussian blur of a noisy volume, and thresholds for a segmentation.

.. math::
    \sigma^* = \arg\max_\sigma \text{PSNR}_M\big(\text{clip}(G_\sigma * \tilde{x}),\ x\big), \qquad
    \theta^* = \arg\max_\theta w_0(\theta)\, w_1(\theta)\, (\mu_0(\theta) - \mu_1(\theta))^2

The blur is an oracle: :math:`\sigma^*` is chosen for each case and channel against the reference :math:`x`, so no other
blur of this family does better. A network that does not beat it has learned nothing but smoothing. Otsu's threshold
uses the image alone: it splits the voxels into two classes, with shares :math:`w` and means :math:`\mu`, that are as
far apart as possible. The best threshold is an oracle, like the blur.

Source: Otsu 1979, doi:10.1109/TSMC.1979.4310076.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_idm.metrics.volume import counted, psnr

__all__ = ["BLUR_SIGMAS", "best_gaussian_blur", "best_threshold", "otsu_threshold"]

# In voxels. Near its maximum, PSNR changes by less than 0.05 dB between neighbouring sigmas, as the tests check; the
# sigmas beyond 2.5 are for volumes that are almost pure noise.
BLUR_SIGMAS = (
    0.0,
    *(step / 20 for step in range(6, 20)),  # 0.3 to 0.95
    *(step / 10 for step in range(10, 25)),  # 1.0 to 2.4
    *(2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
)
_BINS = 256  # bins of Otsu's histogram


def best_gaussian_blur(
    noisy: Tensor,
    reference: Tensor,
    mask: Tensor | None = None,
    sigmas: Sequence[float] = BLUR_SIGMAS,
    value_range: tuple[float, float] | None = (0.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Blur each channel with the standard deviation that maximises its PSNR in the mask: an oracle.

    Args:
        noisy: Noisy volume on the image's scale (x_t of a diffusion process divided by the square root of alpha-bar),
            ``(C, D, H, W)`` or ``(C, H, W)``.
        reference: Clean volume of the same shape.
        mask: Mask ``(1, ...)`` or ``(C, ...)`` in which PSNR is computed; ``None``: everywhere.
        sigmas: Standard deviations to try, in voxels; 0 means no blur.
        value_range: Range to clip blurred values to, as reconstructions are clipped; this never lowers PSNR if the
            reference lies within it. ``None``: no clipping.
    Returns:
        The blurred volume and the chosen standard deviations in voxels, ``(C,)``.
    Raises:
        ValueError: If ``sigmas`` is empty or holds a negative number, if shapes do not match, or if the mask is empty.
    """
    if len(sigmas) == 0 or min(sigmas) < 0:
        raise ValueError(f"sigmas are {tuple(sigmas)}; give one or more standard deviations in voxels, 0 or larger")
    noisy = convert_to_tensor(noisy, dtype=torch.float32, device=reference.device, track_meta=False)
    channels, inside = noisy.shape[0], None if mask is None else counted(mask)
    column = (-1, *[1] * (noisy.ndim - 1))
    best_psnr = noisy.new_full((channels,), -torch.inf, dtype=torch.float64)
    best_sigma = noisy.new_full((channels,), float(sigmas[0]), dtype=torch.float32)
    best = noisy
    for sigma in sigmas:
        blurred = _blur(noisy, sigma)
        if value_range is not None:
            blurred = blurred.clamp(*value_range)
        score = psnr(blurred, reference, inside).to(best_psnr)
        better = score > best_psnr
        best = torch.where(better.view(column), blurred, best)
        best_psnr = torch.where(better, score, best_psnr)
        best_sigma = torch.where(better, sigma, best_sigma)
    return best, best_sigma


def otsu_threshold(values: Tensor) -> float:
    """The threshold that splits values into two classes with the largest variance between them.

    Args:
        values: Values of any shape, such as the voxels of a brain in one contrast.
    Raises:
        ValueError: If there are no values, or they are all equal.
    """
    values = values.as_subclass(Tensor).flatten().double().cpu()
    if values.numel() == 0 or values.min() == values.max():
        raise ValueError(f"{values.numel()} values, no two of them different; a threshold needs two classes of voxels")
    counts, edges = torch.histogram(values, _BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = counts.cumsum(0)[:-1], counts.flip(0).cumsum(0).flip(0)[1:]
    sums = (counts * centres).cumsum(0)
    difference = sums[:-1] / below - (sums[-1] - sums[:-1]) / above  # of the classes' means
    return float(edges[1:-1][(below * above * difference.square()).argmax()])


def best_threshold(values: Tensor, reference: Tensor) -> float:
    """The threshold for which the values above it have the largest Dice coefficient with a reference: an oracle.

    Args:
        values: Values of any shape, such as the voxels of a brain in one contrast.
        reference: Reference mask of the same shape, 0 or 1.
    Raises:
        ValueError: If the reference is empty.
    """
    if not reference.any():
        raise ValueError("the reference is empty; every threshold has a Dice coefficient of 0")
    values, order = values.as_subclass(Tensor).flatten().double().cpu().sort(descending=True)
    inside = reference.as_subclass(Tensor).flatten().cpu()[order].double()
    dice = 2 * inside.cumsum(0) / (torch.arange(1, len(values) + 1) + inside.sum())
    dice[:-1][values[:-1] == values[1:]] = 0  # no threshold can separate equal values
    last = int(dice.argmax())
    return float((values[last] + values[last + 1]) / 2) if last + 1 < len(values) else float(values[-1]) - 1


def _blur(volume: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return volume
    kernel = gaussian_1d(torch.tensor(float(sigma)), normalize=True).to(volume, non_blocking=True)
    # the border is replicated, not padded with zeros as by GaussianFilter: a cropped brain touches it, and would be
    # darkened there, which would weaken the baseline
    return separable_filtering(volume[:, None], [kernel] * (volume.ndim - 1), mode="replicate")[:, 0]
