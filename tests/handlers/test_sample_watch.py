"""Generated volumes are watched in a real evaluator."""

from __future__ import annotations

import torch
from ignite.engine import Events

from monai_idm.handlers import SampleWatch
from tests.handlers.evaluators import SIZE, make_evaluator


class Faults:
    def __init__(self):
        self.seen, self.asked = [], []

    def reset(self):
        self.seen = []

    def update(self, image, mask):
        self.seen.append((tuple(image.shape), tuple(mask.shape)))

    def found(self, volumes):
        self.asked.append(len(self.seen))
        return {"noise": "generated volumes are noisy; likely X"} if volumes.any() else {}


def run(generated, epochs=1):
    faults = Faults()
    evaluator = make_evaluator([SampleWatch(faults)])
    evaluator.add_event_handler(Events.EPOCH_STARTED, lambda e: setattr(e.state, "generated", generated))
    for _ in range(epochs):
        evaluator.run(1)
    return evaluator, faults


def test_every_real_case_of_an_evaluation_is_shown_and_faults_are_logged(caplog):
    evaluator, faults = run(torch.ones(1, 2, *SIZE), epochs=2)
    assert faults.seen == [((2, *SIZE), (1, *SIZE))] * 3
    assert faults.asked == [3, 3]
    assert evaluator.state.metrics["sample_faults"] == 1
    assert caplog.text.count("generated volumes are noisy; likely X") == 2


def test_nothing_is_logged_if_nothing_is_found(caplog):
    evaluator, _ = run(torch.zeros(1, 2, *SIZE))
    assert evaluator.state.metrics["sample_faults"] == 0
    assert "generated volumes" not in caplog.text
