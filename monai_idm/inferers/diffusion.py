r"""Training pass, sampling and reconstruction of a diffusion model.

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon \quad (6)

Source: eqs. 5-7 of arXiv:2504.10883; DDPM is Ho et al. 2020, arXiv:2006.11239.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import DiffusionInferer, Inferer
from monai.networks.nets import ControlNet, SPADEDiffusionModelUNet
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor, nn

from monai_idm.schedulers import StridedScheduler, check_noise_levels, check_sampler, fresh_sampler, sampler_starting_at

__all__ = ["InvertibleDiffusionInferer", "SamplingInferer"]


class InvertibleDiffusionInferer(DiffusionInferer):
    """MONAI's DiffusionInferer, with class labels and reconstruction; it serves any MONAI diffusion network.

    Args:
        scheduler: Scheduler of the training; also of sampling where no other is given.
    """

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        diffusion_model: Any,
        noise: Tensor,
        timesteps: Tensor,
        condition: Tensor | None = None,
        mode: str = "crossattn",
        seg: Tensor | None = None,
        *,
        class_labels: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """One training pass: noise the inputs and let the network predict.

        Args:
            inputs: Images, ``(B, C, *spatial)``.
            diffusion_model: The network.
            noise, timesteps, condition, mode, seg: As in MONAI's DiffusionInferer.
            class_labels: ``(B,)``, for networks that take them.
            others: None; arguments of MONAI's ControlNet inferers are refused by name.
        Raises:
            ValueError: If a ControlNet is given, or a ``seg`` to a network that takes none.
        """
        _refuse_controlnet(noise, others)
        network = _bound(diffusion_model, seg, class_labels)
        # metadata of a MetaTensor costs time in every operation
        return super().__call__(_plain(inputs), network, noise, timesteps, condition, mode)

    def sample(
        self,
        input_noise: Tensor,
        diffusion_model: Any,
        scheduler: Scheduler | None = None,
        save_intermediates: bool | None = False,
        intermediate_steps: int | None = 100,
        conditioning: Tensor | None = None,
        mode: str = "crossattn",
        verbose: bool = True,
        seg: Tensor | None = None,
        cfg: float | None = None,
        cfg_fill_value: float = -1.0,
        *,
        class_labels: Tensor | None = None,
        cfg_class_label: int | None = None,
        seeds: Sequence[int] | None = None,
        **others: Any,
    ) -> Any:
        """From noise to images, eq. 7. The scheduler is copied, and starts without memory of earlier samplings.

        Args:
            input_noise: ``(B, C, *spatial)``.
            diffusion_model: The network.
            scheduler: Scheduler to sample with; None: that of training.
            save_intermediates: Also return a list of images on the way.
            intermediate_steps: An image is kept for every multiple of this among the timesteps that are passed or left
                out: with all timesteps, those of MONAI's DiffusionInferer; with few, each step that crosses one.
            conditioning, mode, verbose, seg, cfg_fill_value: As in MONAI's DiffusionInferer.
            cfg: Scale of classifier-free guidance: away from ``cfg_fill_value`` towards ``conditioning``, and from
                ``cfg_class_label`` towards ``class_labels``, whichever are given.
            class_labels: ``(B,)``, for networks that take them.
            cfg_class_label: Class that stands for none, for guidance by class; None: guidance keeps ``class_labels``.
            seeds: One for each of the batch, for samplers of ours that add noise: an image is then the same in every
                batch and on every device.
            others: None; arguments of MONAI's ControlNet inferers are refused by name.
        Raises:
            ValueError: If the scheduler cannot be sampled with, if ``cfg`` has no class to guide away from, if a
                ControlNet is given, or a ``seg`` to a network that takes none.
        """
        _refuse_controlnet(scheduler, others)
        way = fresh_sampler(self.scheduler if scheduler is None else scheduler, self.scheduler, strict=False)
        if seeds is not None and isinstance(way, StridedScheduler):
            way = way.seeded(seeds)
        if cfg is not None:
            _check_guidance(cfg, conditioning, class_labels, cfg_class_label)
            seg = None if seg is None else torch.cat([seg, seg])
            if class_labels is not None:
                none = class_labels if cfg_class_label is None else torch.full_like(class_labels, cfg_class_label)
                class_labels = torch.cat([none, class_labels])
        kept = _kept_on_the_way(way, intermediate_steps) if save_intermediates else []
        image = super().sample(
            _plain(input_noise),
            _bound(diffusion_model, seg, class_labels),
            way,
            conditioning=conditioning,
            mode=mode,
            verbose=verbose,
            cfg=cfg,
            cfg_fill_value=cfg_fill_value,
        )
        return (image, kept) if save_intermediates else image

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
            noise: Noise in the shape of ``inputs``; drawn where None.
            scheduler: Scheduler of the way back; its timesteps below t are taken. None: the training scheduler, every
                step.
            kwargs: Further arguments of ``sample`` (``conditioning, mode, class_labels, seeds, verbose``).
        Raises:
            ValueError: If t is out of range, or a scheduler cannot start there.
        """
        check_noise_levels(self.scheduler, "reconstruction")
        if not 0 <= timestep < self.scheduler.num_train_timesteps:
            raise ValueError(
                f"timestep={timestep}; choose 0 to num_train_timesteps - 1 = {self.scheduler.num_train_timesteps - 1}"
            )
        back = sampler_starting_at(self.scheduler if scheduler is None else scheduler, self.scheduler, timestep)
        x0 = _plain(inputs)
        start = torch.full((len(x0),), timestep, device=x0.device)
        noise = torch.randn_like(x0) if noise is None else _plain(noise)
        x_t = self.scheduler.add_noise(original_samples=x0, noise=noise, timesteps=start)
        return self.sample(x_t, diffusion_model, scheduler=back, **{"verbose": False, **kwargs})


class SamplingInferer(Inferer):
    """``(noise, network) -> images``: sampling behind the two arguments that MONAI's evaluators call.

    Args:
        inferer: Inferer that samples.
        scheduler: Scheduler to sample with; None: the inferer's own, every step.
        verbose: Show a progress bar over the timesteps.
    Raises:
        ValueError: If the scheduler cannot be sampled with.
    """

    def __init__(
        self, inferer: InvertibleDiffusionInferer, scheduler: Scheduler | None = None, verbose: bool = True
    ) -> None:
        check_sampler(inferer.scheduler if scheduler is None else scheduler)
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


def _bound(diffusion_model: Any, seg: Tensor | None, class_labels: Tensor | None) -> Any:
    """The network with what MONAI's loop does not hand over, or only to a network that it recognises."""
    given: dict[str, Tensor] = {}
    inner = _inner(diffusion_model)
    if isinstance(inner, SPADEDiffusionModelUNet) and seg is None:
        raise ValueError("SPADEDiffusionModelUNet draws under a segmentation; give it as seg")
    if seg is not None:
        function = inner.forward if isinstance(inner, nn.Module) else inner
        if "seg" not in inspect.signature(function).parameters:
            raise ValueError(
                f"{type(inner).__name__} takes no seg, and would draw without it; pass the segmentation as condition "
                f'or conditioning with mode="concat", or use SPADEDiffusionModelUNet'
            )
        given["seg"] = _plain(seg)
    if class_labels is not None:
        given["class_labels"] = class_labels
    return partial(diffusion_model, **given) if given else diffusion_model


def _inner(network: Any) -> Any:
    """The network inside partial, torch.compile and the wrappers of several processes."""
    while True:
        wrapped = network.func if isinstance(network, partial) else getattr(network, "_orig_mod", None)
        if wrapped is None and type(network).__name__ in ("DistributedDataParallel", "DataParallel"):
            wrapped = network.module
        if wrapped is None:
            return network
        network = wrapped


def _check_guidance(
    cfg: float, conditioning: Tensor | None, class_labels: Tensor | None, cfg_class_label: int | None
) -> None:
    if cfg_class_label is not None and class_labels is None:
        raise ValueError(f"cfg_class_label={cfg_class_label} without class_labels; give the classes to guide towards")
    if conditioning is not None or cfg_class_label is not None:
        return
    if class_labels is not None:
        raise ValueError(
            f"cfg={cfg} with class_labels alone has no class to guide away from; give cfg_class_label, the class that "
            f"the network learned as none of the others"
        )
    warnings.warn(f"cfg={cfg} without conditioning changes nothing; give conditioning", stacklevel=3)


def _refuse_controlnet(third: Any, others: dict[str, Any]) -> None:
    """Our inferer in the place of MONAI's ControlNet inferers, whose third argument is the ControlNet."""
    if isinstance(third, ControlNet) or {"controlnet", "cn_cond"} & {*others}:
        raise ValueError(
            'InvertibleDiffusionInferer serves no ControlNet; pass the image as a condition with mode="concat", or '
            "use ControlNetDiffusionInferer with DiffusionModelUNet"
        )
    if others:
        raise TypeError(f"InvertibleDiffusionInferer takes no argument {', '.join(map(repr, others))}")


def _kept_on_the_way(scheduler: Any, every: int | None) -> list[Tensor]:
    """The list that the images of a sampling will be kept in, by the scheduler, which must be a copy."""
    if every is None or every < 1:
        raise ValueError(f"intermediate_steps={every}; choose a number of timesteps from 1 on")
    kept: list[Tensor] = []
    timesteps = [int(t) for t in scheduler.timesteps]
    ends = iter([*timesteps[1:], -1])
    step = scheduler.step
    before = False  # whether the step before was kept

    def keeping(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal before
        following = step(model_output, timestep, sample, *args, **kwargs)
        t, end = int(timestep), next(ends)
        if end == t:  # Heun's first pass, which the next one corrects ends at t too
            if before:
                kept[-1] = following[0]
        elif before := end // every < t // every:  # a multiple of every is in (end, t]
            kept.append(following[0])
        return following

    scheduler.step = keeping
    return kept
