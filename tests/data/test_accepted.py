"""Unusual but valid input is accepted: headers, data types, folder names, ways to start processes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose

from monai_idm.data import LabelToRegionsd, LoadLabeld, LoadVolumesd, brats_datalist
from tests.data.cases import SHAPE, affine, smooth_brain

LPS = affine((1.2, 1, 1), "LPS", oblique_deg=9)
LABEL = np.zeros(SHAPE)
LABEL[10:16, 12:20, 8:12] = 4
IMAGE = np.round(1000 * smooth_brain())


def nifti1(values):
    return nib.Nifti1Image(values, LPS)


def sform_alone(values):
    image = nifti1(values)
    image.set_qform(None, code=0)
    return image


def qform_alone(values):
    image = nifti1(values)
    image.set_qform(LPS, code=1)
    image.set_sform(None, code=0)
    return image


def nifti2(values):
    return nib.Nifti2Image(values, LPS)


def big_endian(values):
    image = nib.Nifti1Image(values, LPS, header=nib.Nifti1Header(endianness=">"))
    assert image.header.endianness == ">"
    return image


def slope(values):
    image = nifti1(values.astype(np.int16))
    image.header.set_slope_inter(1.0, 0.0)
    return image


def doubles(values):
    return nifti1(values.astype(np.float64))


FILES = (nifti1, sform_alone, qform_alone, nifti2, big_endian, slope, doubles)
FOLDERS = ("data", "with spaces", "[1] (2)", "Größe", "脑")


def case(folder: Path, make_image=nifti1, make_label=nifti1) -> Path:
    """A case in the BraTS layout, with the hidden file that macOS leaves next to each of its files."""
    (folder / "case").mkdir(parents=True)
    for name, make, values in (("t1", make_image, IMAGE), ("t2", make_image, IMAGE), ("seg", make_label, LABEL)):
        nib.save(make(values.astype(np.float32)), folder / "case" / f"case_{name}.nii.gz")
        (folder / "case" / f"._case_{name}.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    return folder


def load(folder: Path) -> dict:
    (item,) = brats_datalist(folder, labels=True)
    return LabelToRegionsd()(LoadLabeld()(LoadVolumesd(modalities=("t1", "t2"))(item)))


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("side", ["images", "label", "both"])
def test_every_kind_of_file_is_the_same_case(make, side, tmp_path):
    expected = load(case(tmp_path / "plain"))
    found = load(case(tmp_path / "other", make if side != "label" else nifti1, make if side != "images" else nifti1))
    for key in ("image", "mask", "label"):
        torch.testing.assert_close(found[key].as_tensor(), expected[key].as_tensor(), rtol=0, atol=0)
        torch.testing.assert_close(found[key].affine, expected[key].affine, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_may_be_called_anything(name, tmp_path):
    assert load(case(tmp_path / name))["image"].shape == (2, *SHAPE)


@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_workers_may_be_started_in_any_way(context, tmp_path):
    items = brats_datalist(case(tmp_path / "data"), labels=True)
    steps = Compose([LoadVolumesd(modalities=("t1", "t2")), LoadLabeld(), LabelToRegionsd()])
    loader = DataLoader(Dataset(items, steps), num_workers=1, multiprocessing_context=context)
    (batch,) = loader
    torch.testing.assert_close(batch["label"][0].as_tensor(), load(tmp_path / "data")["label"].as_tensor())
