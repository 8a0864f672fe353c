"""A run without a dataset is a demo, and says so."""

from __future__ import annotations

import logging

from monai_idm.data import brats_datalist, dataset_or_phantoms


def test_without_a_dataset_phantoms_are_written_and_announced(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        folder = dataset_or_phantoms(None, tmp_path / "phantoms", 2, (32, 32, 24), 0)
    assert len(brats_datalist(folder)) == 2
    assert "2 generated phantoms" in caplog.text
    assert "--dataset_dir" in caplog.text


def test_a_dataset_is_taken_as_it_is(tmp_path, caplog):
    assert dataset_or_phantoms(tmp_path, tmp_path / "phantoms", 2, (32, 32, 24), 0) == str(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not caplog.text
