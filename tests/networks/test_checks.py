"""The inputs that both networks refuse, and those that both accept."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from tests.networks import test_invertible_unet, test_patch_unet

NETWORKS = {
    "reversible": test_invertible_unet.small,
    "with classes": lambda: test_invertible_unet.small(num_class_embeds=3),
    "PatchDDM": test_patch_unet.small,
}
LABELS = {"with classes": {"class_labels": torch.tensor([0, 2])}}


@pytest.mark.parametrize(
    ("shape", "arguments", "match"),
    [
        ((1, 2, 6, 8, 8), {}, r"\(6, 8, 8\) is not divisible by 4 on every axis; pad to \(8, 8, 8\)"),
        ((1, 2, 8, 8, 8), {"context": torch.zeros(1)}, 'mode="concat"'),
        ((1, 2, 8, 8, 8), {"mid_block_additional_residual": torch.zeros(1)}, "no residuals of a ControlNet"),
        ((1, 3, 8, 8, 8), {}, "in_channels=2"),
        ((1, 2, 8, 8), {}, "spatial_dims=3"),
        ((3, 2, 8, 8, 8), {"timesteps": torch.tensor([1, 2])}, "for a batch of 3"),
        ((1, 2, 8, 8, 8), {"class_labels": torch.tensor([1])}, "needs no class_labels|has no class conditioning"),
    ],
)
@pytest.mark.parametrize("network", ["reversible", "PatchDDM"])
def test_unfit_inputs_are_refused(network, shape, arguments, match):
    with pytest.raises(ValueError, match=match):
        NETWORKS[network]()(torch.zeros(shape), **arguments)


@pytest.mark.parametrize("network", NETWORKS)
def test_timesteps_may_be_one_for_all_integer_float_or_absent(network):
    net, x, labels = NETWORKS[network]().eval(), torch.randn(2, 2, 4, 4, 4), LABELS.get(network, {})
    full = net(x, torch.tensor([7, 7]), **labels)
    torch.testing.assert_close(net(x, torch.tensor([7]), **labels), full)
    torch.testing.assert_close(net(x, torch.tensor([7.0]), **labels), full)
    torch.testing.assert_close(net(x, **labels), net(x, torch.tensor([0, 0]), **labels))
    assert (net(x, **labels) - full).abs().max() > 1e-4


@pytest.mark.parametrize("network", ["reversible", "PatchDDM"])
def test_metadata_of_an_input_changes_nothing(network):
    net, x = NETWORKS[network](), torch.randn(1, 2, 4, 4, 4)
    y = net(MetaTensor(x))
    assert type(y) is torch.Tensor
    torch.testing.assert_close(y, net(x))
