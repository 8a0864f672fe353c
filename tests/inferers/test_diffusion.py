"""Laws of the inferers, against MONAI's own and against networks whose answer is known."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler

from monai_idm.inferers import InvertibleDiffusionInferer, SamplingInferer
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.schedulers import StridedDDIMScheduler, StridedDDPMScheduler
from tests.reversible.chains import disturb


def core_network():
    return disturb(
        DiffusionModelUNet(2, 1, 1, channels=(8, 16), attention_levels=(False, False), num_res_blocks=1,
                           norm_num_groups=4, num_class_embeds=None)
    ).eval()  # fmt: skip


def our_network(**kwargs):
    return disturb(
        InvertibleDiffusionUNet(
            2, 1, 1, channels=(16, 32), num_res_blocks=1, attention_levels=(False, False), norm_num_groups=4,
            embedding_channels=16, **kwargs
        )
    ).eval()  # fmt: skip


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
    """A network that knows the noise that was added."""

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
    way_back = None if few is None else StridedDDIMScheduler(100, "cosine", num_inference_steps=few)
    x0 = torch.rand(2, 1, 4, 4)
    oracle = Oracle(x0, scheduler)
    back = InvertibleDiffusionInferer(scheduler).reconstruct(x0, oracle, 35, scheduler=way_back)
    torch.testing.assert_close(back, x0, rtol=0, atol=2e-2)
    assert oracle.timesteps == (list(range(35, -1, -1)) if few is None else [35, 29, 19, 9])
    if way_back is not None:
        assert len(way_back.timesteps) == 10  # the scheduler given is not changed


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
