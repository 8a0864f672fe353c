"""U^-1 of eq. 8."""

from __future__ import annotations

import pytest
import torch

from monai_idm.losses import InvertibleDiffusionLoss
from tests.networks.test_invertible_unet import small


def loss_gradients(net, lambda_r: float) -> dict[str, torch.Tensor]:
    loss = InvertibleDiffusionLoss(net, lambda_r)
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, 2, 2, 8, 8, 8, generator=generator, dtype=torch.float64)
    net.zero_grad()
    loss(net(x, torch.tensor([3, 700])), target, x).backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("activations", ["rebuilt", "checkpointed", ("stored", "rebuilt", "checkpointed")])
def test_gradients_through_forward_and_inverse_equal_those_of_stored_activations(activations):
    net = small(inverse_head=True).double()
    expected = loss_gradients(net.with_activations("stored"), 0.5)
    found = loss_gradients(net.with_activations(activations), 0.5)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def test_the_core_of_the_inverse_is_the_inverse_of_the_core():
    net = small(bookends=False, channels=(16, 32, 64), inverse_head=True).double()
    x = torch.randn(2, 2, 16, 16, 16).double()
    with torch.no_grad():
        net.inverse_head.embedding.copy_(net.embedding(torch.tensor([250]), None)[0])
        torch.testing.assert_close(net.inverse(net(x, torch.tensor([250]))), x, rtol=0, atol=1e-10)
        assert (net.inverse(net(x, torch.tensor([1500]))) - x).abs().max() > 1e-3


@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 2), (2, 2)])
def test_shapes(in_channels, out_channels):
    net = small(in_channels=in_channels, out_channels=out_channels, inverse_head=True)
    y = net(torch.randn(1, in_channels, 8, 8, 8))
    assert net.inverse(y).shape == (1, in_channels, 8, 8, 8)
    with pytest.raises(ValueError, match=r"input of shape \(1, 5, 8, 8, 8\)"):
        net.inverse(torch.randn(1, 5, 8, 8, 8))


def test_the_second_term_is_the_error_of_the_input_that_is_rebuilt_from_the_output():
    net = small(inverse_head=True)
    x, t, target = torch.randn(1, 2, 8, 8, 8), torch.tensor([3]), torch.randn(1, 2, 8, 8, 8)
    loss = InvertibleDiffusionLoss(net, 0.5)
    y = net(x, t)
    second = 0.5 * (net.inverse(y) - x).square().mean()
    assert loss(y, target, x) == (y - target).square().mean() + second
    assert loss(0 * y, target, x, output=y) == target.square().mean() + second
    with pytest.raises(ValueError, match=r"lambda_r=0\.5 needs the network's input x"):
        loss(y, target)


def test_without_lambda_r_the_loss_is_the_error_of_the_prediction():
    net = small()
    prediction, target = net(torch.randn(1, 2, 8, 8, 8)), torch.randn(1, 2, 8, 8, 8)
    assert InvertibleDiffusionLoss(net)(prediction, target) == (prediction - target).square().mean()


def test_the_inverse_must_exist():
    with pytest.raises(ValueError, match="set inverse_head=True"):
        small().inverse(torch.randn(1, 2, 8, 8, 8))
    with pytest.raises(ValueError, match="build it with inverse_head=True"):
        InvertibleDiffusionLoss(small(), 0.1)
    with pytest.raises(ValueError, match="choose 0 to 1"):
        InvertibleDiffusionLoss(small(inverse_head=True), 2.0)


def test_a_network_without_the_inverse_takes_weights_with_it():
    trained, plain = small(inverse_head=True), small()
    plain.load_state_dict(trained.state_dict())
    x, t = torch.randn(1, 2, 8, 8, 8), torch.tensor([3])
    assert torch.equal(plain(x, t), trained(x, t))
    with pytest.raises(ValueError, match="inverse_head: False in the checkpoint, True here"):
        trained.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="num_head_channels"):
        small(num_head_channels=4).load_state_dict(trained.state_dict())
