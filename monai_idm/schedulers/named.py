"""Builds the sampler that a config names."""

from __future__ import annotations

from pydoc import locate
from typing import Any

from monai_idm.schedulers.ddim import StridedDDIMScheduler
from monai_idm.schedulers.ddpm import StridedDDPMScheduler
from monai_idm.schedulers.dpm_solver import DPMSolverPlusPlusScheduler
from monai_idm.schedulers.heun import StridedHeunScheduler
from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["SAMPLERS", "few_step_sampler", "named_sampler"]

SAMPLERS: dict[str, type[StridedScheduler]] = {
    kind.__name__: kind
    for kind in (DPMSolverPlusPlusScheduler, StridedDDPMScheduler, StridedHeunScheduler, StridedDDIMScheduler)
}


def named_sampler(sampler: str, **arguments: Any) -> StridedScheduler:
    """Build a sampler by its name.

    Args:
        sampler: Name in ``SAMPLERS``, or the full path of a subclass of StridedScheduler, as in
            ``package.module.Class``.
        arguments: Arguments of :class:`StridedScheduler`.
    Raises:
        ValueError: If there is no such sampler under this name. MONAI's schedulers are refused as well: with few steps,
            theirs do not end at the noise level of the next timestep.
    """
    sampler_class: Any = SAMPLERS.get(str(sampler))
    if sampler_class is None and "." in str(sampler):
        sampler_class = locate(str(sampler))
    if not isinstance(sampler_class, type) or not issubclass(sampler_class, StridedScheduler):
        raise ValueError(
            f"sampler={sampler!r} is not a few-step sampler; choose one of {', '.join(SAMPLERS)}, or the full path of "
            f"a subclass of StridedScheduler, such as package.module.Class"
        )
    return sampler_class(**arguments)


def few_step_sampler(
    sampler: str, training: StridedScheduler, num_inference_steps: int, timestep_spacing: str = "trailing"
) -> StridedScheduler:
    """Build a few-step sampler for a network with the settings of the scheduler that it was trained with.

    Args:
        sampler: Name of the sampler; see :func:`named_sampler`.
        training: Scheduler used in training.
        num_inference_steps: Number of steps.
        timestep_spacing: How the timesteps are chosen, as in :class:`StridedScheduler`.
    """
    low, high = training.clip_sample_values
    clip = {"clip_sample": training.clip_sample, "clip_sample_min": low, "clip_sample_max": high}
    steps = {"num_inference_steps": num_inference_steps, "timestep_spacing": timestep_spacing}
    return named_sampler(sampler, **training.settings, **clip, **steps)
