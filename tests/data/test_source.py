"""A run without a dataset uses phantoms and logs it; a run records the source of its cases."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose
from torch.utils.data import TensorDataset

from monai_idm.checkpoints import PHANTOM, RunRecord
from monai_idm.data import (
    BrainToGridd,
    LoadVolumesd,
    brats_datalist,
    data_source,
    dataset_or_phantoms,
    describe_data,
    grid_spacing_mm,
    prepare_datalist,
    split_of,
)


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
    study = {"image": str(tmp_path / "studies" / "case.nii.gz")}  # from a tool without a dataset_dir
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


def test_a_training_s_data_are_described_for_its_record(tmp_path):
    phantoms = dataset_or_phantoms(None, tmp_path / "phantoms", 3, (32, 32, 24), 0)
    datalist = prepare_datalist(phantoms, tmp_path / "datalist.json", fractions=(0.4, 0.3, 0.3))
    load = Compose([LoadVolumesd("image"), BrainToGridd("image", (32, 32, 32), zoom=False)])
    parts = [Dataset(datalist[part], load) for part in ("training", "validation")]
    described = describe_data(*parts, None, tmp_path, [32, 32, 32])
    spacing = described.pop("spacing_mm")
    assert spacing == pytest.approx(grid_spacing_mm(parts[1]))
    assert described == {
        "source": PHANTOM,
        "num_cases": 1,
        "spatial_size": [32, 32, 32],
        "split": split_of(*parts, tmp_path / "datalist.json"),
    }
    record = RunRecord()
    record.describe_data(**described, spacing_mm=spacing)
    assert record.content["data"]["spacing_mm"] == spacing
    assert {part: len(record.content["split"][part]["subjects"]) for part in described["split"]} == {
        part: len(datalist[part]) for part in described["split"]
    }
    assert describe_data(*parts, "/data/BraTS2020", tmp_path, [32, 32, 32])["source"] == "/data/BraTS2020"
