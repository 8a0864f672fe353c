"""Laws of numeric conditions: what is unknown, what is known, and what neither changes."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nan
from torch._subclasses import FakeTensorMode

from monai_idm.networks import InvertibleDiffusionUNet
from tests.networks.test_export import by_onnx
from tests.networks.test_invertible_unet import SHALLOW, gradients, small
from tests.networks.test_plan import step_bytes

KNOWN = torch.tensor([[-1.5, nan], [0.3, 1.0]])
PLAIN = {"channels": (16, 32), "num_res_blocks": 1, "attention_levels": (False, False)}


def case(**overrides):
    net = small(num_conditions=2, **overrides)
    return net, torch.randn(2, 2, 8, 8, 8), torch.tensor([3, 700])


def test_none_means_that_all_are_unknown():
    net, x, t = case()
    assert torch.equal(net(x, t), net(x, t, conditions=torch.full((2, 2), nan)))
    assert torch.equal(net(x), net(x, torch.zeros(2), conditions=torch.full((2, 2), nan)))


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("value", [0.0, 0.5, -2.0, nan])
def test_a_value_changes_its_own_image_alone(column, value):
    net, x, t = case()
    conditions = torch.tensor([[1.0, 1.0], [0.3, 1.0]])
    before = net(x, t, conditions=conditions)
    conditions[0, column] = value
    after = net(x, t, conditions=conditions.double())
    assert (after[0] - before[0]).abs().max() > 1e-4
    torch.testing.assert_close(after[1], before[1])


def test_unknown_is_not_the_mean():
    net, x, t = case()
    found = [net(x, t, conditions=torch.tensor([values] * 2)) for values in ((0.0, 0.0), (nan, 0.0), (0.0, nan))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] - found[other]).abs().max() > 1e-4


def test_a_new_condition_starts_without_effect():
    arguments = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2, **PLAIN, "embedding_channels": 16}
    torch.manual_seed(0)
    old = InvertibleDiffusionUNet(**arguments)
    torch.manual_seed(0)
    new = InvertibleDiffusionUNet(**arguments, num_conditions=2)
    _, x, t = case(**PLAIN)
    assert torch.equal(new(x, t, conditions=KNOWN), old(x, t))
    missing, unexpected = new.load_state_dict(small(**PLAIN).state_dict(), strict=False)
    assert (missing, unexpected) == (["embedding.conditions.weight"], [])


@pytest.mark.parametrize("conditions", [None, KNOWN])
@pytest.mark.parametrize("precision", ["float32", "mixed", "exact", "exact-mixed"])
def test_gradients_reach_every_weight_whatever_is_known(precision, conditions):
    net = small(num_conditions=2, precision=precision)
    x, t = torch.randn(2, 2, 16, 16, 16), torch.tensor([3, 700])
    found = gradients(net, x, t, conditions=conditions)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())
    unknown, *known = (found["embedding.conditions.weight"].unflatten(1, (2, 8)) != 0).any(0).T
    assert unknown.tolist() == [conditions is None, True]
    assert all(feature.tolist() == [conditions is not None] * 2 for feature in known)


@pytest.mark.parametrize("activations", ["rebuilt", "checkpointed"])
def test_gradients_equal_those_of_stored_activations(activations):
    net, x, t = case(inverse_head=True)
    net, x = net.double(), x.double()
    expected = gradients(net.with_activations("stored"), x, t, conditions=KNOWN)
    found = gradients(net.with_activations(activations), x, t, conditions=KNOWN)
    for name, gradient in expected.items():
        if gradient is not None:  # the inverse has its own
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10, msg=name)
    assert net.inverse(x).isfinite().all()


@pytest.mark.parametrize(
    ("count", "conditions", "match"),
    [
        (
            2,
            torch.zeros(2, 3),
            r"needs conditions of shape \(2, 2\), NaN where unknown, got \(2, 3\)",
        ),
        (2, torch.zeros(2), r"got \(2,\)"),
        (2, torch.zeros(1, 2), r"got \(1, 2\)"),
        (0, torch.zeros(2, 2), r"num_conditions=0 and needs no conditions, got \(2, 2\)"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(count, conditions, match):
    with pytest.raises(ValueError, match=match):
        small(num_conditions=count)(torch.zeros(2, 2, 8, 8, 8), conditions=conditions)


def test_weights_record_their_conditions():
    assert "num_conditions" not in small().arguments  # as in files of earlier versions
    net, x, t = case()
    twin = InvertibleDiffusionUNet.from_preset(net.arguments)
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(twin(x, t, conditions=KNOWN), net(x, t, conditions=KNOWN))
    with pytest.raises(ValueError, match="num_conditions: 2 in the checkpoint, nothing here"):
        small().load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match="num_conditions: nothing in the checkpoint, 2 here"):
        net.load_state_dict(small().state_dict())


@torch.no_grad()
def test_scripted_and_exported_it_says_the_same():
    net, x, t = case(**SHALLOW)
    y, unknown = net.eval()(x, t, conditions=KNOWN), net(x, t)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    torch.testing.assert_close(scripted(x, t, conditions=KNOWN), y, rtol=0, atol=1e-4)
    torch.testing.assert_close(scripted(x, t), unknown, rtol=0, atol=1e-4)
    given = {"conditions": KNOWN}
    free = {0: torch.export.Dim("batch")}
    shapes = {"x": free, "timesteps": free, "conditions": free}
    exported = torch.export.export(net.freeze(), (x, t), given, dynamic_shapes=shapes).module()
    model = torch.onnx.export(
        net, (x, t), kwargs=given, dynamo=True, dynamic_shapes=shapes, verbose=False
    ).model_proto  # fmt: skip
    for count in (2, 1):
        found = exported(x[:count], t[:count], conditions=KNOWN[:count])
        torch.testing.assert_close(found, y[:count], rtol=0, atol=1e-4)
        torch.testing.assert_close(by_onnx(model, x[:count], t[:count], KNOWN[:count]), y[:count], rtol=0, atol=1e-4)


def test_a_step_is_planned_for_and_watched_without_them():
    assert step_bytes("stored", num_conditions=3) == pytest.approx(step_bytes("stored"), rel=0.01)
    net, x, t = case(activations="auto", memory_budget_gib=1.0)
    net(x, t, conditions=KNOWN).sum().backward()
    assert 0 <= net.reconstruction_error(x) < 1e-4
    with FakeTensorMode():
        fake = InvertibleDiffusionUNet.from_preset("light", num_conditions=3)
        fake(torch.empty(1, 2, 16, 16, 16), torch.zeros(1), conditions=torch.empty(1, 3)).sum().backward()
    assert fake.embedding.conditions.weight.grad is not None
