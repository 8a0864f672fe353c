"""Samplers that MONAI core lacks or gets wrong with few steps."""

from monai_idm.renamed import renamed
from monai_idm.schedulers.ddim import StridedDDIMScheduler
from monai_idm.schedulers.ddpm import StridedDDPMScheduler
from monai_idm.schedulers.dpm_solver import DPMSolverPlusPlusScheduler
from monai_idm.schedulers.guidance import check_guidance_scale
from monai_idm.schedulers.heun import StridedHeunScheduler
from monai_idm.schedulers.named import SAMPLERS, few_step_sampler, named_sampler
from monai_idm.schedulers.prediction import (
    check_prediction_type,
    is_flow,
    noise_levels,
    predicted_noise,
    predicted_sample,
    prediction_target,
)
from monai_idm.schedulers.sound import check_noise_levels, check_sampler, fresh_sampler, sampler_starting_at
from monai_idm.schedulers.strided import StridedScheduler, noise_shift_of

__all__ = [
    "SAMPLERS",
    "DPMSolverPlusPlusScheduler",
    "StridedDDIMScheduler",
    "StridedDDPMScheduler",
    "StridedHeunScheduler",
    "StridedScheduler",
    "check_guidance_scale",
    "check_noise_levels",
    "check_prediction_type",
    "check_sampler",
    "few_step_sampler",
    "fresh_sampler",
    "is_flow",
    "named_sampler",
    "noise_levels",
    "noise_shift_of",
    "predicted_noise",
    "predicted_sample",
    "prediction_target",
    "sampler_starting_at",
]

__getattr__ = renamed(__name__, {"way_back": "sampler_starting_at"})
