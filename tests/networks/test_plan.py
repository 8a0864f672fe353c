"""Policies per level, and the policy chosen for a memory budget."""

from __future__ import annotations

import logging
from functools import cache

import pytest
import torch

from monai_idm.meters import estimate, live_bytes
from tests.networks.test_invertible_unet import gradients, small

GIB = 2**30
SHAPE = (1, 2, 16, 16, 16)


@pytest.mark.parametrize(
    "plan", [("rebuilt", "stored", "stored"), ("stored", "rebuilt", "rebuilt"), ("checkpointed", "stored", "rebuilt")]
)
def test_levels_may_have_policies_of_their_own(plan):
    net = small().double()
    x, t = torch.randn(2, 2, 8, 8, 8).double(), torch.tensor([3, 700])
    expected = gradients(net.with_activations("stored"), x, t)
    for name, gradient in gradients(net.with_activations(plan), x, t).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=name)


@cache
def step_bytes(plan, **overrides) -> int:
    return estimate(small(**overrides).with_activations(plan), SHAPE).peak_bytes


def test_each_level_that_is_stored_costs_memory():
    peaks = [step_bytes(("rebuilt",) * (3 - n) + ("stored",) * n) for n in range(4)]
    assert peaks == sorted(peaks)
    assert peaks[0] == step_bytes("rebuilt")
    assert peaks[3] == step_bytes("stored") > 1.5 * peaks[0]


def test_a_network_that_knows_classes_is_planned_for_and_watched_alike():
    net = small(num_class_embeds=3, activations="auto", memory_budget_gib=1.0)
    x = torch.randn(SHAPE)
    net(x, class_labels=torch.tensor([2])).sum().backward()
    assert net.embedding.classes.weight.grad is not None
    assert 0 <= net.reconstruction_error(x) < 1e-4
    assert step_bytes("stored", num_class_embeds=3) == pytest.approx(step_bytes("stored"), rel=0.01)


def test_auto_stores_the_deep_levels_that_fit_and_says_so(caplog):
    net = small()
    between = (step_bytes(("rebuilt", "stored", "stored")) + step_bytes("stored")) / 2 / GIB
    chosen = net.with_activations("auto", memory_budget_gib=between)
    with caplog.at_level(logging.WARNING):
        chosen(torch.randn(SHAPE)).sum().backward()
        chosen(torch.randn(SHAPE)).sum().backward()
    (message,) = [record.message for record in caplog.records if "activations for" in record.message]
    assert "levels 0 rebuilt, 1 stored, 2 stored" in message
    expected = net.with_activations(("rebuilt", "stored", "stored"))
    with live_bytes() as auto:
        y = chosen(torch.randn(SHAPE))
        held = auto.current_bytes
    with live_bytes() as named:
        z = expected(torch.randn(SHAPE))
        assert named.current_bytes == held
    assert y.requires_grad
    assert z.requires_grad


def test_a_budget_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="raise the budget, or use a smaller batch or volume"):
        small(activations="auto", memory_budget_gib=1e-4)(torch.randn(SHAPE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activations": ("stored", "rebuilt")}, "for each of the 3"),
        ({"activations": ("stored", "rebuilt", "auto")}, "for each of the 3"),
        ({"activations": "auto"}, "'auto' needs a budget"),
        ({"memory_budget_gib": 4.0}, "nothing else takes one"),
        ({"branch_batch": 0}, "1 or more, or 'auto'"),
        ({"branch_batch": "all"}, "1 or more, or 'auto'"),
    ],
)
def test_impossible_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
