"""A step that needs too much memory ends with switches that would make it fit."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from monai_idm.failures import OutOfMemory
from monai_idm.handlers import MemoryAdvice, memory_advice
from monai_idm.meters import EIGHT_BIT_IN_BACKWARD, IN_BACKWARD, Estimate, estimate, optimizer_bytes
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.networks.plan import plan_activations
from monai_idm.optimizers import AdamWInBackward

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nlong advice of torch's")


def trainer(error, network=None, optimizer=torch.optim.AdamW):
    network = InvertibleDiffusionUNet(3, 2, 2, (8, 16), 1, (False, False), 4, 4, 16) if network is None else network
    steps = optimizer(network.parameters())

    def fail(*_):
        raise error

    image = torch.zeros(2, 2, 16, 16, 8)
    return SupervisedTrainer(
        torch.device("cpu"), 1, [{"image": image, "label": image}], network, steps, fail,
        train_handlers=[MemoryAdvice(network, steps)], decollate=False,
    )  # fmt: skip


def advice(engine):
    with pytest.raises(OutOfMemory) as raised:
        engine.run()
    assert raised.value.__cause__ is not None
    return str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        CUDA,
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        MemoryError(),
    ],
    ids=str,
)
def test_every_kind_of_out_of_memory_error_is_recognised(error, monkeypatch):
    monkeypatch.setattr(memory_advice, "estimate", lambda *_: Estimate(0, 0))
    message = advice(trainer(error))
    assert "out of memory in iteration 1: " in message
    assert "for a step on 2 x 2 x 16 x 16 x 8" in message


def test_switches_come_one_upon_another_with_the_bytes_they_leave():
    network = InvertibleDiffusionUNet(3, 2, 2, (8, 16), 1, (False, False), 4, 4, 16, activations="stored")
    message = advice(trainer(CUDA, network))
    lines = re.findall(r"^ +([\d.]+)  (.*)$", message, flags=re.MULTILINE)
    assert [switch for _, switch in lines] == [
        "as configured",
        "--activations rebuilt",
        "--precision mixed",
        "the optimizer of native.yaml",
        "--weight_dtype bfloat16",
        "--gradient_dtype bfloat16",
        "native.yaml with --offload_levels 2",
        "--batch_size 1",
        "--spatial_size [12, 12, 6]",
        "--spatial_size [8, 8, 4]",
    ]
    assert "long advice" not in message


def test_the_bytes_are_those_of_such_a_network(monkeypatch):
    monkeypatch.setattr(memory_advice, "_GB", 1.0)
    message = advice(trainer(CUDA))
    lines = {switch: float(peak) for peak, switch in re.findall(r"^ *([\d.]+)  (.*)$", message, flags=re.MULTILINE)}
    now, twin = (
        InvertibleDiffusionUNet(3, 2, 2, (8, 16), 1, (False, False), 4, 4, 16, **settings)
        for settings in ({}, {"precision": "mixed", "weight_dtype": "bfloat16", "gradient_dtype": "bfloat16"})
    )
    assert lines["as configured"] == estimate(now, (2, 2, 16, 16, 8)).peak_bytes
    offloaded = replace(EIGHT_BIT_IN_BACKWARD, offload=twin.deep_couplings(2))
    assert lines["--batch_size 1"] == estimate(twin, (1, 2, 16, 16, 8), offloaded).peak_bytes
    assert "--activations rebuilt" not in lines


@pytest.mark.parametrize("muon", [False, True])
def test_the_optimizer_of_native_keeps_to_muon_or_adamw(muon):
    switches = dict(memory_advice._switches((1, 2, 8, 8, 8), "mixed", muon, 4))
    assert switches["the optimizer of native.yaml"]["optimizer"].muon == muon


def test_it_ends_at_the_first_that_fits(monkeypatch):
    monkeypatch.setattr(memory_advice, "_GB", 1.0)
    whole = advice(trainer(CUDA))
    peaks = [float(peak) for peak in re.findall(r"^ *([\d.]+)  ", whole, flags=re.MULTILINE)]
    monkeypatch.setattr(memory_advice, "_budget", lambda device: peaks[3])
    lines = advice(trainer(CUDA)).splitlines()[2:]
    assert ["fits" in line for line in lines] == [False, False, False, True]


def test_what_is_switched_on_is_not_advised():
    message = advice(trainer(CUDA, optimizer=AdamWInBackward))
    assert "--activations rebuilt" not in message
    assert "the optimizer of native.yaml" in message
    network = InvertibleDiffusionUNet(3, 2, 2, (8, 16), 1, (False, False), 4, 4, 16)
    message = advice(trainer(CUDA, network, partial(AdamWInBackward, offload=network.deep_couplings(2))))
    assert "the optimizer of native.yaml" in message
    assert "--offload_levels" not in message


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, AdamWInBackward])
def test_the_network_learns_what_its_optimizer_needs(optimizer):
    wide = [InvertibleDiffusionUNet(3, 2, 2, (64, 128), 1, (False, False), 4, 4, 16) for _ in range(2)]
    engine = trainer(CUDA, wide[0], optimizer)
    assert engine.network.optimizer_bytes == optimizer_bytes(engine.optimizer)
    shape = (1, 2, 8, 8, 8)
    budget = estimate(wide[1].with_activations("stored"), shape, IN_BACKWARD).peak_bytes / 2**30
    if optimizer is AdamWInBackward:
        assert plan_activations(engine.network, shape, budget).policies == ("stored", "stored")
        return
    with pytest.raises(ValueError, match="more than memory_budget_gib"):  # all gradients at once
        plan_activations(engine.network, shape, budget)


def test_for_another_network_the_message_is_torchs():
    message = advice(trainer(CUDA, nn.Conv3d(2, 2, 1)))
    assert message == "out of memory in iteration 1: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_other_errors_are_raised_unchanged():
    with pytest.raises(ZeroDivisionError):
        trainer(ZeroDivisionError()).run()
