r"""PSNR, MAE, RMSE, 3D SSIM and MS-SSIM of a volume, inside a mask, one number per channel.

With reference :math:`x`, prediction :math:`y`, mask :math:`M` and data range :math:`L`,

.. math::
    \text{MSE} = \frac{1}{|M|} \sum_{i \in M} (y_i - x_i)^2, \qquad
    \text{PSNR} = 10 \log_{10} \frac{L^2}{\text{MSE}}\ \text{dB}, \qquad
    \text{MAE} = \frac{1}{|M|} \sum_{i \in M} |y_i - x_i|.

SSIM is MONAI's map over uniform windows of 7 voxels a side that lie entirely inside the volume, averaged over the
windows whose centre is in the mask. Without a mask all voxels, or all windows, count. MS-SSIM is computed for whole
volumes only: it is MONAI's, over the same windows at 3 scales (or as many as asked for), with the first weights of its
source, divided by their sum.

Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861; MS-SSIM: Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216.
"""

from __future__ import annotations

import torch
from monai.metrics.regression import KernelType, compute_ms_ssim, compute_ssim_and_cs
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_idm.reversible import true_float32

__all__ = [
    "SCALES",
    "SSIM_WINDOW",
    "counted",
    "mae",
    "masked_mean",
    "ms_ssim",
    "psnr",
    "rmse",
    "smallest_side",
    "ssim3d",
    "ssim_map",
]

SSIM_WINDOW = 7  # voxels a side
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, finest first


def psnr(pred: Tensor, reference: Tensor, mask: Tensor | None = None, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB; ``inf`` if both are equal.

    Args:
        pred: Prediction, ``(C, D, H, W)`` or ``(C, H, W)``.
        reference: Reference of the same shape.
        mask: Mask ``(1, ...)`` or ``(C, ...)``, true where voxels count; ``None``: everywhere.
        data_range: Largest minus smallest value an image may have.
    Returns:
        PSNR of each channel, ``(C,)``.
    Raises:
        ValueError: If shapes do not match, the mask is empty in a channel, or ``data_range`` is not positive.
    """
    pred, reference, mask = _checked(pred, reference, mask, data_range)
    return 10 * torch.log10(data_range**2 / masked_mean((pred - reference).square(), mask))


def mae(pred: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error, in units of the image. Arguments, result and errors as in :func:`psnr`."""
    pred, reference, mask = _checked(pred, reference, mask)
    return masked_mean((pred - reference).abs(), mask)


def rmse(pred: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean squared error, in units of the image. Arguments, result and errors as in :func:`psnr`."""
    pred, reference, mask = _checked(pred, reference, mask)
    return masked_mean((pred - reference).square(), mask).sqrt()


def ssim3d(pred: Tensor, reference: Tensor, mask: Tensor | None = None, data_range: float = 1.0) -> Tensor:
    """Structural similarity over windows of 7^3 voxels (7^2 in images). Arguments as in :func:`psnr`.

    Raises:
        ValueError: As in :func:`psnr`; if the volume is smaller than the window; if no window that lies
            entirely inside the volume has its centre in the mask.
    """
    _, _, mask = _checked(pred, reference, mask, data_range)
    return masked_mean(ssim_map(pred, reference, data_range), mask)


def ssim_map(pred: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """SSIM of each window, ``(C, D-6, H-6, W-6)``, in float32. Arguments and errors as in :func:`ssim3d`."""
    pred, reference, _ = _checked(pred, reference, None, data_range)
    spatial_dims = pred.ndim - 1
    if min(pred.shape[1:]) < SSIM_WINDOW:
        raise ValueError(
            f"volume size {tuple(pred.shape[1:])} is smaller than the SSIM window of {SSIM_WINDOW} voxels on "
            f"some axis; evaluate at {SSIM_WINDOW} voxels a side or more"
        )
    with true_float32():  # TF32 would move SSIM by up to 6e-3
        similarity, _ = compute_ssim_and_cs(
            pred[:, None],  # channels as batch: one kernel for all
            reference[:, None],
            spatial_dims=spatial_dims,
            kernel_size=(SSIM_WINDOW,) * spatial_dims,
            kernel_sigma=(1.0,) * spatial_dims,  # not used by the uniform window
            data_range=data_range,
            kernel_type=KernelType.UNIFORM,
        )
    return similarity[:, 0]


def ms_ssim(pred: Tensor, reference: Tensor, data_range: float = 1.0, scales: int = 3) -> Tensor:
    """MS-SSIM of the whole volume, each scale at half the resolution of the last: ``(C,)``.

    Arguments and errors as in :func:`ssim3d`, without a mask; ``scales`` is the number of scales, 1 to 5. A volume must
    be at least :func:`smallest_side` wide on every axis.
    """
    pred, reference, _ = _checked(pred, reference, None, data_range)
    if min(pred.shape[1:]) < smallest_side(scales):
        raise ValueError(
            f"volume size {tuple(pred.shape[1:])} is smaller than {smallest_side(scales)} voxels on some axis, which "
            f"{scales} scales of MS-SSIM need; use SSIM instead"
        )
    dims, weights = pred.ndim - 1, SCALES[:scales]
    with true_float32():
        return compute_ms_ssim(
            pred[:, None],
            reference[:, None],
            spatial_dims=dims,
            data_range=data_range,
            kernel_type=KernelType.UNIFORM,
            kernel_size=SSIM_WINDOW,
            kernel_sigma=1.0,  # not used by the uniform window
            weights=[weight / sum(weights) for weight in weights],
        ).flatten()


def smallest_side(scales: int) -> int:
    """Voxels that every side of a volume must have for MS-SSIM at this number of scales: 7, 14, 28, 63, 112."""
    # the coarsest scale must hold a window; MONAI asks for more at 4 scales
    return SSIM_WINDOW * max(2 ** (scales - 1), (scales - 1) ** 2)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean per channel of the values inside a mask.

    Args:
        values: Values ``(C, ...)``. If they are smaller than the mask, as a map of windows is, the mask is cropped to
            its centre.
        mask: Mask ``(1, ...)`` or ``(C, ...)``; ``None``: the mean over everything.
    Returns:
        Mean of each channel, ``(C,)``.
    Raises:
        ValueError: If the mask is empty in a channel.
    """
    if mask is None:
        return values.flatten(1).mean(1)
    inside, count = counted(mask).over(values)
    # where, not a product: 0 * nan is nan, and values outside the mask must not matter
    return torch.where(inside, values, 0).flatten(1).sum(1) / count


class CountedMask(Tensor):
    """A mask whose voxels are counted once for all means over it, and which goes to their device once."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # its results are plain
    _counted: dict[tuple[torch.Size, torch.device], tuple[Tensor, Tensor]]

    def over(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the mask that values ``(C, ...)`` cover, its centre, and how many voxels it holds, ``(C,)``.

        Raises:
            ValueError: If that is no voxel in a channel.
        """
        key = (values.shape, values.device)
        if key not in self._counted:
            mask: Tensor = self
            for axis, size in enumerate(values.shape[1:], start=1):
                mask = mask.narrow(axis, (mask.shape[axis] - size) // 2, size)
            count = mask.flatten(1).sum(1).expand(len(values))
            if not bool(count.all()):
                empty = [channel for channel, voxels in enumerate(count.tolist()) if voxels == 0]
                raise ValueError(
                    f"the mask holds no voxel to average over in channel {empty} (of {tuple(values.shape[1:])} voxels "
                    "or windows); a brain mask is `reference != 0`, and mask=None means the whole volume"
                )
            self._counted[key] = mask.to(values.device, non_blocking=True), count.to(values.device, non_blocking=True)
        return self._counted[key]


def counted(mask: Tensor) -> CountedMask:
    """A mask ``(1, ...)`` or ``(C, ...)``, true where voxels count, for several means over it."""
    if isinstance(mask, CountedMask):
        return mask
    inside = convert_to_tensor(mask, track_meta=False).bool().as_subclass(CountedMask)
    inside._counted = {}
    return inside


def _checked(
    pred: Tensor, reference: Tensor, mask: Tensor | None, data_range: float = 1.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    if pred.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(pred.shape)} and reference {tuple(reference.shape)} differ in shape; "
            "bring both to one grid (C, D, H, W) first"
        )
    if reference.ndim not in (3, 4):
        raise ValueError(
            f"a volume of shape {tuple(reference.shape)} was given; give one volume (C, D, H, W) or one image "
            "(C, H, W), and loop over a batch"
        )
    if data_range <= 0:
        raise ValueError(f"data_range is {data_range}; it is the largest minus smallest value, such as 1.0 for [0, 1]")
    channels, *size = reference.shape
    if mask is not None and (mask.shape[0] not in (1, channels) or list(mask.shape[1:]) != size):
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit volumes of shape {tuple(reference.shape)}; "
            f"give (1, ...) or ({channels}, ...) on the same grid"
        )
    return _float_tensor(pred).to(reference.device), _float_tensor(reference), mask


def _float_tensor(volume: Tensor) -> Tensor:
    """Drop MONAI's metadata, and convert to at least float32: half precision cannot hold a sum over a volume."""
    volume = convert_to_tensor(volume, track_meta=False)
    return volume if volume.dtype == torch.float64 else volume.float()
