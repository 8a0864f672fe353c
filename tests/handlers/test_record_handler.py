"""Weights trained on data are not replaced by weights trained on phantoms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_idm.checkpoints import PHANTOM, RunRecord
from monai_idm.handlers import RecordHandler
from tests.handlers.trainers import trainer


def test_a_run_on_phantoms_stops_before_it_replaces_a_model_of_data(tmp_path):
    file = tmp_path / "model.pt"
    theirs = RunRecord()
    theirs.describe_data("BraTS2020", 369, (64, 64, 64), 2.8)
    torch.save(theirs.sign(nn.Linear(3, 1)).state_dict(), file)
    record = RunRecord()
    data = {"source": PHANTOM, "num_cases": 32, "spatial_size": [32, 32, 32], "spacing_mm": 5.0}
    handler = RecordHandler(record, file, data)
    assert record.content["data"] == data
    engine, network = trainer([handler])
    before = network.weight.detach().clone()
    with pytest.raises(FileExistsError, match="369 cases of BraTS2020"):
        engine.run()
    assert torch.equal(network.weight, before)
