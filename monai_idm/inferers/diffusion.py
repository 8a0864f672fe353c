r"""Training pass, sampling and reconstruction of a diffusion model.

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon \quad (6)

Source: eqs. 5-7 of arXiv:2504.10883; DDPM is Ho et al. 2020, arXiv:2006.11239.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import DiffusionInferer, Inferer
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.schedulers import StridedScheduler

__all__ = ["InvertibleDiffusionInferer", "SamplingInferer"]


class InvertibleDiffusionInferer(DiffusionInferer):
    """MONAI's DiffusionInferer, with class labels and reconstruction; it serves any MONAI diffusion network.

    Args:
        scheduler: Of training; also of sampling where no other is given.
    """

    def __call__(  # type: ignore[override]
        self, inputs: Tensor, diffusion_model: Any, *args: Any, class_labels: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """One training pass: noise the inputs and let the network predict.

        Args:
            inputs: Images, ``(B, C, *spatial)``.
            diffusion_model: The network.
            args: ``noise, timesteps, condition, mode, seg`` as in MONAI's DiffusionInferer.
            class_labels: ``(B,)``, for networks that take them.
        """
        # metadata of a MetaTensor costs time in every operation
        return super().__call__(_plain(inputs), _labelled(diffusion_model, class_labels), *args, **kwargs)

    def sample(
        self,
        input_noise: Tensor,
        diffusion_model: Any,
        scheduler: Scheduler | None = None,
        *args: Any,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """From noise to images, eq. 7.

        Args:
            input_noise: ``(B, C, *spatial)``.
            diffusion_model: The network.
            scheduler: Of sampling; None: that of training.
            class_labels: ``(B,)``, for networks that take them.
            seeds: One for each of the batch, for samplers of ours that add noise: an image is then the same in every
                batch and on every device.
            args, kwargs: Further arguments of ``sample`` of MONAI's DiffusionInferer.
        """
        scheduler = self.scheduler if scheduler is None else scheduler
        if seeds is not None and isinstance(scheduler, StridedScheduler):
            scheduler = scheduler.seeded(seeds)
        network = _labelled(diffusion_model, class_labels)
        return super().sample(_plain(input_noise), network, scheduler, *args, **kwargs)

    def reconstruct(
        self,
        inputs: Tensor,
        diffusion_model: Any,
        timestep: int,
        noise: Tensor | None = None,
        scheduler: Scheduler | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Noise images to a timestep and denoise them back to 0.

        Args:
            inputs: Images, ``(B, C, *spatial)``.
            diffusion_model: The network.
            timestep: t, from 0 to T - 1.
            noise: Of the shape of ``inputs``; drawn where None.
            scheduler: Of the way back; its timesteps below t are taken. None: the training scheduler, every step.
            kwargs: Further arguments of ``sample`` (``conditioning, mode, class_labels, seeds, verbose``).
        Raises:
            ValueError: If t is out of range.
        """
        if not 0 <= timestep < self.scheduler.num_train_timesteps:
            raise ValueError(
                f"timestep={timestep}; choose 0 to num_train_timesteps - 1 = {self.scheduler.num_train_timesteps - 1}"
            )
        x0 = _plain(inputs)
        start = torch.full((len(x0),), timestep, device=x0.device)
        noise = torch.randn_like(x0) if noise is None else _plain(noise)
        x_t = self.scheduler.add_noise(original_samples=x0, noise=noise, timesteps=start)
        back = copy.copy(self.scheduler if scheduler is None else scheduler)
        back.timesteps = torch.cat((back.timesteps.new_tensor([timestep]), back.timesteps[back.timesteps < timestep]))
        return self.sample(x_t, diffusion_model, scheduler=back, **{"verbose": False, **kwargs})


class SamplingInferer(Inferer):
    """``(noise, network) -> images``: sampling behind the two arguments that MONAI's evaluators call.

    Args:
        inferer: Samples.
        scheduler: Of sampling; None: the inferer's own, every step.
        verbose: Show a progress bar over the timesteps.
    """

    def __init__(
        self, inferer: InvertibleDiffusionInferer, scheduler: Scheduler | None = None, verbose: bool = True
    ) -> None:
        self.inferer = inferer
        self.scheduler = scheduler
        self.verbose = verbose

    def __call__(self, inputs: Tensor, network: Callable, **kwargs: Any) -> Tensor:
        """Sample images.

        Args:
            inputs: Noise, ``(B, C, *spatial)``.
            network: The diffusion model.
            kwargs: Further arguments of ``sample`` (``class_labels``, ``seeds``).
        """
        return self.inferer.sample(inputs, network, scheduler=self.scheduler, verbose=self.verbose, **kwargs)


def _plain(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor)


def _labelled(diffusion_model: Any, class_labels: Tensor | None) -> Any:
    return diffusion_model if class_labels is None else partial(diffusion_model, class_labels=class_labels)
