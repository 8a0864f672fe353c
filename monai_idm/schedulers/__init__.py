"""Samplers that MONAI core lacks, or gets wrong at few steps."""

from monai_idm.schedulers.prediction import (
    check_prediction_type,
    predicted_noise,
    predicted_sample,
    prediction_target,
)
from monai_idm.schedulers.strided import StridedDDIMScheduler

__all__ = [
    "StridedDDIMScheduler",
    "check_prediction_type",
    "predicted_noise",
    "predicted_sample",
    "prediction_target",
]
