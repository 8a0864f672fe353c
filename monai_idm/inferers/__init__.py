"""Inferers for any MONAI diffusion network: training pass, sampling, reconstruction."""

from monai_idm.inferers.diffusion import InvertibleDiffusionInferer, SamplingInferer

__all__ = ["InvertibleDiffusionInferer", "SamplingInferer"]
