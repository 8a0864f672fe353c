"""Policies per level, and the policy chosen for a memory budget."""

from __future__ import annotations

import logging
from functools import cache

import pytest
import torch

from monai_idm.checkpoints import read_sections
from monai_idm.meters import estimate, live_bytes
from monai_idm.networks import plan
from tests.networks.test_invertible_unet import gradients, small

GIB = 2**30
SHAPE = (1, 2, 16, 16, 16)
PARTLY = ("rebuilt", "stored", "stored")


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
    with caplog.at_level(logging.INFO):
        chosen(torch.randn(SHAPE)).sum().backward()
        chosen(torch.randn(SHAPE)).sum().backward()
    (message,) = [record.message for record in caplog.records if record.message.startswith("activations: ")]
    assert (
        "rebuilt on level 0, stored on level 1, stored on level 2 (a training step on 1 x 2 x 16 x 16 x 16" in message
    )
    assert f"memory_budget_gib={between}" in message
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
        ({"memory_budget_gib": 4.0}, "only 'auto' takes a budget"),
        ({"precision": "auto", "weight_dtype": "bfloat16"}, "choose 'mixed' or 'exact-mixed'"),
        ({"branch_batch": 0}, "1 or more, or 'auto'"),
        ({"branch_batch": "all"}, "1 or more, or 'auto'"),
    ],
)
def test_impossible_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def weight_bytes(net) -> int:
    return sum(p.nbytes for p in net.parameters())


def free_for(bytes_of_a_step, net) -> float:
    """How much must be free so that a step that needs this many bytes just fits, the weights being allocated."""
    return (bytes_of_a_step - weight_bytes(net)) / plan.SHARES["cpu"] + 16


@pytest.mark.parametrize("stored", range(4))
def test_without_a_budget_the_free_memory_decides(stored, monkeypatch):
    net, plans = small(activations="auto"), [("rebuilt",) * (3 - n) + ("stored",) * n for n in range(4)]
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: free_for(step_bytes(plans[stored]), net))
    fits = [chosen for chosen in plans if step_bytes(chosen) <= step_bytes(plans[stored])]
    assert plan.plan_activations(net, SHAPE).policies == fits[-1]


@pytest.mark.parametrize(("free", "reason"), [(0, "0.00 GiB, 50% of what is free"), (None, "is not known")])
def test_where_nothing_fits_or_nothing_is_known_everything_is_rebuilt(free, reason, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: free)
    net = small(activations="auto")
    net(torch.randn(SHAPE)).sum().backward()
    assert net.choices()["activations"] == {(1, 16, 16, 16): ("rebuilt",) * 3}
    (message,) = [record.message for record in caplog.records if record.message.startswith("activations: ")]
    assert "rebuilt on all levels" in message
    assert reason in message


def test_where_there_is_plenty_a_single_estimate_is_enough(monkeypatch):
    found = []
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: 2**50)
    monkeypatch.setattr(plan, "estimate", lambda *arguments: found.append(estimate(*arguments)) or found[-1])
    assert plan.plan_activations(small(activations="auto"), SHAPE).policies == ("stored",) * 3
    assert len(found) == 1


def test_an_inverse_that_is_trained_too_keeps_as_much_again():
    both = plan.StepMemory(small(inverse_head=True), SHAPE).peak_bytes(3)
    one = estimate(small(inverse_head=True, activations="stored"), SHAPE)
    assert both == one.resident_bytes + 2 * (one.peak_bytes - one.resident_bytes)


def test_planning_draws_no_random_numbers_and_steps_are_those_of_the_plan(monkeypatch):
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: 0)
    net, x, t = small(activations="auto"), torch.randn(SHAPE), torch.tensor([7])
    before = torch.get_rng_state()
    found = gradients(net, x, t)
    assert torch.equal(torch.get_rng_state(), before)
    expected = gradients(net.with_activations("rebuilt"), x, t)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize(("able", "training"), [(True, "mixed"), (False, "float32")])
def test_auto_trains_in_mixed_precision_where_bfloat16_is_native_and_predicts_in_float32(able, training, monkeypatch):
    monkeypatch.setattr("monai_idm.networks.step_choices.has_bfloat16", lambda device: able)
    torch.manual_seed(0)
    auto, twins = small(precision="auto"), {p: small(precision=p) for p in ("float32", "mixed")}
    for twin in twins.values():
        twin.load_state_dict(auto.state_dict())
    x, t = torch.randn(SHAPE), torch.tensor([7])
    steps = {precision: gradients(twin, x, t) for precision, twin in twins.items()}
    found = gradients(auto, x, t)
    assert all(torch.equal(found[name], gradient) for name, gradient in steps[training].items())
    assert not torch.equal(steps["mixed"]["x"], steps["float32"]["x"])
    with torch.no_grad():
        assert torch.equal(auto(x, t), twins["float32"](x, t))
        assert not torch.equal(auto(x, t), twins["mixed"](x, t))
    assert auto.reconstruction_error(x, t) == twins[training].reconstruction_error(x, t)
    assert estimate(auto, SHAPE) == estimate(twins[training], SHAPE)


def test_the_log_names_what_was_chosen_and_why_once(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: 2**31)
    monkeypatch.setattr(plan, "has_bfloat16", lambda device: True)
    monkeypatch.setattr("monai_idm.networks.step_choices.has_bfloat16", lambda device: True)
    net = small(activations="auto", precision="auto")
    for _ in range(2):
        net(torch.randn(SHAPE)).sum().backward()
        with torch.no_grad():
            net(torch.randn(2, 2, 8, 8, 8))
    (message,) = [record.message for record in caplog.records if record.name == plan.__name__]
    activations, precision = message.split("; precision: ")
    assert activations.startswith("activations: stored on all levels (a training step on 1 x 2 x 16 x 16 x 16 needs an")
    assert activations.endswith("; it may take 1.00 GiB, 50% of what is free)")
    assert precision == "mixed (this CPU has instructions for bfloat16)"


AUTO = {"activations": "auto", "precision": "auto"}


def test_a_resumed_training_keeps_what_auto_was(monkeypatch, caplog):
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: free_for(step_bytes(PARTLY), small()))
    monkeypatch.setattr("monai_idm.networks.step_choices.has_bfloat16", lambda device: False)
    first, x, t = small(**AUTO), torch.randn(SHAPE), torch.tensor([7])
    expected = gradients(first, x, t)
    weights, choices = first.state_dict(), first.choices()
    assert choices["activations"] == {(1, 16, 16, 16): PARTLY}
    monkeypatch.setattr(plan, "free_memory_bytes", lambda device: 2**50)
    monkeypatch.setattr("monai_idm.networks.step_choices.has_bfloat16", lambda device: True)
    second = small(**AUTO)
    second.load_state_dict(weights)
    anew = gradients(second.with_activations("auto"), x, t)
    assert any(not torch.equal(anew[name], gradient) for name, gradient in expected.items())
    caplog.set_level(logging.INFO)
    second.resume_choices(read_sections(weights)["choices"])
    found = gradients(second, x, t)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert second.choices() == choices
    assert "stored on level 2 (as before it was resumed); precision: float32 (as before it was resumed)" in caplog.text


@pytest.mark.parametrize("activations", ["stored", "rebuilt", PARTLY])
@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_auto_resumes_what_was_chosen_by_name(activations, precision):
    named, auto = small(activations=activations, precision=precision), small(**AUTO)
    auto.resume_choices(named.choices())
    auto(torch.randn(SHAPE)).sum().backward()
    assert auto.choices() == {"precision": precision, "activations": {(1, 16, 16, 16): activations}}


def test_a_training_older_than_auto_goes_on_rebuilt_in_float32():
    net = small(**AUTO)
    net.resume_choices(None)
    net(torch.randn(SHAPE)).sum().backward()
    assert net.choices() == {"precision": "float32", "activations": {(1, 16, 16, 16): "rebuilt"}}


def test_what_was_chosen_by_name_wins_over_the_training_that_is_resumed(monkeypatch):
    net = small(activations="auto", memory_budget_gib=1.0, precision="mixed")
    net.resume_choices({"precision": "float32", "activations": {(1, 16, 16, 16): PARTLY}})
    net(torch.randn(SHAPE)).sum().backward()
    assert net.choices() == {"precision": "mixed", "activations": {(1, 16, 16, 16): ("stored",) * 3}}
