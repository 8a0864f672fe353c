"""A run without a dataset is a demo, and says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from monai.data import Dataset
from torch.utils.data import TensorDataset

from monai_idm.checkpoints import PHANTOM
from monai_idm.data import brats_datalist, data_source, dataset_or_phantoms


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


def test_the_source_is_where_the_cases_lie(tmp_path):
    phantoms = dataset_or_phantoms(None, tmp_path / "phantoms", 2, (32, 32, 24), 0)
    assert data_source(brats_datalist(phantoms), None, tmp_path / "phantoms") == PHANTOM
    assert data_source(brats_datalist(phantoms), "/data/BraTS2020", tmp_path / "phantoms") == "/data/BraTS2020"
    study = {"image": str(tmp_path / "studies" / "case.nii.gz")}  # from a tool that knows no dataset_dir
    assert data_source([study], None, tmp_path / "phantoms") == str(tmp_path / "studies")


@pytest.mark.parametrize(
    ("dataset", "source"),
    [
        (Dataset([{"image": ["/studies/one_t1.nii.gz", "/studies/one_t2.nii.gz"]}]), "/studies"),
        (Dataset([{"image": Path("/studies/one.nii.gz")}]), "/studies"),
        (Dataset([{"image": torch.zeros(1, 2, 2, 2)}]), "a Dataset that names no files"),
        (TensorDataset(torch.zeros(3, 2)), "a TensorDataset that names no files"),
        ([{"label": "/studies/one_seg.nii.gz"}], "a list that names no files"),
        ([], "a list that names no files"),
    ],
)
def test_the_source_of_someone_elses_dataset(dataset, source, tmp_path):
    assert data_source(dataset, None, tmp_path / "phantoms") == source
