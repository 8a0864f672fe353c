"""Samplers that MONAI core lacks, or gets wrong at few steps."""

from monai_idm.schedulers.strided import StridedDDIMScheduler, predicted_noise, predicted_sample

__all__ = ["StridedDDIMScheduler", "predicted_noise", "predicted_sample"]
