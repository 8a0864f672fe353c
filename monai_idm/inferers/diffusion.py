r"""Training pass, sampling and reconstruction of a diffusion model.

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon \quad (6)

Source: eqs. 5-7 of arXiv:2504.10883; DDPM is Ho et al. 2020, arXiv:2006.11239.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import DiffusionInferer, Inferer
from monai.networks.nets import ControlNet, SPADEDiffusionModelUNet
from monai.networks.schedulers import RFlowScheduler
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor, nn
from tqdm import tqdm

from monai_idm.reversible import fixed_matrices
from monai_idm.schedulers import (
    StridedScheduler,
    check_guidance_scale,
    check_noise_levels,
    check_sampler,
    fresh_sampler,
    sampler_starting_at,
)

__all__ = ["InvertibleDiffusionInferer", "SamplingInferer"]


class InvertibleDiffusionInferer(DiffusionInferer):
    """MONAI's DiffusionInferer with class labels, conditions and reconstruction, for any MONAI diffusion network.

    Args:
        scheduler: Training scheduler; also the scheduler to sample with if no other is given.
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
        conditions: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """One training pass: noise the inputs and predict with the network.

        Args:
            inputs: Images, ``(B, C, *spatial)``.
            diffusion_model: The network.
            noise, timesteps, condition, mode, seg: As in MONAI's DiffusionInferer.
            class_labels: Class labels ``(B,)``, for networks that take them.
            conditions: Numeric conditions ``(B, K)``, NaN where unknown, for networks that take them.
            others: Must be empty; it catches the arguments of MONAI's ControlNet inferers, to refuse them by name.
        Raises:
            ValueError: If a ControlNet is given, or ``seg`` or ``conditions`` to a network that takes none.
        """
        _refuse_controlnet(noise, others)
        network = _with_arguments(diffusion_model, seg, class_labels, conditions)
        # a MetaTensor's metadata costs time in every operation
        return super().__call__(_without_metadata(inputs), network, noise, timesteps, condition, mode)

    @torch.no_grad()
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
        conditions: Tensor | None = None,
        guidance_scale: float | None = None,
        seeds: Sequence[int] | None = None,
        **others: Any,
    ) -> Any:
        """Sample images from noise, eq. 7, with a copy of the scheduler that keeps no state of earlier runs.

        Args:
            input_noise: Noise ``(B, C, *spatial)``.
            diffusion_model: The network.
            scheduler: Scheduler to sample with; None: the training scheduler.
            save_intermediates: Also return a list of intermediate images.
            intermediate_steps: Keep the image after each step that starts at a multiple of this timestep or passes
                over one. With all timesteps these are the images that MONAI's DiffusionInferer keeps.
            conditioning, mode, verbose, seg, cfg_fill_value: As in MONAI's DiffusionInferer.
            cfg: Scale of classifier-free guidance, away from ``cfg_fill_value`` towards ``conditioning`` and away from
                ``cfg_class_label`` towards ``class_labels``, whichever are given.
            class_labels: Class labels ``(B,)``, for networks that take them.
            cfg_class_label: Class to guide away from, which the network learned as "no class"; None: ``class_labels``
                are used on both sides of the guidance.
            conditions: Numeric conditions ``(B, K)``, NaN where unknown, for networks that take them.
            guidance_scale: Scale of classifier-free guidance by ``conditions``, for networks trained with some of them
                dropped: the prediction is that for unknown conditions plus ``guidance_scale`` times the difference
                between that for ``conditions`` and it. 0 ignores them, 1 or None takes the prediction for
                ``conditions``, more exaggerates them; other than these, every step predicts twice.
            seeds: One seed per image, for this package's samplers that add noise: an image is then the same in every
                batch on that kind of device.
            others: Must be empty; it catches the arguments of MONAI's ControlNet inferers, to refuse them by name.
        Raises:
            ValueError: If ``scheduler`` cannot be sampled with, if ``mode`` is unknown or lacks ``conditioning``, if
                ``cfg`` has no class to guide away from, if ``guidance_scale`` is below 0 or given besides ``cfg``, if
                a ControlNet is given, or ``seg`` or ``conditions`` to a network that takes none.
        """
        _refuse_controlnet(scheduler, others)
        sampler = fresh_sampler(self.scheduler if scheduler is None else scheduler, self.scheduler, strict=False)
        if seeds is not None and isinstance(sampler, StridedScheduler):
            sampler = sampler.seeded(seeds)
        if cfg is not None:
            _check_guidance(cfg, conditioning, class_labels, cfg_class_label)
        if guidance_scale is not None:
            _check_guidance_scale(guidance_scale, cfg, conditions)
        guided = conditions is not None and guidance_scale not in (None, 0, 1)
        scale = guidance_scale if guided else cfg
        conditions = None if guidance_scale == 0 else conditions
        if scale is not None:
            seg = _twice(seg, None)
            conditioning = _twice(conditioning, None if guided else cfg_fill_value)
            class_labels = _twice(class_labels, None if guided else cfg_class_label)
            conditions = _twice(conditions, torch.nan if guided else None)
        every = intermediate_steps or 0
        if save_intermediates and every < 1:
            raise ValueError(f"intermediate_steps={intermediate_steps}; choose a number of timesteps from 1 on")
        network = _with_arguments(diffusion_model, seg, class_labels, conditions)
        image, intermediates, kept = _without_metadata(input_noise), [], False
        steps = _steps(image, network, sampler, conditioning, mode, scale)
        with fixed_matrices(diffusion_model):
            for t, end, image in tqdm(steps, total=len(sampler.timesteps), disable=not verbose):
                if not save_intermediates:
                    continue
                if end != t and (kept := end // every < t // every):  # a multiple of every is in (end, t]
                    intermediates.append(image)
                elif end == t and kept:  # Heun's second pass, which corrects the image of the step that ended at t
                    intermediates[-1] = image
        return (image, intermediates) if save_intermediates else image

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
            timestep: Timestep t, from 0 to T - 1.
            noise: Noise of the same shape as ``inputs``; None: drawn at random.
            scheduler: Scheduler of the reverse process, which starts at t and continues with the scheduler's timesteps
                below t; None: the training scheduler, at every timestep.
            kwargs: Further arguments of ``sample`` (``conditioning, mode, class_labels, conditions, guidance_scale,
                seeds, verbose``).
        Raises:
            ValueError: If t is out of range, or the scheduler cannot start there.
        """
        check_noise_levels(self.scheduler, "reconstruction")
        if not 0 <= timestep < self.scheduler.num_train_timesteps:
            raise ValueError(
                f"timestep={timestep}; choose 0 to num_train_timesteps - 1 = {self.scheduler.num_train_timesteps - 1}"
            )
        sampler = sampler_starting_at(self.scheduler if scheduler is None else scheduler, self.scheduler, timestep)
        x0 = _without_metadata(inputs)
        start = torch.full((len(x0),), timestep, device=x0.device)
        noise = torch.randn_like(x0) if noise is None else _without_metadata(noise)
        x_t = self.scheduler.add_noise(original_samples=x0, noise=noise, timesteps=start)
        return self.sample(x_t, diffusion_model, scheduler=sampler, **{"verbose": False, **kwargs})


class SamplingInferer(Inferer):
    """``(noise, network) -> images``: sampling, as an inferer that MONAI's evaluators can call.

    Args:
        inferer: Inferer that samples.
        scheduler: Scheduler to sample with; None: the inferer's own, at every timestep.
        verbose: Show a progress bar over the timesteps.
        guidance_scale: Scale of classifier-free guidance by ``conditions``, as in ``sample``.
    Raises:
        ValueError: If the scheduler cannot be sampled with.
    """

    def __init__(
        self,
        inferer: InvertibleDiffusionInferer,
        scheduler: Scheduler | None = None,
        verbose: bool = True,
        guidance_scale: float | None = None,
    ) -> None:
        check_sampler(inferer.scheduler if scheduler is None else scheduler)
        self.inferer = inferer
        self.scheduler = scheduler
        self.verbose = verbose
        self.guidance_scale = guidance_scale

    def __call__(self, inputs: Tensor, network: Callable, **kwargs: Any) -> Tensor:
        """Sample images.

        Args:
            inputs: Noise, ``(B, C, *spatial)``.
            network: The diffusion model.
            kwargs: Further arguments of ``sample`` (``class_labels``, ``conditions``, ``guidance_scale``, ``seeds``).
        """
        options = {
            "scheduler": self.scheduler,
            "verbose": self.verbose,
            "guidance_scale": self.guidance_scale,
            **kwargs,
        }
        return self.inferer.sample(inputs, network, **options)


def _steps(
    image: Tensor, network: Any, sampler: Any, conditioning: Any, mode: str, scale: float | None
) -> Iterator[tuple[int, int, Tensor]]:
    """The loop of MONAI's DiffusionInferer: yields where each step starts and ends, -1 after the last, and its image.

    MONAI's copies a timestep to the device in each step, and waits for it; here they are copied once. With a scale of
    guidance, the network's arguments hold two batches: what to guide away from, and what to guide towards.
    """
    if mode != "crossattn" and (mode != "concat" or conditioning is None):
        raise ValueError(f'mode={mode!r}; choose "crossattn", or "concat" with images as conditioning')
    ends = [*sampler.timesteps[1:], sampler.timesteps.new_tensor(-1)]
    on_device = sampler.timesteps.to(image.device, torch.float32, non_blocking=True).split(1)
    for t, end, timestep in zip(sampler.timesteps, ends, on_device, strict=True):
        x, context = image if scale is None else torch.cat([image, image]), conditioning
        if mode == "concat":
            x, context = torch.cat([x, context], 1), None
        output = network(x, timesteps=timestep, context=context)
        if scale is not None:
            away, towards = output.chunk(2)
            output = away + scale * (towards - away)
        flow = [end.clamp(min=0)] if isinstance(sampler, RFlowScheduler) else []
        image, _ = sampler.step(output, t, image, *flow)
        yield int(t), int(end), image


def _without_metadata(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor)


def _twice(x: Tensor | None, away: float | None) -> Tensor | None:
    """A batch twice, the first time with the value ``away`` everywhere, unless that is None."""
    return None if x is None else torch.cat([x if away is None else torch.full_like(x, away), x])


def _with_arguments(
    diffusion_model: Any, seg: Tensor | None, class_labels: Tensor | None, conditions: Tensor | None
) -> Any:
    """Bind arguments that MONAI's inferer never passes to the network, or only to classes that it recognises."""
    arguments: dict[str, Tensor] = {}
    inner = _inner(diffusion_model)
    if isinstance(inner, SPADEDiffusionModelUNet) and seg is None:
        raise ValueError("SPADEDiffusionModelUNet draws under a segmentation; give it as seg")
    if seg is not None:
        if not _takes(inner, "seg"):
            raise ValueError(
                f"{type(inner).__name__} takes no seg, and would draw without it; pass the segmentation as condition "
                f'or conditioning with mode="concat", or use SPADEDiffusionModelUNet'
            )
        arguments["seg"] = _without_metadata(seg)
    if class_labels is not None:
        arguments["class_labels"] = class_labels
    if conditions is not None:
        if not _takes(inner, "conditions"):
            raise ValueError(
                f"{type(inner).__name__} takes no conditions; leave them out, or use InvertibleDiffusionUNet with "
                "num_conditions"
            )
        arguments["conditions"] = _without_metadata(conditions)
    return partial(diffusion_model, **arguments) if arguments else diffusion_model


def _takes(network: Any, argument: str) -> bool:
    function = network.forward if isinstance(network, nn.Module) else network
    return argument in inspect.signature(function).parameters


def _inner(network: Any) -> Any:
    """The network inside ``functools.partial``, ``torch.compile`` and data-parallel wrappers."""
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


def _check_guidance_scale(scale: float, cfg: float | None, conditions: Tensor | None) -> None:
    check_guidance_scale(scale)
    if cfg is not None:
        raise ValueError(f"guidance_scale={scale} besides cfg={cfg}; guide by conditions or by cfg, not by both")
    if conditions is None and scale not in (0, 1):
        warnings.warn(f"guidance_scale={scale} without conditions changes nothing; give conditions", stacklevel=3)


def _refuse_controlnet(third: Any, others: dict[str, Any]) -> None:
    """Refuse calls written for MONAI's ControlNet inferers, whose third argument is the ControlNet."""
    if isinstance(third, ControlNet) or {"controlnet", "cn_cond"} & {*others}:
        raise ValueError(
            "InvertibleDiffusionInferer does not support ControlNet; pass the image as a condition with "
            'mode="concat", or use ControlNetDiffusionInferer with DiffusionModelUNet'
        )
    if others:
        raise TypeError(f"InvertibleDiffusionInferer takes no argument {', '.join(map(repr, others))}")
