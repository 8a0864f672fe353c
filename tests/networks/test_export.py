"""The network as a compiled, scripted or exported program, against itself."""

from __future__ import annotations

import io

import pytest
import torch

from monai_idm.networks.branch import ResidualBranch
from tests.networks.test_invertible_unet import gradients, small


def case(dims=3, batch=2, **overrides):
    net = small(dims, **overrides).double().eval()
    x, t = torch.randn(batch, 2, *(8, 8, 16)[:dims]).double(), torch.tensor([3, 700])[:batch]
    with torch.no_grad():
        return net, x, t, net(x, t)


@pytest.mark.parametrize("overrides", [{}, {"precision": "exact"}, {"bookend_stride": 2}])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_scripted_network_says_the_same(dims, overrides):
    net, x, t, y = case(dims, **overrides)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    torch.testing.assert_close(scripted(x, t), y, rtol=0, atol=1e-10)
    torch.testing.assert_close(scripted(x), net(x), rtol=0, atol=1e-10)
    with pytest.raises(torch.jit.Error, match="no cross-attention"):
        scripted(x, t, context=x)


def test_a_scripted_network_takes_classes():
    net, x, t = small(num_class_embeds=3).double(), torch.randn(2, 2, 8, 8, 8).double(), torch.tensor([3, 700])
    labels = torch.tensor([0, 2])
    y = torch.jit.script(net)(x, t, class_labels=labels)
    torch.testing.assert_close(y, net(x, t, class_labels=labels), rtol=0, atol=1e-10)


def test_freezing_changes_no_result_and_is_not_saved():
    net, x, t, y = case()
    names = set(net.state_dict())
    assert torch.equal(net.freeze()(x, t), y)
    assert set(net.state_dict()) == names


@pytest.mark.parametrize("batch", ["fixed", "open"])
def test_a_frozen_network_exports_to_onnx(batch):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, x, t, y = case()
    net, x, y = net.float().freeze(), x.float(), y.float()
    free = torch.export.Dim("batch")
    shapes = None if batch == "fixed" else ({0: free}, {0: free})
    model = torch.onnx.export(net, (x, t), dynamo=True, dynamic_shapes=shapes, verbose=False).model_proto
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image, timesteps = (given.name for given in session.get_inputs())
    for count in (2,) if batch == "fixed" else (2, 1):
        (found,) = session.run(None, {image: x[:count].numpy(), timesteps: t[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), y[:count], rtol=0, atol=1e-4)


@pytest.mark.parametrize("activations", ["rebuilt", "stored"])
def test_compiled_branches_give_the_same_gradients(activations):
    net, x, t, _ = case()
    expected = gradients(net.with_activations(activations), x, t)
    for module in net.modules():
        if isinstance(module, ResidualBranch):
            module.compile(backend="aot_eager")
    found = gradients(net.with_activations(activations), x, t)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11, msg=name)
