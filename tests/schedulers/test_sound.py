"""With a perfect network, every scheduler either gives the right image or is refused by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, PNDMScheduler, RFlowScheduler
from monai.networks.schedulers.scheduler import Scheduler

from monai_idm.inferers import InvertibleDiffusionInferer, SamplingInferer
from monai_idm.schedulers import (
    DPMSolverPlusPlusScheduler,
    StridedDDIMScheduler,
    StridedDDPMScheduler,
    StridedHeunScheduler,
    StridedScheduler,
    check_sampler,
    fresh_sampler,
    named_sampler,
)
from monai_idm.tasks import DiffusionSegmentationInferer, GenerateVolumes, ReconstructionIteration

T = 100
TEN = {"num_train_timesteps": T, "schedule": "cosine", "num_inference_steps": 10}
OURS = [StridedDDPMScheduler, StridedDDIMScheduler, DPMSolverPlusPlusScheduler, StridedHeunScheduler]
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def few(scheduler, steps):
    scheduler.set_timesteps(steps)
    return scheduler


class Perfect:
    """A network that knows the image and the noise added to it, or the image alone."""

    def __init__(self, training, x0, noise):
        self.training, self.x0, self.noise = training, x0, noise

    def __call__(self, x, timesteps, context=None):
        if isinstance(self.training, RFlowScheduler):
            return self.x0 - self.noise
        a = self.training.alphas_cumprod[int(timesteps[0])]
        noise = (x - a.sqrt() * self.x0) / (1 - a).sqrt() if self.noise is None else self.noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * self.x0
        return {"epsilon": noise, "sample": self.x0, "v_prediction": velocity}[self.training.prediction_type]


def case():
    draw = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, 4, 4, generator=draw) * 1.6 - 0.8, torch.randn(2, 1, 4, 4, generator=draw)


def reconstructed(training, scheduler, timestep, by_image=False):
    x0, noise = case()
    network = Perfect(training, x0, None if by_image else noise)
    return InvertibleDiffusionInferer(training).reconstruct(x0, network, timestep, noise, scheduler), x0


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("timestep", [0, 1, 37, 99])
@pytest.mark.parametrize("steps", [1, 7, 20, T])
@pytest.mark.parametrize("sampler", OURS)
def test_ours_reconstruct_the_image(sampler, steps, timestep, prediction_type):
    training = StridedDDPMScheduler(T, "cosine", prediction_type)
    scheduler = sampler(T, "cosine", prediction_type, num_inference_steps=steps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # DDPM adds noise; Heun's slopes are of second order, exact only where they follow the sample
        by_image = sampler in (StridedDDPMScheduler, StridedHeunScheduler)
        found, x0 = reconstructed(training, scheduler, timestep, by_image)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-3)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("timestep", [0, 37, 99])
@pytest.mark.parametrize(("sampler", "adds_noise"), [(DDPMScheduler, True), (DDIMScheduler, False)])
def test_those_of_monai_reconstruct_the_image_with_every_step(sampler, adds_noise, timestep, prediction_type):
    scheduler = sampler(T, "cosine", prediction_type=prediction_type)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, x0 = reconstructed(scheduler, scheduler, timestep, adds_noise)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-3)


def test_ddim_of_monai_warns_below_every_step():
    training = DDIMScheduler(T, "cosine")
    with pytest.warns(
        UserWarning, match="DDIMScheduler steps from timestep 37 to 32 and not to the next one, 36.*Strided"
    ):
        found, x0 = reconstructed(training, few(DDIMScheduler(T, "cosine"), 20), 37)
    assert (found - x0).abs().max() > 0.01  # the warning is justified
    manual = few(DDIMScheduler(T, "cosine"), 20)
    manual.timesteps = torch.arange(99, -1, -5)  # its steps do fit these timesteps
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, x0 = reconstructed(training, manual, 99)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-3)


def test_ddpm_of_monai_with_steps_left_out_is_refused_and_as_a_drop_in_warns():
    scheduler = few(DDPMScheduler(T, "cosine"), 10)
    with pytest.raises(ValueError, match=r"DDPMScheduler steps from timestep 35 to 34 .* use StridedDDPMScheduler"):
        reconstructed(DDPMScheduler(T, "cosine"), scheduler, 35)
    cut = DDPMScheduler(T, "cosine")
    cut.timesteps = cut.timesteps[:-3]  # ends too early
    with pytest.raises(ValueError, match="from timestep 3 to 2 and not to the noiseless image after the last one"):
        check_sampler(cut)
    x0, noise = case()
    with pytest.warns(UserWarning, match="DDPMScheduler steps from timestep"):
        InvertibleDiffusionInferer(scheduler).sample(noise, Perfect(scheduler, x0, None), verbose=False)


def uses(scheduler):
    """Every place where a scheduler is sampled with."""
    training, noise = StridedDDPMScheduler(T, "cosine"), torch.zeros(1, 1, 4, 4)
    inferer = InvertibleDiffusionInferer(training)
    return {
        "sample": lambda: inferer.sample(noise, Perfect(training, noise, None), scheduler, verbose=False),
        "reconstruct": lambda: inferer.reconstruct(noise, None, 50, scheduler=scheduler),
        "SamplingInferer": lambda: SamplingInferer(inferer, scheduler),
        "its own": lambda: SamplingInferer(InvertibleDiffusionInferer(scheduler)),
        "DrawingInferer": lambda: DiffusionSegmentationInferer(scheduler),
        "ReconstructionIteration": lambda: ReconstructionIteration(50, scheduler),
        "GenerateVolumes": lambda: GenerateVolumes((4, 4, 4), 1, scheduler=scheduler),
    }


@pytest.mark.parametrize("use", uses(None))
def test_pndm_is_refused_by_name_everywhere(use):
    for scheduler in (PNDMScheduler(T, "cosine"), few(PNDMScheduler(T, "cosine", skip_prk_steps=True), 20)):
        with pytest.raises(ValueError, match=r"PNDMScheduler mixes .* sample with DPMSolverPlusPlusScheduler"):
            uses(scheduler)[use]()


@pytest.mark.parametrize("use", sorted({*uses(None)} - {"sample"}))
def test_ddpm_with_steps_left_out_is_refused_everywhere_else(use):
    with pytest.raises(ValueError, match="DDPMScheduler steps from timestep"):
        uses(few(DDPMScheduler(T, "cosine"), 10))[use]()


def test_flow_matching_samples_the_image_and_without_timesteps_is_refused():
    x0, noise = case()
    scheduler = RFlowScheduler(T)
    inferer = InvertibleDiffusionInferer(scheduler)
    with pytest.raises(ValueError, match=r"RFlowScheduler has no timesteps .* call its set_timesteps"):
        inferer.sample(noise, None)
    found = inferer.sample(noise, Perfect(few(scheduler, 7), x0, noise), verbose=False)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", [DPMSolverPlusPlusScheduler, StridedHeunScheduler])
def test_an_interrupted_sampling_leaves_nothing_to_the_next(sampler):
    x0, noise = case()

    def network(x, timesteps, context=None):  # not perfect, so that the image depends on the start
        return x * 0.3 + timesteps / T

    used = sampler(T, "cosine", num_inference_steps=10)
    inferer = InvertibleDiffusionInferer(used)
    expected = inferer.sample(noise, network, verbose=False)
    for t in used.timesteps[:1]:  # a user's own loop, on other images, that is interrupted
        used.step(torch.full_like(x0, 5.0), t, torch.full_like(x0, 5.0))
    remembered = dict(vars(used))
    assert torch.equal(inferer.sample(noise, network, verbose=False), expected)
    place = int(used.timesteps[1])  # where the interrupted sampling would have continued
    back = [inferer.reconstruct(x0, network, place, noise, s) for s in (used, named_sampler(sampler.__name__, **TEN))]
    assert torch.equal(*back)
    assert vars(used).keys() == remembered.keys()  # the scheduler passed in is not changed
    assert all(vars(used)[name] is value for name, value in remembered.items())


class Foreign(Scheduler):
    """A user's scheduler with a memory of earlier outputs, cleared by set_timesteps as in MONAI."""

    prediction_type = "epsilon"

    def __init__(self, num_train_timesteps):
        super().__init__(num_train_timesteps, "cosine")
        self.set_timesteps(10)

    def set_timesteps(self, num_inference_steps, device=None):
        self.num_inference_steps, self.before = num_inference_steps, []
        self.timesteps = torch.arange(99, -1, -10)

    def step(self, model_output, timestep, sample):
        self.before.append(model_output)
        return sum(self.before) / len(self.before), model_output


def test_an_unknown_scheduler_starts_afresh_with_its_own_timesteps_and_reconstruction_warns():
    scheduler = Foreign(T)
    scheduler.timesteps = torch.tensor([80, 3])
    scheduler.before.append(torch.ones(1))
    fresh = fresh_sampler(scheduler)
    assert fresh.before == []
    assert fresh.timesteps.tolist() == [80, 3]
    assert len(scheduler.before) == 1
    with pytest.warns(UserWarning, match="Foreign is not known to start correctly from timestep 35"):
        reconstructed(StridedDDPMScheduler(T, "cosine"), scheduler, 35)


class OwnSteps(DDPMScheduler):
    """A subclass whose steps fit its timesteps."""

    def step(self, model_output, timestep, sample, generator=None):
        return model_output, model_output


def test_a_subclass_is_judged_by_its_own_steps():
    check_sampler(few(OwnSteps(T, "cosine"), 10))
    with pytest.raises(ValueError, match="PNDMScheduler mixes"):
        check_sampler(type("PNDMScheduler", (PNDMScheduler,), {})(T, "cosine"))


def test_a_way_back_of_another_training_is_said():
    with pytest.raises(ValueError, match="has num_train_timesteps=50, the training scheduler 100"):
        reconstructed(DDPMScheduler(T, "cosine"), StridedDDIMScheduler(50, "cosine"), 30)
    for other, message in (
        (StridedDDIMScheduler(T, "linear_beta"), "other noise levels"),
        (StridedDDIMScheduler(T, "cosine", "v_prediction"), "prediction_type=v_prediction, not epsilon"),
    ):
        with pytest.warns(UserWarning, match=message):
            reconstructed(DDPMScheduler(T, "cosine"), other, 30)


def test_every_scheduler_of_ours_is_tried_here():
    assert {*StridedScheduler.__subclasses__()} == {*OURS}
