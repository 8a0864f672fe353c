"""Weights are loaded as they were written, or not at all."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_idm.checkpoints import DamagedFile
from monai_idm.handlers import CheckedCheckpointLoader


def load(file, network):
    engine = Engine(lambda *_: None)
    CheckedCheckpointLoader(str(file), {"model": network}, map_location="cpu").attach(engine)
    engine.fire_event(Events.STARTED)


def test_weights_are_loaded(tmp_path):
    trained, network = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    load(tmp_path / "model.pt", network)
    assert torch.equal(network.weight, trained.weight)


def test_a_flipped_bit_of_a_weight_is_refused(tmp_path):
    """PyTorch itself loads it."""
    trained, network = nn.Linear(3, 2), nn.Linear(3, 2)
    file = tmp_path / "model.pt"
    torch.save(trained.state_dict(), file)
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(trained.weight.detach().numpy().tobytes())] ^= 1
    file.write_bytes(damaged)
    assert not torch.equal(torch.load(file, weights_only=True)["weight"], trained.weight)
    before = network.weight.detach().clone()
    with pytest.raises(DamagedFile, match=r"model\.pt is damaged.*name another file"):
        load(file, network)
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half an archive"])
def test_a_file_that_holds_no_weights_is_named(content, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"model\.pt cannot be read.*name another file"):
        load(tmp_path / "model.pt", nn.Linear(3, 2))


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.pt does not exist; train first"):
        load(tmp_path / "model.pt", nn.Linear(3, 2))
