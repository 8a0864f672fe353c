"""Checks which schedulers can be sampled with: those that would give wrong images are refused by name.

Sampling starts from a fresh copy, because a scheduler that was used or interrupted before may remember earlier steps.
MONAI's own schedulers:

- ``PNDMScheduler`` mixes its memory of earlier steps with steps that do not fit: with a network that predicts the noise
  exactly it misses the image by 0.3 with 20 steps, and by more than 1 with its Runge-Kutta steps. It is refused.
- ``DDPMScheduler`` always steps to t - 1, and ``DDIMScheduler`` by T // n, whatever the next timestep is. This is right
  only if they step to the next timestep, as with all T timesteps. Otherwise DDPM is refused; DDIM, whose images are off
  by 0.1 to 0.7, warns.
- ``RFlowScheduler`` can be sampled with.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, PNDMScheduler, RFlowScheduler
from monai.networks.schedulers.scheduler import Scheduler

from monai_idm.schedulers.prediction import is_flow
from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["check_noise_levels", "check_sampler", "fresh_sampler", "sampler_starting_at"]

_OURS = "DPMSolverPlusPlusScheduler, StridedDDIMScheduler, StridedDDPMScheduler or StridedHeunScheduler"


def check_sampler(scheduler: Scheduler | None, reconstructs: bool = False) -> None:
    """Refuse a scheduler that would give wrong images; call this before anything is computed.

    Args:
        scheduler: Scheduler to sample with; None passes, as the training scheduler is checked where it is used.
        reconstructs: Whether sampling starts from noised images, which requires noise levels.
    Raises:
        ValueError: If it cannot be sampled with; the message names it and the remedy.
    """
    if scheduler is None:
        return
    _check_kind(scheduler)
    if reconstructs:
        check_noise_levels(scheduler, "reconstruction")
    _check_steps(scheduler, strict=True)


def check_noise_levels(scheduler: Scheduler, purpose: str) -> None:
    """Refuse a scheduler without noise levels.

    Args:
        scheduler: Any scheduler.
        purpose: What needs the noise levels, for the message.
    Raises:
        ValueError: If the scheduler has no ``alphas_cumprod`` and is not for flow matching.
    """
    if not hasattr(scheduler, "alphas_cumprod") and not isinstance(scheduler, RFlowScheduler):
        raise ValueError(
            f"{_name(scheduler)} has no noise levels (alphas_cumprod), which {purpose} needs; train and sample with "
            f"{_OURS}"
        )


def fresh_sampler(scheduler: Scheduler, training: Scheduler | None = None, strict: bool = True) -> Scheduler:
    """Check a scheduler, and copy it without its memory of earlier steps.

    Args:
        scheduler: Scheduler to sample with; it is not changed.
        training: Scheduler used in training; a warning is issued if its timesteps have another meaning.
        strict: Refuse MONAI's DDPM if timesteps are left out; False: warn, and sample as MONAI does.
    Raises:
        ValueError: See :func:`check_sampler`.
    """
    _check_kind(scheduler)
    _check_steps(scheduler, strict)
    if training is not None and training is not scheduler:
        _warn_of_disagreement(scheduler, training)
    sampler: Any = scheduler.fresh() if isinstance(scheduler, StridedScheduler) else copy.copy(scheduler)
    if _step_of(scheduler) is None and isinstance(getattr(sampler, "num_inference_steps", None), int):
        timesteps = sampler.timesteps
        sampler.set_timesteps(sampler.num_inference_steps)  # by MONAI's convention this also clears the memory
        sampler.timesteps = timesteps
    if hasattr(sampler, "timesteps"):  # on the host, which reads each of them: MONAI's inferers fail with others
        sampler.timesteps = sampler.timesteps.cpu()
    return sampler


def sampler_starting_at(scheduler: Scheduler, training: Scheduler, timestep: int) -> Scheduler:
    """A fresh copy that starts at timestep t: its timesteps are t and those below it.

    Args:
        scheduler: Scheduler to sample with; it is not changed.
        training: Scheduler that adds the noise to the images.
        timestep: t, where the copy starts.
    Raises:
        ValueError: If the scheduler cannot start there, or differs from the training scheduler in its number of
            timesteps.
    """
    for one in (training, scheduler):
        check_noise_levels(one, "reconstruction")
    if scheduler.num_train_timesteps != training.num_train_timesteps:
        raise ValueError(
            f"{_name(scheduler)} has num_train_timesteps={scheduler.num_train_timesteps}, the training scheduler "
            f"{training.num_train_timesteps}; timestep {timestep} must be the same noise level in both: give both the "
            f"same num_train_timesteps"
        )
    _check_kind(scheduler)
    start = copy.copy(scheduler)
    below = start.timesteps[start.timesteps < timestep]
    start.timesteps = torch.cat((below.new_tensor([timestep]), below))
    if _step_of(scheduler) is None:
        warnings.warn(
            f"{_name(scheduler)} is not known to start correctly from timestep {timestep}; {_OURS} do", stacklevel=3
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
    target = f"to the next one, {following}" if following >= 0 else "to the noiseless image after the last one"
    message = (
        f"{_name(scheduler)} steps from timestep {t} to {t - length} and not {target}: noise level and timestep no "
        f"longer match; use Strided{step.upper()}Scheduler, which is correct with few steps, or all "
        f"{scheduler.num_train_timesteps} timesteps"
    )
    if step == "ddpm" and strict:
        raise ValueError(message)
    warnings.warn(message, stacklevel=4)


def _step_of(scheduler: Any) -> str | None:
    """Which known ``step`` a scheduler uses; None if it has one of its own, as a subclass may."""
    if isinstance(scheduler, StridedScheduler):
        return "strided"
    known: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "flow": RFlowScheduler}
    return next((name for name, kind in known.items() if type(scheduler).step is kind.step), None)


def _warn_of_disagreement(scheduler: Any, training: Any) -> None:
    different = [
        f"{name}={ours}, not {theirs}" for name, (ours, theirs) in _meanings(scheduler, training) if ours != theirs
    ]
    levels, trained = (getattr(one, "alphas_cumprod", None) for one in (scheduler, training))
    if not (is_flow(scheduler) and is_flow(training)) and not _same_levels(levels, trained):
        different.append("other noise levels")
    if different:
        warnings.warn(
            f"{_name(scheduler)} disagrees with {_name(training)}, used in training; it has {'; '.join(different)}: "
            f"give both the same num_train_timesteps, schedule, zero_terminal_snr and prediction_type",
            stacklevel=4,
        )


def _meanings(*schedulers: Any) -> Iterator[tuple[str, list[Any]]]:
    yield "num_train_timesteps", [getattr(one, "num_train_timesteps", None) for one in schedulers]
    yield "prediction_type", ["flow" if is_flow(one) else getattr(one, "prediction_type", None) for one in schedulers]


def _same_levels(levels: torch.Tensor | None, others: torch.Tensor | None) -> bool:
    if levels is None or others is None:
        return levels is others
    return levels.shape == others.shape and torch.allclose(levels.cpu().double(), others.cpu().double(), atol=1e-5)


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__
