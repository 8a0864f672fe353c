"""Guidance by classes, conditions and numbers, against its formula."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler

from monai_idm.inferers import InvertibleDiffusionInferer, SamplingInferer
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.schedulers import (
    StridedDDIMScheduler,
    StridedDDPMScheduler,
    StridedHeunScheduler,
    noise_levels,
    prediction_target,
)
from tests.inferers.small_networks import core_network, our_network, spade_network
from tests.reversible.chains import disturb


@pytest.mark.parametrize("batch", [1, 3])
def test_guidance_by_class_is_the_formula(batch):
    net, scheduler = our_network(num_class_embeds=4), StridedDDIMScheduler(20, "cosine", num_inference_steps=1)
    inferer, noise = InvertibleDiffusionInferer(scheduler), torch.randn(batch, 1, 8, 8)
    labels = torch.arange(batch) + 1
    found = inferer.sample(noise, net, cfg=3.0, class_labels=labels, cfg_class_label=0, verbose=False)
    with torch.no_grad():
        none, towards = (net(noise, torch.tensor([19.0]), class_labels=c) for c in (torch.zeros_like(labels), labels))
    expected, _ = scheduler.fresh().step(none + 3 * (towards - none), 19, noise)
    torch.testing.assert_close(found, expected)


def test_guidance_by_a_condition_keeps_the_classes():
    net = disturb(
        InvertibleDiffusionUNet(2, 2, 1, channels=(16, 32), num_res_blocks=1, attention_levels=(False, False),
                                norm_num_groups=4, embedding_channels=16, num_class_embeds=4)
    ).eval()  # fmt: skip
    scheduler = StridedDDIMScheduler(20, "cosine", num_inference_steps=1)
    noise, condition, labels = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3])
    given = {"conditioning": condition, "mode": "concat", "class_labels": labels, "verbose": False}
    found = InvertibleDiffusionInferer(scheduler).sample(noise, net, cfg=3.0, **given)
    with torch.no_grad():
        none, towards = (
            net(torch.cat([noise, c], 1), torch.tensor([19.0]), class_labels=labels)
            for c in (torch.full_like(condition, -1), condition)
        )
    torch.testing.assert_close(found, scheduler.fresh().step(none + 3 * (towards - none), 19, noise)[0])


def test_guidance_with_a_segmentation_doubles_it():
    net, noise = spade_network(), torch.randn(3, 1, 8, 8)
    seg = torch.rand(3, 2, 8, 8)
    inferer = InvertibleDiffusionInferer(StridedDDIMScheduler(20, "cosine", num_inference_steps=2))
    with pytest.warns(UserWarning, match=r"cfg=2\.0 without conditioning changes nothing"):
        found = inferer.sample(noise, net, seg=seg, cfg=2.0, verbose=False)
    torch.testing.assert_close(found, inferer.sample(noise, net, seg=seg, verbose=False))


def test_guidance_towards_nothing_is_refused():
    net, noise = our_network(num_class_embeds=4), torch.randn(1, 1, 8, 8)
    inferer = InvertibleDiffusionInferer(StridedDDIMScheduler(20, "cosine", num_inference_steps=1))
    with pytest.raises(ValueError, match="has no class to guide away from; give cfg_class_label"):
        inferer.sample(noise, net, cfg=2.0, class_labels=torch.tensor([1]))
    with pytest.raises(ValueError, match="cfg_class_label=0 without class_labels"):
        inferer.sample(noise, net, cfg=2.0, cfg_class_label=0)


CONDITIONS = torch.tensor([[0.5, 1.0], [-2.0, torch.nan]])
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow")


@pytest.mark.parametrize("sampler", [StridedDDPMScheduler, StridedHeunScheduler, RFlowScheduler])
def test_guidance_of_0_is_without_conditions_and_of_1_without_guidance(sampler):
    net, noise, scheduler = our_network(num_conditions=2), torch.randn(2, 1, 8, 8), sampler(20)
    scheduler.set_timesteps(4)
    batches = []
    net.register_forward_pre_hook(lambda net, given: batches.append(len(given[0])))

    def sample(conditions, scale):
        given = {"conditions": conditions, "guidance_scale": scale, "seeds": [3, 4]}
        return InvertibleDiffusionInferer(scheduler).sample(noise, net, verbose=False, **given)

    unconditional = sample(None, None)
    plain = sample(CONDITIONS, None)
    assert (plain - unconditional).abs().max() > 1e-4
    assert torch.equal(sample(CONDITIONS, 0), unconditional)
    assert torch.equal(sample(CONDITIONS, 1), plain)
    assert {*batches} == {2}  # one prediction each
    torch.testing.assert_close(sample(torch.full((2, 2), torch.nan), 3), unconditional)
    assert (sample(CONDITIONS, 2) - plain).abs().max() > 1e-4
    assert max(batches) == 4


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("sampler", [StridedDDPMScheduler, StridedDDIMScheduler, StridedHeunScheduler])
def test_guidance_extrapolates_whatever_is_predicted(sampler, kind):
    scheduler = sampler(100, "cosine", kind, clip_sample=False, num_inference_steps=4)

    def network(x, timesteps, context=None, conditions=None):
        """Knows that the image is 0.3, or is 0.3 brighter under the condition 1."""
        x0 = torch.full_like(x, 0.3)
        if conditions is not None:
            x0 = x0 + 0.3 * conditions.nan_to_num().view(-1, 1, 1, 1)
        t = timesteps.long().expand(len(x))
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in noise_levels(scheduler, t))
        return prediction_target(scheduler, x0, (x - alpha * x0) / sigma, t)

    given = {"conditions": torch.ones(2, 1), "seeds": [3, 4], "verbose": False}
    for scale in (0.5, 2.0, 4.0):
        found = InvertibleDiffusionInferer(scheduler).sample(
            torch.randn(2, 1, 4, 4), network, guidance_scale=scale, **given
        )
        torch.testing.assert_close(found, torch.full_like(found, 0.3 + 0.3 * scale), rtol=0, atol=0.02)


def test_guidance_by_numbers_keeps_all_other_conditions():
    net = disturb(
        InvertibleDiffusionUNet(2, 2, 1, channels=(16, 32), num_res_blocks=1, attention_levels=(False, False),
                                norm_num_groups=4, embedding_channels=16, num_class_embeds=4, num_conditions=2)
    ).eval()  # fmt: skip
    scheduler = StridedDDIMScheduler(20, "cosine", num_inference_steps=1)
    noise, image, labels = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.tensor([1, 3])
    given = {"conditioning": image, "mode": "concat", "class_labels": labels, "conditions": CONDITIONS}
    found = InvertibleDiffusionInferer(scheduler).sample(noise, net, guidance_scale=3, verbose=False, **given)
    with torch.no_grad():
        none, towards = (
            net(torch.cat([noise, image], 1), torch.tensor([19.0]), class_labels=labels, conditions=c)
            for c in (None, CONDITIONS)
        )
    torch.testing.assert_close(found, scheduler.fresh().step(none + 3 * (towards - none), 19, noise)[0])


def test_a_network_without_conditions_refuses_them_by_name():
    scheduler = StridedDDIMScheduler(20, "cosine", num_inference_steps=1)
    inferer, x = InvertibleDiffusionInferer(scheduler), torch.randn(2, 1, 8, 8)
    for call in (inferer.sample, partial(inferer, noise=x, timesteps=torch.zeros(2))):
        with pytest.raises(
            ValueError, match="DiffusionModelUNet takes no conditions; leave them out, or use Invertible"
        ):
            call(x, diffusion_model=core_network(), conditions=CONDITIONS)


def test_an_evaluators_inferer_guides_as_sampling_does():
    net, noise = our_network(num_conditions=2), torch.randn(2, 1, 8, 8)
    inferer = InvertibleDiffusionInferer(StridedDDIMScheduler(20, "cosine", num_inference_steps=2))
    found = SamplingInferer(inferer, verbose=False, guidance_scale=2.0)(noise, net, conditions=CONDITIONS)
    assert torch.equal(found, inferer.sample(noise, net, conditions=CONDITIONS, guidance_scale=2.0, verbose=False))


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
def test_a_scale_below_0_is_refused(scale):
    inferer, noise = InvertibleDiffusionInferer(StridedDDIMScheduler(20, "cosine")), torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match=rf"guidance_scale={scale}; choose 0 .* 1 .* or more"):
        inferer.sample(noise, our_network(num_conditions=2), conditions=CONDITIONS, guidance_scale=scale)


def test_guidance_by_two_scales_is_refused_and_without_conditions_is_warned_of():
    inferer, noise = InvertibleDiffusionInferer(DDIMScheduler(20, "cosine")), torch.randn(2, 1, 8, 8)
    net, given = our_network(num_conditions=2), {"conditions": CONDITIONS, "verbose": False}
    with pytest.raises(ValueError, match=r"guidance_scale=2 besides cfg=3; guide by conditions or by cfg"):
        inferer.sample(noise, net, guidance_scale=2, cfg=3, conditioning=noise, mode="concat", **given)
    with pytest.warns(UserWarning, match="guidance_scale=2 without conditions changes nothing"):
        found = inferer.sample(noise, net, guidance_scale=2, verbose=False)
    assert torch.equal(found, inferer.sample(noise, net, verbose=False))
