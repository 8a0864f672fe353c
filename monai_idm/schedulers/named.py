"""The sampler that a config names."""

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
        sampler: Name in ``SAMPLERS``, or the full path of a subclass of StridedScheduler, as ``package.module.Class``.
        arguments: Arguments of :class:`StridedScheduler`.
    Raises:
        ValueError: If the name is that of no such sampler, MONAI's schedulers included: their few steps end at other
            noise levels than the next timestep's.
    """
    found: Any = SAMPLERS.get(str(sampler))
    if found is None and "." in str(sampler):
        found = locate(str(sampler))
    if not isinstance(found, type) or not issubclass(found, StridedScheduler):
        raise ValueError(
            f"sampler={sampler!r} is no sampler of few steps; choose one of {', '.join(SAMPLERS)}, or the full path of "
            f"a subclass of StridedScheduler, as package.module.Class"
        )
    return found(**arguments)


def few_step_sampler(sampler: str, training: StridedScheduler, num_inference_steps: int) -> StridedScheduler:
    """Build a sampler for a network by the scheduler of its training.

    Args:
        sampler: As of :func:`named_sampler`.
        training: Scheduler of the training.
        num_inference_steps: Number of steps.
    """
    low, high = training.clip_sample_values
    clip = {"clip_sample": training.clip_sample, "clip_sample_min": low, "clip_sample_max": high}
    return named_sampler(sampler, **training.settings, **clip, num_inference_steps=num_inference_steps)
