"""The best weights of a run, which is validated every few epochs and at its end."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler

from monai_idm.failures import BadNumbers
from monai_idm.handlers import BestWeights, TrainingCheckpoint, ValidateLast
from tests.handlers.trainers import trainer


class Metric:
    """A key metric with given values."""

    def __init__(self, values):
        self.values = iter(values)

    def attach(self, engine, name):
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update({name: next(self.values)}))


def validated(folder, values, epochs, resume=False, interval=1, cases=1, last=True, more=()):
    """A trainer that is validated every few epochs and at its end, with given metrics."""
    validators = []

    def handlers(network, optimizer):
        best = BestWeights(network, folder / "model.pt")
        validator = SupervisedEvaluator(
            torch.device("cpu"), [{"image": torch.zeros(1, 3)}] * cases, network, iteration_update=lambda *_: {},
            key_val_metric={"psnr": Metric(values)}, val_handlers=[best], decollate=False,
        )  # fmt: skip
        validators.append(validator)
        objects = {"network": network, "optimizer": optimizer, "best": best}
        ends = [ValidateLast(validator)] if last else []
        return [TrainingCheckpoint(folder, objects, resume), ValidationHandler(interval, validator), *ends, *more]

    torch.manual_seed(0)
    return *trainer(handlers, epochs), *validators


def test_the_best_weights_stay_the_best_over_an_interruption(tmp_path):
    validated(tmp_path, [1.0, 3.0], 2)[0].run()
    best = torch.load(tmp_path / "model.pt", weights_only=True)["weight"]
    engine, network, validator = validated(tmp_path, [2.0, 4.0], 3, resume=True)
    engine.run()
    assert (validator.state.best_metric, validator.state.best_metric_epoch) == (3.0, 2)
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], best)
    assert not torch.equal(network.weight, best)
    engine, network, _ = validated(tmp_path, [4.0], 4, resume=True)
    engine.run()
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], network.weight)


def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path):
    validated(tmp_path, [float("nan"), float("inf")], 2, last=False)[0].run()
    assert not (tmp_path / "model.pt").exists()
    engine, network, validator = validated(tmp_path, [float("nan"), 1.0], 2)
    engine.run()
    assert (validator.state.best_metric, validator.state.best_metric_epoch) == (1.0, 2)
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], network.weight)


def test_a_run_whose_validations_are_never_finite_fails(tmp_path):
    with pytest.raises(BadNumbers, match=r"no validation of this run gave a finite \w+ \(the best is nan\)"):
        validated(tmp_path / "a", [float("nan"), float("nan")], 2)[0].run()
    validated(tmp_path / "b", [1.0, float("nan")], 2)[0].run()  # weights were saved before
    assert (tmp_path / "b" / "model.pt").exists()


def best_weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)["weight"]


def noted(folder, epoch):
    """The record of the best validation in the checkpoint of an epoch."""
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
    """Stops a run at an event, as early stopping does."""

    def __init__(self, event):
        self.event = event

    def attach(self, engine):
        engine.add_event_handler(self.event, lambda engine: engine.terminate())


def test_a_training_that_is_stopped_at_an_epochs_end_is_validated_and_its_checkpoint_records_it(tmp_path):
    # by a handler after ours: the epoch's checkpoint has been written by then, and must be written again
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
    validated(tmp_path, [], 2, interval=4, last=False)[0].run()  # as by versions without a validation at the end
    assert not (tmp_path / "model.pt").exists()
    engine, network, _ = validated(tmp_path, [3.0], 2, interval=4, resume=True)
    engine.run()
    assert torch.equal(best_weights(tmp_path), network.weight)
    assert noted(tmp_path, 2) == {"metric": 3.0, "epoch": 2}
    written = (tmp_path / "checkpoint_epoch=2.pt").stat().st_mtime_ns
    validated(tmp_path, [3.0], 2, interval=4, resume=True)[0].run()
    assert (tmp_path / "checkpoint_epoch=2.pt").stat().st_mtime_ns == written


def test_a_finished_run_that_is_resumed_equals_a_longer_one(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    engine, expected, _ = validated(whole, [1.0, 2.0], 6, interval=4)
    engine.run()
    validated(cut, [0.5], 3, interval=4)[0].run()
    engine, network, _ = validated(cut, [1.0, 2.0], 6, interval=4, resume=True)
    engine.run()
    assert torch.equal(network.weight, expected.weight)
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
    assert "there are no validation cases: model.pt is not written" in caplog.text
