"""A record travels with the weights, is checked where they are loaded, and protects what was trained on data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_idm.checkpoints import PHANTOM, RunRecord, read_record

CONVENTION = {"network_range": [-1.0, 1.0], "prediction_type": "v_prediction"}


def save(file, data=PHANTOM, key=None, **convention):
    record = RunRecord({**CONVENTION, **convention}, seed=7)
    record.describe_data(data, 12, (32, 32, 32), 2.5)
    weights = record.sign(nn.Linear(2, 3)).state_dict()
    torch.save(weights if key is None else {key: weights, "trainer": {"epoch": 1}}, file)
    return record


@pytest.mark.parametrize("key", [None, "network"])
def test_the_record_is_read_back_beside_bare_weights(tmp_path, key):
    record = save(tmp_path / "model.pt", key=key)
    assert read_record(tmp_path / "model.pt") == record.content
    assert record.content["data"] == {
        "source": PHANTOM,
        "num_cases": 12,
        "spatial_size": [32, 32, 32],
        "spacing_mm": 2.5,
    }
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    nn.Linear(2, 3).load_state_dict(content if key is None else content[key])  # no loader trips over it


def test_weights_without_a_record_have_none(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "model.pt")
    assert read_record(tmp_path / "model.pt") is None


def test_loading_under_another_convention_is_refused_by_name(tmp_path):
    save(tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    same = RunRecord(CONVENTION)
    same.sign(nn.Linear(2, 3)).load_state_dict(state)
    assert same.loaded is not None
    assert same.loaded["data"]["spacing_mm"] == 2.5
    other = RunRecord({**CONVENTION, "prediction_type": "epsilon"}).sign(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="prediction_type: v_prediction in the checkpoint, epsilon here"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="another convention"):
        nn.Sequential(other).load_state_dict(nn.Sequential(same.sign(nn.Linear(2, 3))).state_dict())


def test_a_signed_network_can_be_copied():
    network = RunRecord(CONVENTION).sign(nn.Linear(2, 3))
    copy.deepcopy(network).load_state_dict(network.state_dict())


def test_phantoms_do_not_replace_a_model_of_data(tmp_path):
    save(tmp_path / "data.pt", data="BraTS2020")
    save(tmp_path / "phantom.pt")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "foreign.pt")
    phantoms, data = RunRecord(CONVENTION), RunRecord(CONVENTION)
    phantoms.describe_data(PHANTOM, 3, (8, 8, 8), 1.0)
    data.describe_data("BraTS2021", 3, (8, 8, 8), 1.0)
    with pytest.raises(FileExistsError, match="12 cases of BraTS2020"):
        phantoms.refuse_to_replace(tmp_path / "data.pt")
    with pytest.raises(FileExistsError, match="unknown data"):
        phantoms.refuse_to_replace(tmp_path / "foreign.pt")
    phantoms.refuse_to_replace(tmp_path / "phantom.pt")
    phantoms.refuse_to_replace(tmp_path / "absent.pt")
    data.refuse_to_replace(tmp_path / "data.pt")
