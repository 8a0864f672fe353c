"""Image quality in brain mask and whole volume, and the baselines printed beside it."""

from monai_idm.metrics.baselines import best_gaussian_blur
from monai_idm.metrics.reconstruction import ReconstructionMetrics
from monai_idm.metrics.volume import mae, psnr, rmse, ssim3d

__all__ = ["ReconstructionMetrics", "best_gaussian_blur", "mae", "psnr", "rmse", "ssim3d"]
