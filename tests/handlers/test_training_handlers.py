"""Handlers around training, on a real MONAI trainer."""

from __future__ import annotations

import logging

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn

from monai_idm.checkpoints import PHANTOM, RunRecord
from monai_idm.failures import BadNumbers
from monai_idm.handlers import (
    BestWeights,
    HostEMA,
    RecordHandler,
    TrainingCheckpoint,
    TrainingProgress,
    UpdateEMA,
    UseEMA,
    ValidateLast,
)


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        x = torch.randn(3, generator=torch.Generator().manual_seed(i))
        return {"image": x, "label": x.sum()[None]}


def trainer(handlers, epochs=3, lr=0.1, network=None, loss=None, **kwargs):
    network = nn.Linear(3, 1) if network is None else network
    optimizer = torch.optim.Adam(network.parameters(), lr)
    engine = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        torch.utils.data.DataLoader(Batches(), 2),
        network,
        optimizer,
        loss or nn.MSELoss(),
        train_handlers=handlers(network, optimizer) if callable(handlers) else handlers,
        **kwargs,
    )
    return engine, network


def test_ema_is_the_recursion_it_says_and_lives_on_the_host():
    seen, network = [], nn.Linear(3, 1)
    ema = HostEMA(network, decay=0.9, every=3)
    engine, _ = trainer([UpdateEMA(ema)], network=network)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED(every=3), lambda _: seen.append(network.weight.detach().clone())
    )
    engine.run()
    expected = seen[0]  # the first update copies
    for n, weight in enumerate(seen[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(ema.weights["weight"], expected)
    assert ema.weights["weight"].device.type == "cpu"


def evaluator(network, handlers, fail=False):
    def step(engine, batch):
        if fail:
            raise RuntimeError("planted")
        return {"weight": network.weight.detach().clone()}

    return SupervisedEvaluator(
        torch.device("cpu"), [{"image": torch.zeros(1, 3)}], network, iteration_update=step, val_handlers=handlers,
        decollate=False,
    )  # fmt: skip


@pytest.mark.parametrize("fail", [False, True])
def test_an_evaluator_sees_the_average_and_training_gets_its_weights_back(fail):
    network = nn.Linear(3, 1)
    ema = HostEMA(network, every=1)
    trainer([UpdateEMA(ema)], network=network)[0].run()
    trained = network.weight.detach().clone()
    average = ema.weights["weight"].detach().clone()
    assert not torch.equal(trained, average)
    engine = evaluator(network, [UseEMA(ema)], fail)
    if fail:
        with pytest.raises(RuntimeError, match="planted"):
            engine.run()
    else:
        engine.run()
        assert torch.equal(engine.state.output["weight"], average)
    assert torch.equal(network.weight, trained)
    assert torch.equal(ema.weights["weight"], average)


def test_before_the_first_update_the_weights_stay():
    network = nn.Linear(3, 1)
    weight = network.weight.detach().clone()
    network_later = HostEMA(network)
    with torch.no_grad():
        network.weight.add_(1)
    engine = evaluator(network, [UseEMA(network_later)])
    engine.run()
    torch.testing.assert_close(engine.state.output["weight"], weight + 1)


@pytest.mark.parametrize(("decay", "every"), [(1.0, 1), (0.9, 0)])
def test_an_impossible_average_is_refused(decay, every):
    with pytest.raises(ValueError, match="choose 0 <= decay < 1 and every >= 1"):
        HostEMA(nn.Linear(1, 1), decay, every)


def checkpointed(folder, epochs, resume=False):
    def handlers(network, optimizer):
        ema = HostEMA(network, every=1)
        return [
            TrainingCheckpoint(folder, {"network": network, "optimizer": optimizer, "ema": ema}, resume),
            UpdateEMA(ema),
        ]

    torch.manual_seed(0)
    return trainer(handlers, epochs)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    whole, expected = checkpointed(tmp_path / "whole", 4)
    whole.run()
    cut, _ = checkpointed(tmp_path / "cut", 2)
    cut.state.best_metric, cut.state.best_metric_epoch = 0.5, 1
    cut.run()
    engine, network = checkpointed(tmp_path / "cut", 4, resume=True)
    with torch.no_grad():
        network.weight.zero_()
    engine.run()
    assert torch.equal(network.weight, expected.weight)
    assert engine.state.epoch == 4
    assert (engine.state.best_metric, engine.state.best_metric_epoch) == (0.5, 1)
    assert "checkpoint_epoch=2.pt, epoch 2" in caplog.text
    assert sorted(f.name for f in (tmp_path / "cut").iterdir()) == ["checkpoint_epoch=3.pt", "checkpoint_epoch=4.pt"]


def test_with_nothing_to_resume_it_starts_anew_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    engine, _ = checkpointed(tmp_path, 1, resume=True)
    engine.run()
    assert engine.state.epoch == 1
    assert "starting anew" in caplog.text


def test_the_newest_checkpoint_is_the_one_written_last(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    checkpointed(tmp_path, 10)[0].run()
    assert "earlier training" not in caplog.text
    checkpointed(tmp_path, 2)[0].run()  # a new training in the same folder
    assert "the newest checkpoint_epoch=10.pt, and this one starts anew" in caplog.text
    checkpointed(tmp_path, 3, resume=True)[0].run()
    assert "checkpoint_epoch=2.pt, epoch 2" in caplog.text


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(tmp_path, caplog):
    whole, expected = checkpointed(tmp_path / "whole", 4)
    whole.run()
    checkpointed(tmp_path / "cut", 3)[0].run()
    newest = tmp_path / "cut" / "checkpoint_epoch=3.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    caplog.set_level(logging.INFO)
    engine, network = checkpointed(tmp_path / "cut", 4, resume=True)
    engine.run()
    assert "checkpoint_epoch=3.pt cannot be read" in caplog.text
    assert "checkpoint_epoch=2.pt, epoch 2" in caplog.text
    assert torch.equal(network.weight, expected.weight)


def test_where_all_checkpoints_are_damaged_training_does_not_start(tmp_path):
    checkpointed(tmp_path, 2)[0].run()
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    engine, _ = checkpointed(tmp_path, 4, resume=True)
    with pytest.raises(ValueError, match="all 2 checkpoints in"):
        engine.run()


def test_a_checkpoint_of_another_training_or_of_a_later_epoch_is_refused(tmp_path):
    checkpointed(tmp_path, 2)[0].run()
    with pytest.raises(ValueError, match="is of epoch 2, later than max_epochs=1"):
        checkpointed(tmp_path, 1, resume=True)[0].run()
    handler = TrainingCheckpoint(tmp_path, {"schedule": HostEMA(nn.Linear(3, 1))}, resume=True)
    with pytest.raises(ValueError, match="this training needs schedule, too"):
        trainer([handler])[0].run()


def test_what_a_killed_training_left_half_written_goes(tmp_path):
    (tmp_path / ".unfinished.1.checkpoint_epoch=1.pt").write_bytes(b"half")
    checkpointed(tmp_path, 1)[0].run()
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_epoch=1.pt"]


def test_a_folder_that_takes_no_checkpoint_ends_a_training_before_its_first_step(tmp_path):
    (tmp_path / "models").touch()  # also root cannot write below a file
    engine, network = trainer(lambda network, _: [TrainingCheckpoint(tmp_path / "models" / "a", {"network": network})])
    before = network.weight.detach().clone()
    with pytest.raises(NotADirectoryError):
        engine.run()
    assert torch.equal(network.weight, before)


def test_at_least_one_checkpoint_is_kept():
    with pytest.raises(ValueError, match="keep at least the newest"):
        TrainingCheckpoint("models", {}, keep=0)


class Metric:
    """A key metric that is told what to say."""

    def __init__(self, values):
        self.values = iter(values)

    def attach(self, engine, name):
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update({name: next(self.values)}))


def validated(folder, values, epochs, resume=False, interval=1, cases=1, last=True, more=()):
    """A training that is validated every few epochs and at its end, with metrics that are given."""
    judges = []

    def handlers(network, optimizer):
        best = BestWeights(network, folder / "model.pt")
        judge = SupervisedEvaluator(
            torch.device("cpu"), [{"image": torch.zeros(1, 3)}] * cases, network, iteration_update=lambda *_: {},
            key_val_metric={"psnr": Metric(values)}, val_handlers=[best], decollate=False,
        )  # fmt: skip
        judges.append(judge)
        objects = {"network": network, "optimizer": optimizer, "best": best}
        ends = [ValidateLast(judge)] if last else []
        return [TrainingCheckpoint(folder, objects, resume), ValidationHandler(interval, judge), *ends, *more]

    torch.manual_seed(0)
    return *trainer(handlers, epochs), *judges


def test_the_best_weights_stay_the_best_over_an_interruption(tmp_path):
    validated(tmp_path, [1.0, 3.0], 2)[0].run()
    best = torch.load(tmp_path / "model.pt", weights_only=True)["weight"]
    engine, network, judge = validated(tmp_path, [2.0, 4.0], 3, resume=True)
    engine.run()
    assert (judge.state.best_metric, judge.state.best_metric_epoch) == (3.0, 2)
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], best)
    assert not torch.equal(network.weight, best)
    engine, network, _ = validated(tmp_path, [4.0], 4, resume=True)
    engine.run()
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], network.weight)


def test_a_metric_that_is_no_number_is_never_the_best(tmp_path):
    validated(tmp_path, [float("nan"), float("inf")], 2, last=False)[0].run()
    assert not (tmp_path / "model.pt").exists()
    engine, network, judge = validated(tmp_path, [float("nan"), 1.0], 2)
    engine.run()
    assert (judge.state.best_metric, judge.state.best_metric_epoch) == (1.0, 2)
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], network.weight)


def test_a_training_whose_validations_give_no_number_fails(tmp_path):
    with pytest.raises(BadNumbers, match=r"no validation of this training gave a number for \w+ \(the best is nan\)"):
        validated(tmp_path / "a", [float("nan"), float("nan")], 2)[0].run()
    validated(tmp_path / "b", [1.0, float("nan")], 2)[0].run()  # there are weights of before
    assert (tmp_path / "b" / "model.pt").exists()


def best_weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)["weight"]


def noted(folder, epoch):
    """The best, by the checkpoint of an epoch."""
    return torch.load(folder / f"checkpoint_epoch={epoch}.pt", weights_only=True)["best"]


@pytest.mark.parametrize(("epochs", "interval", "validations"), [(1, 10, 1), (5, 2, 3), (4, 2, 2), (2, 3, 1)])
def test_a_training_is_validated_at_its_end_once(epochs, interval, validations, tmp_path):
    values = iter(range(1, 10))
    engine, network, _ = validated(tmp_path, values, epochs, interval=interval)
    engine.run()
    assert next(values) == validations + 1
    assert torch.equal(best_weights(tmp_path), network.weight)
    assert noted(tmp_path, epochs) == {"metric": float(validations), "epoch": epochs}


class StopAt:
    """Stops a training at an event, as early stopping does."""

    def __init__(self, event):
        self.event = event

    def attach(self, engine):
        engine.add_event_handler(self.event, lambda engine: engine.terminate())


def test_a_training_that_is_stopped_at_an_epochs_end_is_validated_and_its_checkpoint_knows(tmp_path):
    # by a handler after ours: the epoch's checkpoint is written then, and has to be written again
    engine, network, _ = validated(tmp_path, [5.0], 9, interval=4, more=[StopAt(Events.EPOCH_COMPLETED(once=2))])
    engine.run()
    assert engine.state.epoch == 2
    assert torch.equal(best_weights(tmp_path), network.weight)
    assert noted(tmp_path, 2) == {"metric": 5.0, "epoch": 2}


def test_a_training_that_is_stopped_within_an_epoch_or_fails_is_not_validated(tmp_path):
    validated(tmp_path / "a", [], 9, interval=4, more=[StopAt(Events.ITERATION_COMPLETED(once=5))])[0].run()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["checkpoint_epoch=1.pt"]

    def fail(engine):
        raise ArithmeticError("no number")

    engine, *_ = validated(tmp_path / "b", [], 2, interval=4)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=6), fail)
    with pytest.raises(ArithmeticError, match="no number"):
        engine.run()
    assert not (tmp_path / "b" / "model.pt").exists()


def test_a_finished_training_without_weights_gets_them_when_it_is_resumed(tmp_path):
    validated(tmp_path, [], 2, interval=4, last=False)[0].run()  # as before there was a validation at the end
    assert not (tmp_path / "model.pt").exists()
    engine, network, _ = validated(tmp_path, [3.0], 2, interval=4, resume=True)
    engine.run()
    assert torch.equal(best_weights(tmp_path), network.weight)
    assert noted(tmp_path, 2) == {"metric": 3.0, "epoch": 2}
    written = (tmp_path / "checkpoint_epoch=2.pt").stat().st_mtime_ns
    validated(tmp_path, [3.0], 2, interval=4, resume=True)[0].run()
    assert (tmp_path / "checkpoint_epoch=2.pt").stat().st_mtime_ns == written


def test_a_training_goes_on_after_its_end_as_if_it_had_been_longer(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    engine, expected, _ = validated(whole, [1.0, 2.0], 6, interval=4)
    engine.run()
    validated(cut, [0.5], 3, interval=4)[0].run()
    engine, found, _ = validated(cut, [1.0, 2.0], 6, interval=4, resume=True)
    engine.run()
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(best_weights(cut), best_weights(whole))
    assert noted(cut, 6) == noted(whole, 6)


def test_rounds_of_training_are_each_validated_at_their_end(tmp_path):
    values = iter([1.0, 2.0, 3.0])
    engine, network, _ = validated(tmp_path, values, 1, interval=10)
    for _ in range(3):  # as MonaiAlgo does
        engine.state.max_epochs = engine.state.epoch + 1
        engine.run()
    assert next(values, None) is None
    assert torch.equal(best_weights(tmp_path), network.weight)


def test_without_cases_to_validate_with_a_training_ends_all_the_same(tmp_path, caplog):
    engine, *_ = validated(tmp_path, [], 1, interval=10, cases=0)
    engine.run()
    assert "there is no case to validate with: model.pt is not written" in caplog.text


@pytest.mark.parametrize("decollate", [True, False])
def test_the_progress_bar_shows_the_loss(decollate, capfd):
    trainer([TrainingProgress(disable=False)], epochs=1, decollate=decollate)[0].run()
    assert "loss=" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("output", "shown"),
    [(0.25, "loss=0.25"), (torch.tensor([0.25]), "loss=0.25"), ([{"loss": 0.25}, {"loss": 0.25}], "loss=0.25"),
     ({"loss": torch.tensor([0.0, 0.5])}, "loss=0.25"), ({"pred": 1}, "1/1"), ([], "1/1"), (None, "1/1")],
)  # fmt: skip
def test_the_progress_bar_takes_any_output(output, shown, capfd):
    engine = Engine(lambda *_: output)
    TrainingProgress(disable=False).attach(engine)
    engine.run([0], 1)
    assert shown in capfd.readouterr().err


def test_a_run_on_phantoms_stops_before_it_replaces_a_model_of_data(tmp_path):
    file = tmp_path / "model.pt"
    theirs = RunRecord({})
    theirs.describe_data("BraTS2020", 369, (64, 64, 64), 2.8)
    torch.save(theirs.sign(nn.Linear(3, 1)).state_dict(), file)
    record = RunRecord({})
    data = {"source": PHANTOM, "num_cases": 32, "spatial_size": [32, 32, 32], "spacing_mm": 5.0}
    handler = RecordHandler(record, file, data)
    assert record.content["data"] == data
    engine, network = trainer([handler])
    before = network.weight.detach().clone()
    with pytest.raises(FileExistsError, match="369 cases of BraTS2020"):
        engine.run()
    assert torch.equal(network.weight, before)
