"""Laws of the invertible network."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch._subclasses import FakeTensorMode

from monai_idm.networks import InvertibleDiffusionUNet
from tests.reversible.chains import disturb


def small(dims=3, **overrides) -> InvertibleDiffusionUNet:
    arguments = {
        "spatial_dims": dims,
        "in_channels": 2,
        "out_channels": 2,
        "channels": (16, 32, 64),
        "num_res_blocks": (1, 2, 1),
        "attention_levels": (False, True, False),
        "num_head_channels": 8,
        "norm_num_groups": 4,
        "embedding_channels": 16,
    }
    return disturb(InvertibleDiffusionUNet(**{**arguments, **overrides}))


# every kind of operation once or twice, for slow tests
SHALLOW = {"channels": (16, 32), "num_res_blocks": 1, "attention_levels": (True, False), "num_head_channels": 4}


def gradients(net, x, t, **kwargs):
    x = x.detach().clone().requires_grad_()
    net.zero_grad()
    y = net(x, t, **kwargs)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return {"x": x.grad, **{name: p.grad for name, p in net.named_parameters()}}


def worst_error(found, expected) -> float:
    """The largest error of any gradient, relative to its norm or to 1e-3 of an even share of the total if larger."""
    total = torch.stack([g.norm() for g in expected.values()]).norm()
    even = total / len(expected) ** 0.5
    return max(float((found[n] - g).norm() / max(g.norm(), 1e-3 * even)) for n, g in expected.items())


def test_presets_have_the_sizes_they_promise():
    counts = {}
    for preset in ("light", "base", "paper"):
        with torch.device("meta"):
            net = InvertibleDiffusionUNet.from_preset(preset)
        counts[preset] = sum(p.numel() for p in net.parameters())
    assert counts["light"] == pytest.approx(3.0e6, rel=0.05)
    assert counts["base"] == pytest.approx(24.26e6, rel=0.005)
    assert counts["paper"] == pytest.approx(343.6e6, rel=0.005)
    assert counts["paper"] == 343_869_826  # the count by design


@pytest.mark.parametrize(("dims", "size"), [(3, (4, 8, 12)), (2, (12, 8))])
@pytest.mark.parametrize("activations", ["rebuilt", "checkpointed"])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_equal_those_of_stored_activations(dims, size, activations, stride):
    net = small(dims, bookend_stride=stride).double()
    x = torch.randn(2, 2, *(stride * side for side in size), dtype=torch.float64)
    t = torch.tensor([3, 700])
    expected = gradients(net.with_activations("stored"), x, t)
    found = gradients(net.with_activations(activations), x, t)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("activations", ["rebuilt", "checkpointed"])
def test_without_bookends_everything_is_rebuilt(activations):
    net = small(bookends=False, in_channels=2, channels=(16, 32, 64)).double()
    assert net.divisor == 8
    assert not list(net.entry.parameters()) + list(net.exit.parameters())
    x, t = torch.randn(2, 2, 16, 8, 24, dtype=torch.float64), torch.tensor([3, 700])
    torch.testing.assert_close(net.exit(net.entry(x)), x)
    expected = gradients(net.with_activations("stored"), x, t)
    found = gradients(net.with_activations(activations), x, t)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-10, msg=name)


def test_light_rebuilds_its_gradients_to_1e_5_in_float32():
    net = disturb(InvertibleDiffusionUNet.from_preset("light"), 0.02)
    x, t = torch.randn(2, 2, 16, 16, 16), torch.tensor([10, 1500])
    expected = gradients(net.with_activations("stored"), x, t)
    assert worst_error(gradients(net.with_activations("rebuilt"), x, t), expected) <= 1e-5


def test_mixed_precision_keeps_streams_in_float32_and_gradients_close():
    net = small(precision="mixed")
    x, t = torch.randn(2, 2, 16, 16, 16), torch.tensor([3, 700])
    assert net(x, t).dtype == torch.float32
    expected = gradients(net.with_activations("stored"), x, t)
    found = gradients(net.with_activations("rebuilt"), x, t)
    total = torch.cat([g.flatten() for g in expected.values()])
    error = torch.cat([(found[n] - g).flatten() for n, g in expected.items()])
    assert error.norm() / total.norm() <= 2e-2
    exact = small(precision="float32")
    exact.load_state_dict(net.state_dict())
    difference = (exact(x, t) - net(x, t)).norm() / exact(x, t).norm()
    assert 1e-4 < difference < 0.1  # bfloat16 was used, and only inside


def test_classes_are_given_with_the_timesteps_or_are_the_first():
    net, x, t = small(num_class_embeds=3).eval(), torch.randn(2, 2, 4, 4, 4), torch.tensor([7])
    labelled = net(x, t, class_labels=torch.tensor([0, 2]))
    torch.testing.assert_close(net(x), net(x, torch.tensor([0]), class_labels=torch.tensor([0, 0])))
    with pytest.raises(ValueError, match="needs class_labels"):
        net(x, t)
    other = net(x, t, class_labels=torch.tensor([1, 2]))
    assert (other[0] - labelled[0]).abs().max() > 1e-4
    torch.testing.assert_close(other[1], labelled[1])


def test_the_core_inverts_itself_and_notices_when_it_does_not():
    net, x = small(), torch.randn(1, 2, 8, 8, 8)
    assert net.reconstruction_error(x, torch.tensor([5])) < 1e-4
    coupling = net.core.operations[0]
    coupling.inverse = lambda outputs, condition, remainders=(): (outputs[1], outputs[0])
    assert net.reconstruction_error(x, torch.tensor([5])) > 1e-2


def test_policies_share_weights_and_state():
    net = small()
    twin = net.with_activations("stored")
    assert twin.activations == "stored"
    assert net.activations == "rebuilt"
    assert all(p is q for p, q in zip(net.parameters(), twin.parameters(), strict=True))
    assert net.state_dict().keys() == twin.state_dict().keys()
    clone = copy.deepcopy(net)
    x = torch.randn(1, 2, 4, 4, 4)
    torch.testing.assert_close(clone(x), net(x))


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    small().load_state_dict(state)
    with pytest.raises(ValueError, match=r"embedding_channels: 16 in the checkpoint, 24 here"):
        small(embedding_channels=24).load_state_dict(state)
    with pytest.raises(ValueError, match="tensors are missing, unknown or of another shape"):
        small(embedding_channels=24).load_state_dict(dict(state))
    # a partial load is possible on request
    small(num_class_embeds=3).load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"spatial_dims": 1}, "2 or 3"),
        ({"channels": (16, 32, 48)}, "twice the channels"),
        ({"channels": (16, 32)}, "one of each per level"),
        ({"attention_levels": (False, False, True)}, "no skip connection"),
        ({"norm_num_groups": 3}, "multiple of 2 \\* norm_num_groups"),
        ({"bookend_stride": 3}, "choose 1, or 2"),
        ({"bookends": False, "in_channels": 1, "out_channels": 1}, "in_channels times a power of 8"),
        ({"bookends": False, "out_channels": 1}, "both ends have as many channels"),
        ({"activations": "kept"}, "'rebuilt', 'checkpointed', 'stored'"),
        ({"precision": "half"}, "'float32', 'mixed'"),
        ({"num_head_channels": 7}, "choose a divisor"),
    ],
)
def test_unfit_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        small(**arguments)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="'light', 'base', 'paper'"):
        InvertibleDiffusionUNet.from_preset("huge")


def test_a_pickled_network_and_inference_mode_give_the_same():
    net, x, t = small(), torch.randn(1, 2, 4, 4, 4), torch.tensor([5])
    clone = pickle.loads(pickle.dumps(net))
    with torch.inference_mode():
        torch.testing.assert_close(clone(x, t), net(x, t))
    assert net(x, t).requires_grad


@pytest.mark.parametrize("precision", ["float32", "mixed", "exact"])
def test_a_step_runs_on_fake_tensors(precision):
    with FakeTensorMode():
        net = InvertibleDiffusionUNet.from_preset("light", precision=precision)
        x = torch.empty(1, 2, 16, 16, 16)
        net(x, torch.zeros(1, dtype=torch.long)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())


@pytest.mark.parametrize("activations", ["rebuilt", "stored"])
def test_the_taylor_remainder_of_the_loss_falls_with_the_square_of_the_step(activations):
    net = small(activations=activations).double()
    x, target = torch.randn(2, 2, 2, 8, 8, 8).double()
    t = torch.tensor([3, 700])
    weights = list(net.parameters())
    start = [p.detach().clone() for p in weights]
    direction = [torch.randn_like(p) for p in weights]

    def loss(step: float) -> torch.Tensor:
        with torch.no_grad():
            for p, p0, d in zip(weights, start, direction, strict=True):
                p.copy_(p0 + step * d)
        return (net(x, t) - target).square().mean()

    at_start = loss(0.0)
    gradient = torch.autograd.grad(at_start, weights)
    slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    steps = [1e-3, 1e-4, 1e-5]
    remainders = torch.stack([(loss(h) - at_start - h * slope).detach().abs() for h in steps])
    order = (remainders[:-1] / remainders[1:]).log10()
    torch.testing.assert_close(order, torch.full_like(order, 2.0), rtol=0, atol=0.1)
