"""Inferers: training pass, sampling, reconstruction."""

from monai_idm.inferers.diffusion import InvertibleDiffusionInferer, SamplingInferer
from monai_idm.inferers.segmentation import DiffusionSegmentationInferer

__all__ = ["DiffusionSegmentationInferer", "InvertibleDiffusionInferer", "SamplingInferer"]
