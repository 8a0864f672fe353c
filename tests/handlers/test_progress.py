"""What the progress bar shows."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from monai_idm.handlers import TrainingProgress
from tests.handlers.trainers import trainer


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
