"""Inferers: training pass, sampling, reconstruction, segmentation, synthesis."""

from monai_idm.inferers.diffusion import InvertibleDiffusionInferer, SamplingInferer
from monai_idm.inferers.segmentation import DiffusionSegmentationInferer
from monai_idm.inferers.synthesis import DiffusionSynthesisInferer, SynthesisTrainingInferer

__all__ = [
    "DiffusionSegmentationInferer",
    "DiffusionSynthesisInferer",
    "InvertibleDiffusionInferer",
    "SamplingInferer",
    "SynthesisTrainingInferer",
]
