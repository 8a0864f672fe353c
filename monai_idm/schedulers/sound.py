"""Which schedulers can be sampled with, judged in one place: those that would give wrong images are refused by name.

A sampling starts from a fresh copy: a scheduler that was used, or interrupted, must not remember. MONAI's own:

- ``PNDMScheduler`` mixes what it remembers with steps that do not fit: with a network that knows the noise exactly it
  misses the image by 0.3 at 20 steps, and by more than 1 with its Runge-Kutta steps. Refused.
- ``DDPMScheduler`` always steps to t - 1, and ``DDIMScheduler`` by T // n, whatever timestep comes next: right where
  that is the next timestep, which it is when every timestep is taken. Elsewhere DDPM is refused; DDIM, whose images
  are off by 0.1 to 0.7, warns.
- ``RFlowScheduler`` samples; noise levels, which reconstruction needs, it has none.
"""

from __future__ import annotations

import copy
import warnings
from itertools import pairwise
from typing import Any

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, PNDMScheduler, RFlowScheduler
from monai.networks.schedulers.scheduler import Scheduler

from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["check_noise_levels", "check_sampler", "fresh_sampler", "sampler_starting_at"]

_OURS = "DPMSolverPlusPlusScheduler, StridedDDIMScheduler, StridedDDPMScheduler or StridedHeunScheduler"


def check_sampler(scheduler: Scheduler | None, reconstructs: bool = False) -> None:
    """Refuse a scheduler that would give wrong images; to be called before anything is computed.

    Args:
        scheduler: Scheduler to sample with; None passes, as the training scheduler is judged where it is used.
        reconstructs: Whether sampling starts from noised images, for which the noise levels must be known.
    Raises:
        ValueError: If it cannot be sampled with; names it and the way out.
    """
    if scheduler is None:
        return
    _check_kind(scheduler)
    if reconstructs:
        check_noise_levels(scheduler, "reconstruction")
    _check_steps(scheduler, strict=True)


def check_noise_levels(scheduler: Scheduler, purpose: str) -> None:
    """Refuse a scheduler without noise levels, as those of flow matching.

    Args:
        scheduler: Any scheduler.
        purpose: What needs the noise levels, for the message.
    Raises:
        ValueError: If the scheduler has no ``alphas_cumprod``.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{_name(scheduler)} has no noise levels (alphas_cumprod), which {purpose} needs; train and sample with a "
            f"scheduler of diffusion: {_OURS}"
        )


def fresh_sampler(scheduler: Scheduler, training: Scheduler | None = None, strict: bool = True) -> Scheduler:
    """A copy that remembers nothing of earlier samplings, of a scheduler that is right to sample with.

    Args:
        scheduler: Scheduler to sample with; it is not changed.
        training: Scheduler of the training, which must agree in what the timesteps mean.
        strict: Refuse MONAI's DDPM with left-out steps; False: warn, and sample as MONAI does.
    Raises:
        ValueError: As :func:`check_sampler`.
    """
    _check_kind(scheduler)
    _check_steps(scheduler, strict)
    if training is not None and training is not scheduler:
        _warn_of_disagreement(scheduler, training)
    if isinstance(scheduler, StridedScheduler):
        return scheduler.fresh()
    way: Any = copy.copy(scheduler)
    if _step_of(scheduler) is None and isinstance(getattr(way, "num_inference_steps", None), int):
        timesteps = way.timesteps
        way.set_timesteps(way.num_inference_steps)  # by MONAI's convention a sampling starts with it, memory included
        way.timesteps = timesteps
    return way


def sampler_starting_at(scheduler: Scheduler, training: Scheduler, timestep: int) -> Scheduler:
    """A fresh copy whose timesteps are t and those below it.

    Args:
        scheduler: Scheduler to sample with; it is not changed.
        training: Scheduler that the images are noised with.
        timestep: t, from which the copy starts.
    Raises:
        ValueError: If the scheduler cannot start there, or has other timesteps than the training.
    """
    for one in (training, scheduler):
        check_noise_levels(one, "reconstruction")
    if scheduler.num_train_timesteps != training.num_train_timesteps:
        raise ValueError(
            f"{_name(scheduler)} has num_train_timesteps={scheduler.num_train_timesteps}, the training "
            f"{training.num_train_timesteps}; timestep {timestep} must be the same noise level in both: give both the "
            f"same num_train_timesteps"
        )
    _check_kind(scheduler)
    start = copy.copy(scheduler)
    below = start.timesteps[start.timesteps < timestep]
    start.timesteps = torch.cat((below.new_tensor([timestep]), below))
    if _step_of(scheduler) is None:
        warnings.warn(
            f"{_name(scheduler)} is not known to start right from timestep {timestep}; {_OURS} do", stacklevel=3
        )
    return fresh_sampler(start, training)


def _check_kind(scheduler: Any) -> None:
    if isinstance(scheduler, PNDMScheduler):
        raise ValueError(
            f"{_name(scheduler)} mixes its memory of earlier steps with steps that do not fit, and gives wrong images "
            f"even with a perfect network; sample with DPMSolverPlusPlusScheduler, which is also a multistep method, "
            f"or another of {_OURS}"
        )
    timesteps = getattr(scheduler, "timesteps", None)
    if timesteps is None or len(timesteps) == 0:
        raise ValueError(
            f"{_name(scheduler)} has no timesteps to sample at; call its set_timesteps(num_inference_steps) first"
        )


def _check_steps(scheduler: Any, strict: bool) -> None:
    step = _step_of(scheduler)
    if step not in ("ddpm", "ddim"):
        return
    length = 1 if step == "ddpm" else scheduler.num_train_timesteps // scheduler.num_inference_steps
    timesteps = [int(t) for t in scheduler.timesteps]
    missed = [(t, following) for t, following in pairwise(timesteps) if t - length != following]
    if timesteps[-1] - length >= 0:
        missed.append((timesteps[-1], -1))
    if not missed:
        return
    t, following = missed[0]
    aim = f"timestep {following}, which is next" if following >= 0 else "no noise, where it ends"
    message = (
        f"{_name(scheduler)} steps from timestep {t} to {t - length}, and not to {aim}: the network sees other noise "
        f"than its timestep says; take Strided{_name(scheduler)}, whose steps are right however few, or all "
        f"{scheduler.num_train_timesteps} timesteps"
    )
    if step == "ddpm" and strict:
        raise ValueError(message)
    warnings.warn(message, stacklevel=4)


def _step_of(scheduler: Any) -> str | None:
    """Whose ``step`` a scheduler takes, of those that are known; a subclass may bring its own."""
    if isinstance(scheduler, StridedScheduler):
        return "strided"
    known: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "flow": RFlowScheduler}
    return next((name for name, kind in known.items() if type(scheduler).step is kind.step), None)


def _warn_of_disagreement(scheduler: Any, training: Any) -> None:
    different = [
        f"{name}={getattr(scheduler, name, None)}, not {getattr(training, name, None)}"
        for name in ("num_train_timesteps", "prediction_type")
        if getattr(scheduler, name, None) != getattr(training, name, None)
    ]
    levels, trained = (getattr(one, "alphas_cumprod", None) for one in (scheduler, training))
    if not _alike(levels, trained):
        different.append("other noise levels")
    if different:
        warnings.warn(
            f"{_name(scheduler)} samples with {'; '.join(different)} of the training's {_name(training)}: give both "
            f"the same num_train_timesteps, schedule, zero_terminal_snr and prediction_type",
            stacklevel=4,
        )


def _alike(levels: torch.Tensor | None, others: torch.Tensor | None) -> bool:
    if levels is None or others is None:
        return levels is others
    return levels.shape == others.shape and torch.allclose(levels.cpu().double(), others.cpu().double(), atol=1e-5)


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__
