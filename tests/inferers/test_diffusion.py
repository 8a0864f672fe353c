"""Laws of the inferers, against MONAI's own and against networks whose predictions are known."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import ControlNetDiffusionInferer, ControlNetLatentDiffusionInferer, DiffusionInferer
from monai.networks.nets import ControlNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler

from monai_idm.inferers import InvertibleDiffusionInferer, SamplingInferer
from monai_idm.networks import InvertibleDiffusionUNet, PatchDiffusionUNet
from monai_idm.reversible import mixing, resample
from monai_idm.schedulers import (
    StridedDDIMScheduler,
    StridedDDPMScheduler,
    StridedHeunScheduler,
)
from tests.inferers.small_networks import core_network, our_network, spade_network


@pytest.mark.parametrize("network", [core_network, our_network])
def test_training_pass_and_sampling_are_those_of_monai(network):
    net = network()
    scheduler = DDPMScheduler(20, "cosine")
    ours, core = InvertibleDiffusionInferer(scheduler), DiffusionInferer(scheduler)
    x, noise, t = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.tensor([3, 17])
    with torch.no_grad():
        torch.testing.assert_close(ours(MetaTensor(x), net, noise, t), core(x, net, noise, t))
    found = []
    for inferer in (ours, core):
        torch.manual_seed(1)
        found.append(inferer.sample(noise, net, verbose=False))
    assert torch.equal(*found)


def test_class_labels_reach_the_network():
    net = our_network(num_class_embeds=3)
    inferer = InvertibleDiffusionInferer(DDPMScheduler(20, "cosine"))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 17])
    one, other = (inferer(x, net, x, t, class_labels=torch.tensor([c, 0])) for c in (1, 2))
    assert (one[0] - other[0]).abs().max() > 1e-4
    torch.testing.assert_close(one[1], other[1])
    sampled = [inferer.sample(x, net, class_labels=torch.tensor([c, 0]), seeds=[0, 1], verbose=False) for c in (1, 2)]
    assert (sampled[0][0] - sampled[1][0]).abs().max() > 1e-4


class Oracle:
    """A network that predicts the added noise exactly."""

    def __init__(self, x0, scheduler):
        self.x0, self.scheduler, self.timesteps = x0, scheduler, []

    def __call__(self, x, timesteps, context=None):
        t = int(timesteps[0])
        self.timesteps.append(t)
        a = self.scheduler.alphas_cumprod[t]
        return (x - a.sqrt() * self.x0) / (1 - a).sqrt()


@pytest.mark.parametrize("few", [None, 10])
def test_reconstruction_starts_at_its_timestep_and_returns_to_the_image(few):
    scheduler = DDPMScheduler(100, "cosine")
    sampler = None if few is None else StridedDDIMScheduler(100, "cosine", num_inference_steps=few)
    x0 = torch.rand(2, 1, 4, 4)
    oracle = Oracle(x0, scheduler)
    back = InvertibleDiffusionInferer(scheduler).reconstruct(x0, oracle, 35, scheduler=sampler)
    torch.testing.assert_close(back, x0, rtol=0, atol=2e-2)
    assert oracle.timesteps == (list(range(35, -1, -1)) if few is None else [35, 29, 19, 9])
    if sampler is not None:
        assert len(sampler.timesteps) == 10  # the scheduler given is not changed


def test_reconstruction_noises_with_the_noise_given():
    seen = []
    net = lambda x, timesteps, context=None: seen.append(x) or torch.zeros_like(x)  # noqa: E731
    scheduler = DDPMScheduler(100, "cosine")
    x0, noise = torch.rand(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    InvertibleDiffusionInferer(scheduler).reconstruct(x0, net, 35, noise)
    torch.testing.assert_close(seen[0], scheduler.add_noise(x0, noise, torch.tensor([35])))


@pytest.mark.parametrize("timestep", [-1, 100])
def test_a_timestep_out_of_range_is_refused(timestep):
    with pytest.raises(ValueError, match="choose 0 to num_train_timesteps - 1 = 99"):
        InvertibleDiffusionInferer(DDPMScheduler(100, "cosine")).reconstruct(torch.zeros(1, 1, 4, 4), None, timestep)


def test_a_sample_by_its_seed_is_the_same_alone_and_in_a_batch():
    net, inferer = our_network(), InvertibleDiffusionInferer(StridedDDPMScheduler(20, "cosine", num_inference_steps=4))
    noise = torch.randn(2, 1, 8, 8)
    both = inferer.sample(noise, net, seeds=[3, 4], verbose=False)
    torch.testing.assert_close(inferer.sample(noise[1:], net, seeds=[4], verbose=False), both[1:])


def test_sampling_behind_two_arguments():
    net, scheduler = our_network(), StridedDDIMScheduler(20, "cosine", num_inference_steps=4)
    inferer = InvertibleDiffusionInferer(DDPMScheduler(20, "cosine"))
    noise = torch.randn(1, 1, 8, 8)
    found = SamplingInferer(inferer, scheduler, verbose=False)(noise, net)
    assert torch.equal(found, inferer.sample(noise, net, scheduler=scheduler, verbose=False))


@pytest.mark.parametrize(
    ("scheduler", "steps", "every", "expected"),
    [
        (DDPMScheduler, 100, 25, 4),  # like MONAI's own inferer, which keeps those of timesteps 75, 50, 25 and 0
        (DDIMScheduler, 100, 25, 4),
        (StridedDDIMScheduler, 100, 25, 4),
        (StridedDDIMScheduler, 10, 100, 1),  # only the last: MONAI's default, with a short training schedule
        (StridedDDIMScheduler, 10, 1, 10),
        (StridedDDIMScheduler, 10, 25, 4),
        (StridedDDPMScheduler, 3, 25, 3),
        (StridedHeunScheduler, 10, 1, 10),
    ],
)
def test_intermediates_are_kept_however_few_the_steps(scheduler, steps, every, expected):
    scheduler, net, noise = scheduler(100, "cosine"), our_network(), torch.randn(1, 1, 8, 8)
    scheduler.set_timesteps(steps)
    ours = InvertibleDiffusionInferer(scheduler)
    torch.manual_seed(1)
    image, kept = ours.sample(noise, net, save_intermediates=True, intermediate_steps=every, verbose=False)
    assert len(kept) == expected
    assert torch.equal(kept[-1], image)
    if steps == 100:
        torch.manual_seed(1)
        _, core = DiffusionInferer(scheduler).sample(
            noise, net, save_intermediates=True, intermediate_steps=every, verbose=False
        )
        assert all(torch.equal(a, b) for a, b in zip(kept, core, strict=True))
    assert "step" not in vars(scheduler)  # the scheduler given is not changed


def test_intermediates_of_ten_steps_at_the_defaults_and_of_flow_matching():
    net, noise = our_network(), torch.randn(1, 1, 8, 8)
    flow = RFlowScheduler(1000)
    flow.set_timesteps(10)
    for scheduler in (StridedDDIMScheduler(1000, "cosine", num_inference_steps=10), flow):
        _, kept = InvertibleDiffusionInferer(scheduler).sample(noise, net, save_intermediates=True, verbose=False)
        assert len(kept) == 10
    with pytest.raises(ValueError, match="intermediate_steps=0; choose"):
        InvertibleDiffusionInferer(flow).sample(noise, net, save_intermediates=True, intermediate_steps=0)


def test_heun_keeps_what_was_corrected():
    scheduler, seen = StridedHeunScheduler(100, "cosine", num_inference_steps=4), []
    net = lambda x, timesteps, context=None: seen.append(x) or 0.1 * x  # noqa: E731
    noise = torch.randn(1, 1, 8, 8)
    _, kept = InvertibleDiffusionInferer(scheduler).sample(
        noise, net, save_intermediates=True, intermediate_steps=1, verbose=False
    )
    assert len(kept) == 4
    assert all(torch.equal(k, x) for k, x in zip(kept[:3], seen[2::2], strict=True))  # where the next step starts


@pytest.mark.parametrize("wrap", [lambda net: net, partial, torch.nn.DataParallel], ids=["bare", "partial", "parallel"])
@pytest.mark.parametrize("classes", [None, 3])
def test_a_spade_network_gets_its_segmentation_and_its_class(wrap, classes):
    net = wrap(spade_network(num_class_embeds=classes))
    scheduler = DDIMScheduler(20, "cosine")
    inferer = InvertibleDiffusionInferer(scheduler)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 17])
    segs = [torch.randint(2, (2, 1, 8, 8), generator=torch.Generator().manual_seed(i)).float() for i in (0, 1)]
    segs = [torch.cat([1 - s, s], 1) for s in segs]
    given = {} if classes is None else {"class_labels": torch.tensor([1, 2])}
    with torch.no_grad():
        for seg in segs:
            expected = net(x=scheduler.add_noise(x, x, t), timesteps=t, seg=seg, **given)
            torch.testing.assert_close(inferer(x, net, x, t, seg=MetaTensor(seg), **given), expected)
    one, other = (inferer.sample(x, net, seg=seg, verbose=False, **given) for seg in segs)
    assert (one - other).abs().max() > 1e-4
    with pytest.raises(ValueError, match="give it as seg"):
        inferer.sample(x, net, verbose=False)


@pytest.mark.parametrize("network", [core_network, our_network, lambda: lambda x, timesteps, context=None: x])
def test_a_segmentation_that_no_one_would_see_is_refused(network):
    inferer, x = InvertibleDiffusionInferer(DDIMScheduler(20, "cosine")), torch.randn(1, 1, 8, 8)
    with pytest.raises(ValueError, match="takes no seg, and would draw without it"):
        inferer.sample(x, network(), seg=x)
    with pytest.raises(ValueError, match="takes no seg, and would draw without it"):
        inferer(x, network(), x, torch.tensor([3]), seg=x)


@pytest.mark.parametrize("mode", ["concat", "concatenate"])
def test_a_mode_that_cannot_be_sampled_in_is_refused(mode):
    inferer, noise = InvertibleDiffusionInferer(StridedDDIMScheduler(20, "cosine")), torch.randn(1, 1, 8, 8)
    with pytest.raises(ValueError, match=f"mode='{mode}'; choose .* with images as conditioning"):
        inferer.sample(noise, our_network(), mode=mode, verbose=False)


def control():
    return ControlNet(2, 1, channels=(8, 16), attention_levels=(False, False), num_res_blocks=1, norm_num_groups=4,
                      conditioning_embedding_num_channels=(8,)).eval()  # fmt: skip


@pytest.mark.parametrize("inferer", [ControlNetDiffusionInferer, ControlNetLatentDiffusionInferer])
@pytest.mark.parametrize("network", ["invertible", "patch"])
def test_our_networks_refuse_a_controlnet_by_name(network, inferer):
    net = (
        our_network()
        if network == "invertible"
        else PatchDiffusionUNet(2, 1, 1, channels=(8, 16), num_res_blocks=1, norm_num_groups=4)
    )
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([3])
    call = {"inputs": x, "diffusion_model": net, "controlnet": control(), "noise": x, "timesteps": t, "cn_cond": x}
    if inferer is ControlNetLatentDiffusionInferer:
        call["autoencoder_model"] = type("Same", (), {"encode_stage_2_inputs": staticmethod(lambda x: x)})()
    with pytest.raises(
        ValueError, match="accepts no residuals of a ControlNet, whose inferers need DiffusionModelUNet"
    ):
        inferer(DDPMScheduler(20, "cosine"))(**call)


def test_our_inferer_refuses_a_controlnet_by_name():
    inferer, x, t = InvertibleDiffusionInferer(DDPMScheduler(20, "cosine")), torch.randn(1, 1, 8, 8), torch.tensor([3])
    for call in (
        lambda: inferer(x, core_network(), control(), x, t, x),
        lambda: inferer(
            inputs=x, diffusion_model=core_network(), controlnet=control(), noise=x, timesteps=t, cn_cond=x
        ),
        lambda: inferer.sample(x, core_network(), control(), x),
        lambda: inferer.sample(x, core_network(), controlnet=control(), cn_cond=x),
    ):
        with pytest.raises(ValueError, match=r"does not support ControlNet.*use ControlNetDiffusionInferer"):
            call()
    with pytest.raises(TypeError, match="no argument 'guidance'"):
        inferer.sample(x, core_network(), guidance=3)


def test_orthogonal_matrices_are_built_once_a_sampling(monkeypatch):
    built = []
    monkeypatch.setattr(mixing, "cayley", lambda g, cayley=mixing.cayley: built.append(g) or cayley(g))
    monkeypatch.setattr(resample, "cayley", mixing.cayley)
    net = InvertibleDiffusionUNet(3, 1, 1, (16, 32), 1, (False, False), 4, embedding_channels=16)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(0))
    inferer = InvertibleDiffusionInferer(StridedDDIMScheduler(100, num_inference_steps=5))
    noise, t = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([50])
    with torch.no_grad():
        sample = inferer.sample(noise, net, verbose=False)
        matrices = len(built)
        one_pass = net(noise, t)
        assert len(built) == 2 * matrices  # outside of a sampling for each pass
        image = noise
        for step in inferer.scheduler.timesteps:
            image, _ = inferer.scheduler.step(net(image, step[None]), step, image)
        assert torch.equal(image, sample)
        next(p for name, p in net.named_parameters() if name.endswith("generator")).data.mul_(2)
        assert not torch.equal(inferer.sample(noise, net, verbose=False), sample)
        assert not torch.equal(net(noise, t), one_pass)
