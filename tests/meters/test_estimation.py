"""An estimate equals what real steps need, measured by counting their tensors."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from monai_idm.meters import (
    OptimizerBytes,
    count_flops,
    denoising_step,
    estimate,
    estimate_flops,
    live_bytes,
    optimizer_bytes,
)
from monai_idm.networks import InvertibleDiffusionUNet, PatchDiffusionUNet
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm
from monai_idm.optimizers.muon import is_kernel

SHAPE = (2, 2, 16, 16, 16)
FOR_LOOP = {"temporaries": 8.0, "all_at_once": False}  # AdamW as it runs on a CPU: two copies of one parameter


def network(**arguments):
    return InvertibleDiffusionUNet(
        3, 2, 2, (32, 64, 128), 1, (False, True, False), num_head_channels=24, embedding_channels=64, **arguments
    )


def kernels_by_muon(parameters, optimizer=AdamWInBackward, **options):
    kernels, others = [], []
    for p in parameters:
        (kernels if is_kernel(p) else others).append(p)
    return optimizer([{"params": others}, {"params": kernels, "muon": True}], **options)


def real_step(net, optimizer) -> tuple[int, int]:
    """Resident and peak bytes of the second step, when the optimizer has its states; without what is offloaded."""
    on_host = {p for module in getattr(optimizer, "offloaded", ()) for p in module.parameters()}
    for _ in range(2):
        here = [p for p in net.parameters() if p not in on_host]
        with live_bytes(here, [*net.buffers()], [optimizer.state.get(p) for p in here]) as memory:
            resident = memory.current_bytes
            denoising_step(net, SHAPE)
            optimizer.step()
            optimizer.zero_grad()
    return resident, memory.peak_bytes


OPTIMIZERS = {  # None: what optimizer_bytes says
    "in backward, 8-bit, Muon": (partial(kernels_by_muon, states="8bit"), None),
    "in backward, Muon": (partial(kernels_by_muon, fused=True), None),
    "Muon": (partial(kernels_by_muon, optimizer=AdamWWeightNorm, fused=True), None),
    "in backward, 8-bit": (partial(AdamWInBackward, states="8bit"), None),
    "for-loop": (torch.optim.AdamW, OptimizerBytes(**FOR_LOOP)),
    "foreach": (lambda p: torch.optim.AdamW(p, foreach=True), None),
    "fused": (lambda p: torch.optim.AdamW(p, fused=True), None),
    "in backward": (AdamWInBackward, OptimizerBytes(**FOR_LOOP, in_backward=True)),
    "in backward, fused": (partial(AdamWInBackward, fused=True), None),
}


@pytest.mark.parametrize(
    ("optimizer", "activations", "precision"),
    [
        *((optimizer, "rebuilt", "float32") for optimizer in OPTIMIZERS),
        ("in backward", "rebuilt", "exact-mixed"),
        ("for-loop", "checkpointed", "float32"),
        ("in backward, fused", "stored", "mixed"),
    ],
)
def test_it_is_what_a_real_step_takes(optimizer, activations, precision):
    if "8-bit" in optimizer:
        pytest.importorskip("bitsandbytes")
    build, formula = OPTIMIZERS[optimizer]
    net = network(activations=activations, precision=precision)
    built = build(net.parameters())
    resident, peak = real_step(net, built)
    estimated = estimate(net, SHAPE, formula or optimizer_bytes(built))
    assert estimated.resident_bytes == pytest.approx(resident, rel=0.002)  # AdamW counts its steps in a tensor
    assert estimated.peak_bytes == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize("levels", [1, 3])
def test_what_is_offloaded_counts_while_it_is_there(levels):
    net = network(precision="mixed")
    built = AdamWInBackward(net.parameters(), fused=True, offload=net.deep_couplings(levels))
    resident, peak = real_step(net, built)
    estimated = estimate(net, SHAPE, optimizer_bytes(built))
    assert estimated.resident_bytes == pytest.approx(resident, rel=0.005)
    assert estimated.peak_bytes == pytest.approx(peak, rel=0.02)
    without = estimate(net, SHAPE, optimizer_bytes(AdamWInBackward(network().parameters(), fused=True)))
    assert estimated.resident_bytes < 0.6 * without.resident_bytes


@pytest.mark.parametrize("states", ["float32", "8bit"])
def test_the_step_of_a_kernel_by_muon_counts(states):
    if states == "8bit":
        pytest.importorskip("bitsandbytes")
    net = network()
    built = kernels_by_muon(net.parameters(), states=states, **({"fused": True} if states == "float32" else {}))
    kernel = max(net.parameters(), key=torch.numel)
    assert is_kernel(kernel)
    for _ in range(2):
        kernel.grad = torch.ones_like(kernel)
        with live_bytes(net, built, kernel.grad) as memory:
            before = memory.current_bytes
            built.step()
    temporaries = optimizer_bytes(built).temporary_bytes(kernel)
    assert temporaries == pytest.approx(memory.peak_bytes - before, rel=0.1)


def test_it_holds_for_a_network_of_another_kind():
    net = PatchDiffusionUNet(3, 2, 2, channels=(8, 16, 32), norm_num_groups=4)
    _, peak = real_step(net, torch.optim.AdamW(net.parameters(), fused=True))
    assert estimate(net, SHAPE, OptimizerBytes(temporaries=0)).peak_bytes == pytest.approx(peak, rel=0.02)


def test_states_may_depend_on_the_parameter():
    net = torch.nn.Linear(3, 5)
    half = OptimizerBytes(states=lambda p: 2 * p.numel() if p.ndim > 1 else 8 * p.numel())
    assert half.state_bytes(net.weight) == 30
    assert half.state_bytes(net.bias) == 40


def test_frozen_weights_have_neither_states_nor_gradients():
    net = network()
    unfrozen = estimate(net, SHAPE)
    for p in net.core.parameters():
        p.requires_grad_(False)
    frozen = estimate(net, SHAPE)
    assert frozen.resident_bytes < 0.5 * unfrozen.resident_bytes
    assert frozen.peak_bytes < unfrozen.peak_bytes


def test_flops_are_those_of_a_real_step():
    net = network()
    assert estimate_flops(net, SHAPE) == count_flops(lambda: denoising_step(net, SHAPE)) > 0


@pytest.mark.parametrize("name", ["in backward, Muon", "Muon", "fused"])
def test_flops_of_the_optimizer_are_those_of_its_step(name):
    net = network()
    optimizer = OPTIMIZERS[name][0](net.parameters())

    def step():
        denoising_step(net, SHAPE)
        optimizer.step()

    assert estimate_flops(net, SHAPE, optimizer_bytes(optimizer)) == count_flops(step)


def test_the_weights_are_neither_read_nor_changed():
    with torch.device("meta"):
        net = network()
    assert estimate(net, SHAPE).peak_bytes > 0
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in net.parameters())
