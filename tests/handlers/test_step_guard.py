"""Bad steps change no weights, their cases are named, and they end a run or are skipped."""

from __future__ import annotations

import csv
import re

import pytest
import torch
from ignite.engine import Events
from torch import nn

from monai_idm.distributed import all_gather_objects, replicated
from monai_idm.failures import BadNumbers
from monai_idm.handlers import StepGuard
from monai_idm.networks import InvertibleDiffusionUNet
from monai_idm.optimizers import AdamWInBackward, AdamWWeightNorm
from monai_idm.tasks import TrainingStep
from tests.distributed.two_processes import ask_two
from tests.tasks.supervised import SAMPLE, Supervised, Timed, error
from tests.tasks.supervised import trainer as trainer_of

OPTIMIZERS = {
    "AdamW": lambda params: torch.optim.AdamW(params, 1e-3),
    "weight norm": lambda params: AdamWWeightNorm(params, 1e-3),
    "in backward": lambda params: AdamWInBackward(params, 1e-3),
}


class Cases(torch.utils.data.Dataset):
    """Random vectors, some of which are multiplied by a bad number."""

    def __init__(self, length, bad):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        x = torch.randn(3, generator=torch.Generator().manual_seed(i))
        return {"image": self.bad.get(i, 1.0) * x, "label": x.sum()[None], "subject": f"case_{i:03d}"}


def trainer(bad, optimizer="AdamW", length=8, loss=error, tmp_path=None, to_none=True, **settings):
    network = Timed(nn.Linear(3, 4), nn.Linear(4, 1))
    chosen = OPTIMIZERS[optimizer](network.parameters())
    guard = StepGuard(network, chosen, csv_file=None if tmp_path is None else tmp_path / "bad_steps.csv", **settings)
    step, data = TrainingStep(Supervised(), SAMPLE, guard=guard), torch.utils.data.DataLoader(Cases(length, bad), 2)
    engine, _ = trainer_of(step, data, network, chosen, loss, [guard], optim_set_to_none=to_none)
    return engine, weights_of_each_step(engine, network)


def weights_of_each_step(engine, network):
    """A list to which the trainer will add the weights after each step."""
    seen = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda _: seen.append(nn.utils.parameters_to_vector(network.parameters()).detach().clone()),
    )
    return seen


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_whose_loss_is_no_number_is_left_out_and_named(optimizer, to_none, tmp_path, caplog):
    engine, weights = trainer({4: float("inf")}, optimizer, policy="skip", tmp_path=tmp_path, to_none=to_none)
    engine.run()
    assert torch.equal(weights[2], weights[1])
    assert not torch.equal(weights[3], weights[2])
    assert all(w.isfinite().all() for w in weights)
    assert "iteration 3: the loss is nan; cases case_004, case_005; step skipped" in caplog.text.replace("inf", "nan")
    with (tmp_path / "bad_steps.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["iteration"], row["what"], row["cases"]) == ("3", "the loss", "case_004, case_005")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_step_may_be_bad_too(optimizer):
    engine, weights = trainer({0: float("nan")}, optimizer, policy="skip")
    before = nn.utils.parameters_to_vector(engine.network.parameters()).detach().clone()
    engine.run()
    assert torch.equal(weights[0], before)
    assert not torch.equal(weights[1], before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_ends_the_training_unless_told_otherwise(optimizer, tmp_path):
    engine, weights = trainer({4: float("nan")}, optimizer, tmp_path=tmp_path)
    with pytest.raises(BadNumbers, match=r"iteration 3: the loss is nan; cases case_004, case_005\. Training ends"):
        engine.run()
    assert len(weights) == 2
    assert torch.equal(nn.utils.parameters_to_vector(engine.network.parameters()), weights[1])
    assert "case_005" in (tmp_path / "bad_steps.csv").read_text()


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_that_are_no_numbers_change_nothing(optimizer):
    calls = iter(range(9))

    def loss(pred, label, **_):
        return error(_NoGradient.apply(pred) if next(calls) == 2 else pred, label)

    engine, weights = trainer({}, optimizer, loss=loss, policy="skip")
    engine.run()
    assert torch.equal(weights[2], weights[1])
    assert not torch.equal(weights[3], weights[2])
    assert optimizer != "in backward" or all(p.grad is None for p in engine.network.parameters())


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("optimizer", ["AdamW", "weight norm"])
def test_gradients_far_above_the_usual_are_left_out(optimizer, policy, caplog):
    engine, weights = trainer({204: 1e4, 208: 3.0}, optimizer, length=212, policy=policy)
    engine.run()
    assert torch.equal(weights[102], weights[101])
    assert not torch.equal(weights[104], weights[103])
    assert caplog.text.count("step skipped") == 1
    assert "the gradients' norm (at most " in caplog.text
    assert max(engine.state.gradient_norms) < 1e4


def test_an_optimizer_in_backward_leaves_out_what_is_larger_than_all_may_be(caplog):
    engine, weights = trainer({204: 1e4}, "in backward", length=212)
    engine.run()
    assert re.search(r"iteration 103: the gradients' norm .* cases case_204, case_205; step skipped", caplog.text)
    first = engine.network[0].weight.numel()  # the gradients of the biases are below the limit
    assert torch.equal(weights[102][:first], weights[101][:first])
    assert not torch.equal(weights[102][first:], weights[101][first:])


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_ten_steps_far_above_the_usual_end_the_training(policy):
    engine, weights = trainer(dict.fromkeys(range(204, 240), 1e4), length=240, policy=policy)
    with pytest.raises(BadNumbers, match=r"iteration 112: the gradients' norm .* 10 steps in a row are bad"):
        engine.run()
    assert torch.equal(weights[-1], weights[101])


def test_what_is_usual_goes_on_with_a_training(tmp_path):
    engine, _ = trainer({}, length=200)
    engine.run()
    torch.save(engine.state_dict(), tmp_path / "state.pt")
    later, _ = trainer({}, length=200)
    later.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True) | {"bad_steps": 3})
    assert later.state.gradient_norms == engine.state.gradient_norms
    assert len(later.state.gradient_norms) == 100
    assert later.state.bad_steps == 3


def test_ten_bad_steps_in_a_row_are_no_accident():
    bad = dict.fromkeys(range(4, 40), float("nan"))
    engine, weights = trainer(bad, length=40, policy="skip")
    with pytest.raises(BadNumbers, match=r"iteration 12: .* 10 steps in a row are bad"):
        engine.run()
    assert torch.equal(weights[-1], weights[1])


def test_ten_bad_steps_here_and_there_are_skipped():
    bad = dict.fromkeys(range(0, 60, 4), float("nan"))
    trainer(bad, length=60, policy="skip")[0].run()


def test_the_norm_is_that_of_one_step():
    norms = {}
    for name in ("AdamW", "in backward"):
        torch.manual_seed(0)
        engine, _ = trainer({}, name, length=16)
        engine.run()
        norms[name] = engine.state.gradient_norms
    assert norms["in backward"] == pytest.approx(norms["AdamW"], rel=1e-4)


@pytest.mark.parametrize(("precision", "error"), [("float32", 0.1), ("exact", 2.0**-12), ("exact-mixed", 2.0**-12)])
def test_activations_that_are_not_what_they_were_are_found_in_the_same_step(precision, error):
    torch.manual_seed(0)
    network = InvertibleDiffusionUNet(3, 2, 2, (8, 16), 1, (False, False), 4, 4, 16, precision=precision)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    x = torch.randn(1, 2, 8, 8, 8)
    data = [{"image": x, "label": x, "subject": ["a"]}] * 3
    guard = StepGuard(network, optimizer)
    engine, _ = trainer_of(TrainingStep(Supervised(), SAMPLE, guard=guard), data, network, optimizer, handlers=[guard])
    coupling = network.core.operations[0]
    engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda _: _spoil(coupling, error))
    with pytest.raises(BadNumbers, match=r"iteration 2: the error of the rebuilt activations is .*; cases a"):
        engine.run()


def _spoil(operation, error):
    rebuild = operation.rebuild

    def worse(*arguments):
        x, *gradients = rebuild(*arguments)
        return [t + error for t in x], *gradients

    operation.rebuild = worse


@pytest.mark.parametrize(
    ("level", "precision", "activations"),
    [(0, "exact", "rebuilt"), (1, "exact", "checkpointed"), (2, "exact-mixed", "stored"), (2, "float32", "rebuilt")],
)
def test_streams_that_outgrow_the_grid_are_found_in_the_same_step_and_their_level_is_named(
    level, precision, activations
):
    engine, network = reversible_trainer(precision, activations, "stop")
    seen = weights_of_each_step(engine, network)
    engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda _: _push(network, level))
    if precision == "float32":
        engine.run()
    else:
        what = rf"iteration 2: the largest value in the streams of level {level} \(0 is the finest; exact up to 4096\)"
        with pytest.raises(BadNumbers, match=rf"{what} is [45].*e\+03; cases a\. .*--precision float32, or"):
            engine.run()
        (good,) = seen
        assert torch.equal(good, nn.utils.parameters_to_vector(network.parameters()))


def reversible_trainer(precision, activations, policy):
    torch.manual_seed(0)
    network = InvertibleDiffusionUNet(3, 2, 2, (8, 16, 32), 1, (False,) * 3, 4, 4, 16, precision=precision)
    network = network.with_activations(activations)
    optimizer = AdamWInBackward(network.parameters(), 1e-4)
    x = torch.randn(1, 2, 8, 8, 8)
    data = [{"image": x, "label": x, "subject": ["a"]}] * 3
    guard = StepGuard(network, optimizer, policy)
    step = TrainingStep(Supervised(), SAMPLE, guard=guard)
    return trainer_of(step, data, network, optimizer, handlers=[guard])[0], network


def _push(network, level):
    """Raise what one branch adds to its stream by 5000."""
    coupling = network.core.operations[network.levels.index(level)]
    coupling.f.register_forward_hook(lambda _, inputs, output: output + 5000)


def test_settings_are_checked():
    network = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(network.parameters())
    with pytest.raises(ValueError, match="policy='ignore' is unknown; choose one of stop, skip"):
        StepGuard(network, optimizer, "ignore")
    with pytest.raises(ValueError, match=r"explosion=1\.0; choose a multiple"):
        StepGuard(network, optimizer, explosion=1.0)


def _skips(rank):
    """The weights in both processes, by optimizer, when one case of one process is bad."""
    results = {}
    for name in OPTIMIZERS:
        torch.manual_seed(0)
        engine, weights = trainer({4: float("nan")} if rank == 1 else {}, name, policy="skip")
        engine.network = replicated(engine.network, engine.optimizer)
        engine.run()
        results[name] = {
            "weights": all_gather_objects(weights),
            "norms": all_gather_objects(engine.state.gradient_norms),
        }
    return results


def test_two_processes_leave_a_step_out_together(tmp_path):
    for name, result in ask_two(_skips, tmp_path).items():
        first, second = result["weights"]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), name
        assert torch.equal(first[2], first[1])
        assert not torch.equal(first[3], first[2])
        assert first[3].isfinite().all()
        assert len(result["norms"][0]) == 3
        assert result["norms"][0] == result["norms"][1]


def _outgrows(rank):
    """The weights in both processes after each step, when streams of one process are too large from the second on."""
    engine, network = reversible_trainer("exact", "rebuilt", "skip")
    seen = weights_of_each_step(engine, network)
    if rank == 1:
        engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda _: _push(network, 1))
    engine.run()
    return all_gather_objects(seen)


def test_two_processes_leave_a_step_out_if_the_streams_of_one_are_too_large(tmp_path):
    first, second = ask_two(_outgrows, tmp_path)
    assert len(first) == 3
    assert all(torch.equal(weights, first[0]) for weights in [*first, *second])
