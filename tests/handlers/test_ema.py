"""The average of the weights: its value, and when the network has it."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_idm.handlers import HostEMA, UpdateEMA, UseEMA
from tests.handlers.trainers import trainer


def test_ema_follows_its_recursion_and_is_kept_on_the_host():
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
    ema = HostEMA(network)
    with torch.no_grad():
        network.weight.add_(1)
    engine = evaluator(network, [UseEMA(ema)])
    engine.run()
    torch.testing.assert_close(engine.state.output["weight"], weight + 1)


@pytest.mark.parametrize(("decay", "every"), [(1.0, 1), (0.9, 0)])
def test_an_impossible_average_is_refused(decay, every):
    with pytest.raises(ValueError, match="choose 0 <= decay < 1 and every >= 1"):
        HostEMA(nn.Linear(1, 1), decay, every)
