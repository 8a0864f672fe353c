"""A validation step of reconstruction: noise each case to a fixed timestep and denoise it again."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.networks.schedulers.scheduler import Scheduler
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_idm.noise import mixed_seed, seeded_noise
from monai_idm.schedulers import check_sampler, noise_levels, predicted_noise, predicted_sample

__all__ = ["ReconstructionIteration"]


class ReconstructionIteration:
    """``iteration_update`` of a MONAI SupervisedEvaluator whose inferer is an InvertibleDiffusionInferer.

    The noise of a case depends only on its name and the seed, so that results can be compared between epochs, whatever
    the batch size and the order of the cases.

    The output holds for each case: ``image``, as in the batch; ``pred``, its reconstruction; ``noisy``, x_t rescaled to
    the image's scale (:math:`x_t / \\sqrt{\\bar\\alpha_t}`); ``noise``; and from a single pass at t ``noise_pred``, the
    predicted noise, and ``one_step``, the predicted image.

    Args:
        timestep: Timestep t that cases are noised to.
        scheduler: Scheduler of the reverse process; None: the training scheduler, at every timestep.
        seed: Seed of the noise.
    Raises:
        ValueError: If ``scheduler`` cannot be used for reconstruction.
    """

    def __init__(self, timestep: int, scheduler: Scheduler | None = None, seed: int = 0) -> None:
        check_sampler(scheduler, reconstructs=True)
        self.timestep = timestep
        self.scheduler = scheduler
        self.seed = seed

    def __call__(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        image = batchdata[CommonKeys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)
        seeds = [mixed_seed(self.seed, subject) for subject in batchdata["subject"]]
        noise = torch.stack([seeded_noise(image.shape[1:], seed) for seed in seeds]).to(image).as_subclass(Tensor)
        inferer, training = engine.inferer, engine.inferer.scheduler
        given = {
            name: batchdata[key].to(image.device, non_blocking=engine.non_blocking)
            for key, name in (("class_label", "class_labels"), ("conditions", "conditions"))
            if key in batchdata
        }
        t = torch.full((len(image),), self.timestep, device=image.device)
        # forked: MONAI's stochastic samplers take no seeds, and would change what training draws next
        with engine.mode(engine.network), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            options = {"scheduler": self.scheduler, "seeds": seeds, **given}
            pred = inferer.reconstruct(image, engine.network, self.timestep, noise, **options)
            output = inferer(image, engine.network, noise, t, **given)
        x_t = training.add_noise(image.as_subclass(Tensor), noise, t)
        engine.state.output = {
            CommonKeys.IMAGE: image,
            CommonKeys.PRED: pred,
            "noisy": x_t / noise_levels(training, self.timestep)[0],
            "noise": noise,
            "noise_pred": predicted_noise(training, output, self.timestep, x_t),
            "one_step": predicted_sample(training, output, self.timestep, x_t),
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
