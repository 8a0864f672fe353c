"""The compiled, scripted or exported network against the network itself."""

from __future__ import annotations

import copy
import io
import json

import pytest
import torch
from monai.bundle import onnx_export

from monai_idm.networks.branch import ResidualBranch
from monai_idm.reversible import Orthogonal
from monai_idm.reversible.cayley import cayley
from tests.networks.test_invertible_unet import SHALLOW, gradients, small
from tests.reversible.chains import disturb


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


def other_weights(net):
    """Weights of another network of the same architecture."""
    torch.manual_seed(1)
    twin = disturb(copy.deepcopy(net))
    return {name: tensor.clone() for name, tensor in twin.state_dict().items()}


def write(net, weights):
    for name, p in net.named_parameters():
        p.copy_(weights[name])


def write_data(net, weights):
    for name, p in net.named_parameters():
        p.data.copy_(weights[name])


def replace_data(net, weights):
    for name, p in net.named_parameters():
        p.data = weights[name].clone()


def exchange(net, weights):
    for operation in net.core.modules():
        if isinstance(operation, Orthogonal):
            operation.generator = torch.nn.Parameter(operation.generator.detach().clone())
    write(net, weights)


CHANGES = {
    "load": lambda net, weights: net.load_state_dict(weights),
    "assign": lambda net, weights: net.load_state_dict(weights, assign=True),
    "in place": write,
    "data": write_data,
    "new data": replace_data,
    "exchange": exchange,
    "swap": lambda net, weights: [torch.utils.swap_tensors(p, torch.nn.Parameter(weights[name])) for name, p in
                                  [*net.named_parameters()]],
    "part": lambda net, weights: net.core.load_state_dict(
        {name.removeprefix("core."): tensor for name, tensor in weights.items() if name.startswith("core.")}
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_frozen_network_follows_its_weights(change):
    net, x, t, y = case()
    weights = other_weights(net)
    twin = copy.deepcopy(net)
    net.freeze()
    assert torch.equal(net(x, t), y)
    for network in (net, twin):
        CHANGES[change](network, {name: tensor.clone() for name, tensor in weights.items()})
    assert (net(x, t) - y).abs().max() > 0.1
    assert torch.equal(net(x, t), twin(x, t))


@torch.no_grad()
def test_a_frozen_network_follows_its_type_its_copies_and_weights_for_one_call():
    net, x, t, y = case()
    weights, twin = other_weights(net), copy.deepcopy(net)
    moved = copy.deepcopy(net).freeze().float()
    assert torch.equal(moved(x.float(), t), twin.float()(x.float(), t))
    twin = twin.double()
    twin.load_state_dict(weights)
    expected = twin(x, t)
    assert (expected - y).abs().max() > 0.1
    net.freeze()
    lent = torch.func.functional_call(net, weights, (x, t))
    assert torch.equal(net(x, t), y)
    copied = copy.deepcopy(net)
    copied.load_state_dict(weights)
    assert torch.equal(lent, expected)
    assert torch.equal(copied(x, t), expected)
    assert torch.equal(net(x, t), y)  # the original keeps its own weights


@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_network_trains_as_if_it_were_not(training):
    net, x, t, _ = case()
    expected = gradients(net, x, t)
    frozen = net.freeze().train(training)
    found = gradients(frozen, x, t)
    assert any("generator" in name for name in found)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, msg=name)


def test_a_frozen_network_is_scripted_with_its_weights():
    net, x, t, _ = case()
    weights = other_weights(net)
    scripted = torch.jit.script(net.freeze())
    scripted.load_state_dict(weights)
    net.load_state_dict(weights)
    torch.testing.assert_close(scripted(x, t), net(x, t), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("frozen", "batch"),
    [
        ("not frozen", "open"),
        ("frozen", "open"),
        ("frozen before its weights changed", "fixed"),
    ],
)
def test_a_network_exports_to_onnx_with_the_weights_that_it_has(frozen, batch):
    net, x, t, _ = case(**SHALLOW)
    net, x = net.float(), x.float()
    if frozen.startswith("frozen"):
        net.freeze()
    if "changed" in frozen:
        with torch.no_grad():
            write(net, other_weights(net))
    y = net(x, t).detach()
    free = torch.export.Dim("batch")
    shapes = None if batch == "fixed" else ({0: free}, {0: free})
    model = torch.onnx.export(net, (x, t), dynamo=True, dynamic_shapes=shapes, verbose=False).model_proto
    for count in (2,) if batch == "fixed" else (2, 1):
        torch.testing.assert_close(by_onnx(model, x[:count], t[:count]), y[:count], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("use_trace", "frozen"), [(False, True), (True, False)])
def test_monai_exports_the_weights_of_the_file(use_trace, frozen, tmp_path):
    config = {
        "imports": ["$import monai_idm"],
        "network": {"_target_": "InvertibleDiffusionUNet", **case(**SHALLOW)[0].arguments},
        "network_def": "$@network.freeze()" if frozen else "@network",
    }
    (tmp_path / "net.json").write_text(json.dumps(config))
    net, *_ = case(**SHALLOW)
    net = net.float()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    onnx_export(
        "network_def", str(tmp_path / "model.onnx"), str(tmp_path / "model.pt"), config_file=str(tmp_path / "net.json"),
        input_shape=[1, 2, 8, 8, 16], use_trace=use_trace,
    )  # fmt: skip
    x = torch.randn(1, 2, 8, 8, 16)
    with torch.no_grad():
        y = net(x)
    found = by_onnx(pytest.importorskip("onnx").load(tmp_path / "model.onnx"), x)
    torch.testing.assert_close(found, y, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "scale"), [(8, 0.3), (64, 3.0), (256, 1.0), (512, 5.0)])
def test_multiplied_out_a_matrix_is_what_it_is_solved_for(size, scale, monkeypatch):
    generator = scale * torch.randn(2, size, size)
    expected = cayley(generator)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    found = cayley(generator)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def by_onnx(model, *tensors):
    """Output of the model in the ONNX runtime."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
    return torch.from_numpy(found)


@pytest.mark.parametrize("activations", ["rebuilt", "stored"])
def test_compiled_branches_give_the_same_gradients(activations):
    net, x, t, _ = case(**SHALLOW)
    expected = gradients(net.with_activations(activations), x, t)
    for module in net.modules():
        if isinstance(module, ResidualBranch):
            module.compile(backend="aot_eager")
    found = gradients(net.with_activations(activations), x, t)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11, msg=name)
