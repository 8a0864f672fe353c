"""Metrics of what each task draws, and the baselines to compare it with."""

from monai_idm.metrics.baselines import best_gaussian_blur, best_threshold, otsu_threshold
from monai_idm.metrics.generation import GenerationMetrics
from monai_idm.metrics.inpainting import InpaintingMetrics
from monai_idm.metrics.reconstruction import ReconstructionMetrics
from monai_idm.metrics.region_shares import compare_region_shares, region_shares
from monai_idm.metrics.sample_faults import SampleFaults
from monai_idm.metrics.segmentation import SegmentationMetrics
from monai_idm.metrics.semantic import LabelLookup, SemanticMetrics
from monai_idm.metrics.super_resolution import SuperResolutionMetrics
from monai_idm.metrics.synthesis import SynthesisMetrics
from monai_idm.metrics.training_baselines import TrainingBaselines
from monai_idm.metrics.volume import mae, ms_ssim, psnr, rmse, ssim3d

__all__ = [
    "GenerationMetrics",
    "InpaintingMetrics",
    "LabelLookup",
    "ReconstructionMetrics",
    "SampleFaults",
    "SegmentationMetrics",
    "SemanticMetrics",
    "SuperResolutionMetrics",
    "SynthesisMetrics",
    "TrainingBaselines",
    "best_gaussian_blur",
    "best_threshold",
    "compare_region_shares",
    "mae",
    "ms_ssim",
    "otsu_threshold",
    "psnr",
    "region_shares",
    "rmse",
    "ssim3d",
]
