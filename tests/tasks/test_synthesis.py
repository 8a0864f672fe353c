"""Synthesis: what the network sees and which class it is given, in training and in sampling."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_idm.losses import InvertibleDiffusionLoss
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.schedulers import StridedDDIMScheduler, StridedDDPMScheduler
from monai_idm.tasks import ChooseKnownd, DiffusionSynthesisInferer, Synthesis, TrainingStep
from tests.reversible.chains import disturb
from tests.tasks.supervised import trainer

SIZE = (8, 12, 8)
NAMES = ("t1", "t1ce", "t2")


def scheduler(cls=StridedDDIMScheduler, steps=4):
    return cls(100, "cosine", "sample", num_inference_steps=steps)


def batch(known=(("t1",), ("t1", "t2"))):
    """Cases with different known contrasts."""
    volumes = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    items = [ChooseKnownd("image", NAMES, k)({"image": v}) for k, v in zip(known, volumes, strict=True)]
    return {key: torch.stack([item[key] for item in items]) for key in ("image", "target")}


class Watched(nn.Module):
    """Predicts a function of its input and class, and records both."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, x, timesteps, context=None, class_labels=None):
        self.seen.append((x, class_labels))
        return self.scale * torch.tanh(x + class_labels.view(-1, 1, 1, 1, 1))


@pytest.mark.parametrize("patch_size", [None, (8, 8, 8)])
def test_the_network_sees_known_contrasts_clean_and_is_told_which_they_are(patch_size):
    cases, network = batch(), Watched()
    window = None if patch_size is None else SlidingWindowInferer(patch_size, overlap=0.25)
    found = DiffusionSynthesisInferer(scheduler(), 3, window=window)(cases["image"], network)
    for case, channel in ((0, 0), (1, 0), (1, 2)):
        assert torch.equal(found[case, channel], cases["target"][case, channel])
    if patch_size is None:
        for x, labels in network.seen:
            assert labels.tolist() == [0b001, 0b101]
            assert torch.equal(x[0, 0], cases["target"][0, 0])
            assert not torch.equal(x[0, 1], cases["target"][0, 1])
    else:
        assert {tuple(x.shape[1:]) for x, _ in network.seen} == {(3, *patch_size)}
        assert {int(label) for _, labels in network.seen for label in labels} == {0b001, 0b101}


def test_a_window_larger_than_the_volume_still_tells_what_is_known():
    network = Watched()
    inferer = DiffusionSynthesisInferer(scheduler(), 3, window=SlidingWindowInferer((16, 16, 16)))
    inferer(batch()["image"], network)
    assert {int(label) for _, labels in network.seen for label in labels} == {0b001, 0b101}


def test_in_training_known_contrasts_are_clean_and_cost_nothing():
    cases, network = batch(), Watched()
    step = TrainingStep(Synthesis(NAMES), scheduler(StridedDDPMScheduler))
    engine, outputs = trainer(step, [cases], network)
    engine.run()
    (x, labels), prediction, target = network.seen[0], outputs[0]["pred"], outputs[0]["label"]
    assert labels.tolist() == [0b001, 0b101]
    images = cases["target"]
    for case, known in ((0, [0]), (1, [0, 2])):
        for channel in range(3):
            assert torch.equal(x[case, channel], images[case, channel]) == (channel in known)
            if channel in known:
                assert not prediction[case, channel].any()
                assert not target[case, channel].any()
            else:
                assert torch.equal(target[case, channel], images[case, channel])  # prediction_type "sample"


@pytest.mark.parametrize("cls", [StridedDDIMScheduler, StridedDDPMScheduler])
def test_draws_differ_are_averaged_and_do_not_depend_on_the_rest_of_the_batch(cls):
    cases = batch()
    draw = DiffusionSynthesisInferer(scheduler(cls), 3, num_draws=3, seed=5)
    torch.manual_seed(0)
    three = draw.draws(cases["image"], Watched())
    assert three.shape == (2, 3, 3, *SIZE)
    assert not torch.equal(three[0, 0, 1], three[0, 1, 1])
    assert torch.equal(draw(cases["image"], Watched()), three.mean(1))
    torch.manual_seed(1)
    alone = DiffusionSynthesisInferer(scheduler(cls), 3, seed=6).draws(cases["image"][1:], Watched())
    torch.testing.assert_close(alone[:, 0], three[1:, 1])


def test_a_real_network_learns_and_synthesises():
    network = InvertibleDiffusionUNet(3, 3, 3, channels=(16, 32), num_res_blocks=1, num_class_embeds=8, **SMALL)
    disturb(network)
    cases = batch()
    step = TrainingStep(Synthesis(NAMES), scheduler(StridedDDPMScheduler))
    trainer(step, [cases], network, loss=InvertibleDiffusionLoss(network))[0].run()
    used = network.embedding.classes.weight.grad.abs().sum(1) > 0
    assert used.nonzero().flatten().tolist() == [0b001, 0b101]
    found = DiffusionSynthesisInferer(scheduler(steps=2), 3)(cases["image"], network)
    assert found.shape == (2, 3, *SIZE)


SMALL = {"attention_levels": (False, False), "norm_num_groups": 4, "embedding_channels": 16, "num_head_channels": 8}


def test_an_input_without_masks_is_refused():
    with pytest.raises(ValueError, match="6 channels, the contrasts and which are known: use ChooseKnownd"):
        DiffusionSynthesisInferer(scheduler(), 3)(batch()["target"], Watched())
    for contrasts, draws in ((0, 1), (3, 0)):
        with pytest.raises(ValueError, match=f"{draws} draws of {contrasts} channels; choose 1 or more of each"):
            DiffusionSynthesisInferer(scheduler(), contrasts, num_draws=draws)
