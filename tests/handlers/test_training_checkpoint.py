"""A run resumes from its checkpoints, whatever happened to them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from monai_idm.handlers import HostEMA, TrainingCheckpoint, UpdateEMA
from tests.handlers.trainers import trainer


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


def test_with_nothing_to_resume_it_starts_from_scratch_and_logs_that(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    engine, _ = checkpointed(tmp_path, 1, resume=True)
    engine.run()
    assert engine.state.epoch == 1
    assert "starting from scratch" in caplog.text


def test_the_newest_checkpoint_is_the_one_written_last(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    checkpointed(tmp_path, 10)[0].run()
    assert "earlier run" not in caplog.text
    checkpointed(tmp_path, 2)[0].run()  # a new run in the same folder
    assert "the newest checkpoint_epoch=10.pt; this run starts from scratch" in caplog.text
    checkpointed(tmp_path, 3, resume=True)[0].run()
    assert "checkpoint_epoch=2.pt, epoch 2" in caplog.text


def test_a_damaged_checkpoint_is_logged_and_the_one_before_is_used(tmp_path, caplog):
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
    with pytest.raises(ValueError, match="is from epoch 2, later than max_epochs=1"):
        checkpointed(tmp_path, 1, resume=True)[0].run()
    handler = TrainingCheckpoint(tmp_path, {"schedule": HostEMA(nn.Linear(3, 1))}, resume=True)
    with pytest.raises(ValueError, match="this run also needs schedule"):
        trainer([handler])[0].run()


def test_a_file_that_a_killed_run_left_half_written_is_deleted(tmp_path):
    (tmp_path / ".unfinished.1.checkpoint_epoch=1.pt").write_bytes(b"half")
    checkpointed(tmp_path, 1)[0].run()
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_epoch=1.pt"]


def test_a_folder_that_is_not_writable_ends_a_run_before_its_first_step(tmp_path):
    (tmp_path / "models").touch()  # even root cannot write below a file
    engine, network = trainer(lambda network, _: [TrainingCheckpoint(tmp_path / "models" / "a", {"network": network})])
    before = network.weight.detach().clone()
    with pytest.raises(NotADirectoryError):
        engine.run()
    assert torch.equal(network.weight, before)


def test_at_least_one_checkpoint_is_kept():
    with pytest.raises(ValueError, match="keep at least the newest"):
        TrainingCheckpoint("models", {}, keep=0)
