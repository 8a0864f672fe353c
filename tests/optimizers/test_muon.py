"""Muon steps the kernels of convolutions as torch.optim.Muon steps matrices, in and after the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from monai_idm.float32 import float32_as, float32_precisions
from monai_idm.meters import live_bytes
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm, muon, weight_norm_groups
from monai_idm.optimizers.momentum import EightBitMomentum, FullMomentum
from monai_idm.optimizers.muon import muon_step, orthogonalise_
from tests.tf32 import EmulatedTF32

OURS = [AdamWWeightNorm, AdamWInBackward]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 9, 3), nn.Conv3d(9, 12, 3), nn.GroupNorm(1, 12), nn.Conv3d(12, 1, 1))


class Kernel(nn.Module):
    """A matrix as the kernel of network()[1]."""

    def forward(self, matrix):
        return matrix.view(12, 9, 3, 3, 3)

    def right_inverse(self, kernel):
        return kernel.flatten(1)


def loss_of_noise(net, rng):
    return net(torch.randn(1, 1, 6, 6, 6, generator=rng)).square().mean()


def random_gradients(net, rng):
    return sum((layer.weight * torch.randn(layer.weight.shape, generator=rng)).sum() for layer in net)


def train(net, optimizers, steps=4, loss=loss_of_noise):
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(net, torch.Generator().manual_seed(step)).backward()
        for optimizer in optimizers:
            optimizer.step()


def equal(net, twin):
    return all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("make", OURS)
def test_it_equals_torchs_muon_and_adamw(make, memory_format):
    # random, as the little bfloat16 keeps of gradients of low rank would differ
    ours, twin = network().to(memory_format=memory_format), network()
    train(ours, [make(weight_norm_groups(ours, muon=True), lr=1e-2, lambda_l2=0.0)], loss=random_gradients)
    parametrize.register_parametrization(twin[1], "weight", Kernel(), unsafe=True)
    matrix = twin[1].parametrizations.weight.original
    torchs = torch.optim.Muon([matrix], 1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([p for p in twin.parameters() if p is not matrix], 1e-2, weight_decay=0.0)
    train(twin, [torchs, adamw], loss=random_gradients)
    for i in (0, 2, 3):
        torch.testing.assert_close(ours[i].weight, twin[i].weight, rtol=1e-4, atol=1e-5)
    before = network()[1].weight
    assert (ours[1].weight - twin[1].weight).norm() < 0.02 * (twin[1].weight - before).norm()


def as_it_is_defined(x):
    x = x.double() / x.double().norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.mT) @ x + 2.0315 * (x @ x.mT) @ (x @ x.mT) @ x
    return x


@pytest.mark.parametrize("scale", [1e-3, 1e6])
@pytest.mark.parametrize("decay", [0.0, 1.0, 4.0, torch.inf])  # of the singular values; inf: rank 1
@pytest.mark.parametrize("shape", [(16, 432), (64, 64), (100, 20)])
def test_orthogonalising_on_the_small_side_is_the_iteration_in_float64(shape, decay, scale):
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    matrix = (scale * u * torch.arange(1, 1 + min(shape)).pow(-decay) @ v).bfloat16()
    found = matrix.clone()
    orthogonalise_(found)
    expected = as_it_is_defined(matrix)
    assert (found - expected).norm() < 0.005 * expected.norm()


def test_it_is_float32_where_torch_may_multiply_faster():
    found, expected = torch.randn(2, 16, 1).mul(torch.randn(1, 432)).bfloat16().unbind()
    expected.copy_(found)
    orthogonalise_(expected)
    faster = float32_as(["tf32", *float32_precisions()[1:]])  # the first is that of products on CUDA
    with faster, EmulatedTF32() as tf32, torch.autocast("cpu", torch.bfloat16):
        orthogonalise_(found)
    assert tf32.rounded == 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("lambda_l2", [0.0, 0.3])
def test_in_the_backward_pass_and_after_it_are_equal(lambda_l2):
    ours, twin = (net := network()), copy.deepcopy(net)
    for net, make in ((ours, AdamWInBackward), (twin, AdamWWeightNorm)):
        train(net, [make(weight_norm_groups(net, muon=True), lr=1e-2, lambda_l2=lambda_l2)])
    assert equal(ours, twin)
    assert not equal(ours, network())


@pytest.mark.parametrize("make", OURS)
def test_a_resumed_run_is_equal(make):
    ours, twin = network(), network()
    optimizer = make(weight_norm_groups(ours, muon=True), lr=1e-2)
    train(ours, [optimizer], steps=2)
    twin.load_state_dict(ours.state_dict())
    resumed = make(weight_norm_groups(twin, muon=True), lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(ours, [optimizer])
    train(twin, [resumed])
    assert equal(ours, twin)


@pytest.mark.parametrize("make", OURS)
def test_a_run_without_it_is_not_resumed_with_it(make):
    with_it, without = (make(weight_norm_groups(network(), muon=muon)) for muon in (True, False))
    with pytest.raises(ValueError, match="a run without Muon; resume it with --muon false"):
        with_it.load_state_dict(without.state_dict())
    with pytest.raises(ValueError, match="a run with Muon; resume it with --muon true"):
        without.load_state_dict(with_it.state_dict())


@pytest.mark.parametrize("make", OURS)
def test_a_kernel_has_one_state(make):
    net = network()
    optimizer = make(weight_norm_groups(net, muon=True), lr=1e-2)
    train(net, [optimizer], steps=1)
    sizes = [sum(value.numel() for value in optimizer.state[p].values() if value.ndim) for p in net.parameters()]
    assert sizes == [p.numel() if p is net[1].weight else 2 * p.numel() for p in net.parameters()]


def test_all_directions_are_stepped_alike():
    p = nn.Parameter(torch.zeros(16, 9, 3, 3, 3))
    optimizer = AdamWWeightNorm([{"params": [p], "muon": True}], lr=1e-2, lambda_l2=0.0)
    p.grad = torch.randn(16, 243).mul(torch.logspace(-1, 1, 16)[:, None]).view(p.shape)  # rows of all sizes
    optimizer.step()
    sizes = torch.linalg.svdvals(p.detach().flatten(1)) / (1e-2 * 0.2 * 243**0.5)
    assert sizes.min() > 0.3
    assert sizes.max() < 1.5


def test_which_weights_are_kernels():
    net = nn.Sequential(
        nn.Conv3d(1, 16, 3),
        nn.Conv3d(16, 16, 3),
        nn.Conv3d(16, 16, 3, groups=16),
        nn.Linear(16, 16),
        nn.Conv3d(16, 2, 1),
    )
    *_, kernels = weight_norm_groups(net, muon=True)
    assert [id(p) for p in kernels["params"]] == [id(net[1].weight)]


@pytest.mark.parametrize("skip", ["above", "all"])
def test_a_skipped_step_changes_neither_weights_nor_state(skip):
    net = network()
    optimizer = AdamWInBackward(weight_norm_groups(net, muon=True), lr=1e-2)
    train(net, [optimizer], steps=1)
    before = copy.deepcopy([*net.parameters(), *(optimizer.state[p] for p in net.parameters())])
    if skip == "above":
        optimizer.skip_above = 0.0
    else:
        optimizer.skip_all = torch.tensor(True)
    train(net, [optimizer], steps=1)
    after = [*net.parameters(), *(optimizer.state[p] for p in net.parameters())]
    assert str(before) == str(after)


def test_a_step_can_be_skipped_by_a_boolean_on_the_device():
    p, momentum = torch.randn(9, 243), FullMomentum(torch.zeros(9 * 243))
    muon_step(p, torch.randn_like(p), momentum, 1e-2)
    before, mean = p.clone(), momentum.values.clone()
    muon_step(p, torch.randn_like(p), momentum, 1e-2, skip=torch.tensor(True))
    assert torch.equal(p, before)
    assert torch.equal(momentum.values, mean)
    muon_step(p, torch.randn_like(p), momentum, 1e-2, skip=torch.tensor(False))
    assert not torch.equal(p, before)


@pytest.mark.parametrize("shape", [(20, 405), (405, 20)])
def test_a_part_at_a_time_gives_the_same(shape, monkeypatch):
    p, gradient = torch.randn(2, *shape)
    whole, parts = p.clone(), p.clone()
    muon_step(whole, gradient, FullMomentum(torch.zeros(p.numel())), 1e-2)
    monkeypatch.setattr(muon, "PART", 256)
    muon_step(parts, gradient, FullMomentum(torch.zeros(p.numel())), 1e-2)
    torch.testing.assert_close(parts - p, whole - p, rtol=0.05, atol=1e-3 * float((whole - p).abs().max()))


@pytest.fixture
def eight_bit():
    pytest.importorskip("bitsandbytes")


def in_8_bits(net, lr=1e-2):
    return AdamWInBackward(weight_norm_groups(net, muon=True), lr=lr, states="8bit")


def test_8_bits_take_a_byte_and_step_nearly_alike(eight_bit):
    ours, twin = network(), network()
    optimizer = in_8_bits(ours)
    train(ours, [optimizer])
    train(twin, [AdamWInBackward(weight_norm_groups(twin, muon=True), lr=1e-2)])
    kernel, full = ours[1].weight, twin[1].weight
    assert sum(value.nbytes for value in optimizer.state[kernel].values()) < 1.05 * kernel.numel()
    moved = (full - network()[1].weight).norm()
    assert 0 < (kernel - full).norm() < 0.05 * moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bits_resume_equal(eight_bit, dtype, tmp_path):
    ours, twin = network(), network()
    for net in (ours, twin):
        net[1].to(dtype)
        net[1].register_forward_pre_hook(lambda module, x: (x[0].to(module.weight.dtype),))
        net[1].register_forward_hook(lambda _, __, y: y.float())
    optimizer = in_8_bits(ours)
    train(ours, [optimizer], steps=2)
    torch.save([ours.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")
    resumed = in_8_bits(twin, lr=1.0)
    for part, state in zip((twin, resumed), torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    train(ours, [optimizer])
    train(twin, [resumed])
    assert equal(ours, twin)


def test_states_of_the_other_kind_are_refused(eight_bit):
    net = network()
    optimizer = in_8_bits(net)
    train(net, [optimizer], steps=1)
    other = AdamWInBackward(weight_norm_groups(network(), muon=True))
    with pytest.raises(ValueError, match="holds 8bit states"):
        other.load_state_dict(optimizer.state_dict())


def test_a_skipped_step_does_not_round_the_state_again(eight_bit):
    p, state = torch.randn(16, 432), {}
    momentum = EightBitMomentum(state, p.numel(), p.device)
    muon_step(p, torch.randn_like(p), momentum, 1e-2)
    before = {name: value.clone() for name, value in state.items()}, p.clone()
    for _ in range(3):
        muon_step(p, torch.randn_like(p), momentum, 1e-2, skip=torch.tensor(True))
    assert all(torch.equal(before[0][name], value) for name, value in state.items())
    assert torch.equal(before[1], p)


def test_a_large_kernel_needs_under_three_bytes_per_weight_for_its_step(eight_bit, monkeypatch):
    # two for the step, and four small matrices in float32
    net = nn.Conv3d(256, 256, 3, bias=False).bfloat16()
    optimizer = in_8_bits(net)

    def peak():
        with optimizer.hold():
            net.weight.float().square().sum().backward()
        with live_bytes(net.weight.grad) as memory:
            start = memory.current_bytes
            optimizer.step()
        return memory.peak_bytes - start

    peak()  # makes the state
    monkeypatch.setattr(muon, "PART", 2**14)
    assert peak() / net.weight.numel() == pytest.approx(2 + 4 * 4 / 27, abs=0.2)
