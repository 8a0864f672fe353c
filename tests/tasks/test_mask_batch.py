"""A training step of segmentation: the mask is what is noised, the images are what it is told."""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDPMScheduler

from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.tasks import MaskPrepareBatch


def test_the_network_gets_the_noised_mask_beside_the_condition():
    scheduler = DDPMScheduler(10, prediction_type="sample")
    batch = {"image": torch.randn(2, 5, 4, 4, 4), "label": torch.randint(0, 2, (2, 1, 4, 4, 4)).float()}
    images, target, positional, named = MaskPrepareBatch(scheduler=scheduler)(batch, torch.device("cpu"))
    assert torch.equal(images, 2 * batch["label"] - 1)
    assert torch.equal(target, images)
    asked = []

    def network(x, timesteps, context=None):
        asked.append(x)
        return x[:, :1]

    InvertibleDiffusionInferer(scheduler)(images, network, *positional, **named)
    noisy = scheduler.add_noise(images, named["noise"], named["timesteps"])
    assert torch.equal(asked[0], torch.cat([noisy, batch["image"]], 1))
