"""Preprocessed cases are cached on disk, and load as they were written."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import PersistentDataset
from monai.transforms import Compose, DeleteItemsd, EnsureTyped, Lambdad, LoadImaged, RandFlipd, ScaleIntensityd

from monai_idm.data import CheckedPersistentDataset, LoadVolumesd
from tests.data.cases import SHAPE, write_case


class Count:
    """Writes a line to a file for every image: a counter in memory would change the transform's hash."""

    def __init__(self, file):
        self.file = file

    def __call__(self, image):
        with self.file.open("a") as stream:
            stream.write("made\n")
        return image


def made(folder):
    return len((folder / "made.txt").read_text().splitlines())


def dataset(folder, kind=CheckedPersistentDataset, factor=0.0):
    transforms = [
        LoadVolumesd("image"), Lambdad("image", Count(folder / "made.txt")),
        ScaleIntensityd("image", minv=None, maxv=None, factor=factor), EnsureTyped("image", track_meta=False),
        DeleteItemsd("mask"), RandFlipd("image", prob=1.0, spatial_axis=0),
    ]  # fmt: skip
    return kind([{**write_case(folder), "subject": "A"}], Compose(transforms), cache_dir=folder / "cache")


def test_it_is_monais_and_prepares_a_case_once(tmp_path):
    expected = dataset(tmp_path / "theirs", PersistentDataset)
    found = dataset(tmp_path / "ours")
    for _ in range(3):
        a, b = expected[0], found[0]
        assert torch.equal(a["image"], b["image"])
        assert a.keys() == b.keys()
        assert b["subject"] == "A"
    assert made(tmp_path / "ours") == made(tmp_path / "theirs") == 1


def test_other_transforms_make_other_files_and_the_same_ones_find_theirs(tmp_path):
    plain, doubled, again = dataset(tmp_path), dataset(tmp_path, factor=1.0), dataset(tmp_path)
    torch.testing.assert_close(doubled[0]["image"], 2 * plain[0]["image"])
    assert torch.equal(again[0]["image"], plain[0]["image"])
    assert made(tmp_path) == 2


@pytest.mark.parametrize("part", ["cut short", "a voxel changed"])
def test_a_damaged_file_is_rebuilt(part, tmp_path):
    cases = dataset(tmp_path)
    expected = cases[0]["image"]
    (file,) = (tmp_path / "cache").iterdir()
    sound = file.read_bytes()
    damaged = bytearray(sound[: len(sound) // 2] if part == "cut short" else sound)
    damaged[len(sound) // 3] ^= 1
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match="preprocessing this case again"):
        assert torch.equal(cases[0]["image"], expected)
    assert torch.equal(cases[0]["image"], expected)
    assert made(tmp_path) == 2
    assert [f.name for f in (tmp_path / "cache").iterdir()] == [file.name]


@pytest.mark.parametrize("changed", ["content", "time"])
def test_a_source_file_that_was_mended_is_preprocessed_again(changed, tmp_path):
    cases = dataset(tmp_path)
    before = cases[0]["image"]
    file = Path(cases.data[0]["image"][0])
    volume = nib.load(file)
    stat = file.stat()
    if changed == "content":  # another file size, the same modification time
        nib.save(nib.Nifti1Image(np.flip(volume.get_fdata(), 0) * 1.5, volume.affine), file)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert file.stat().st_size != stat.st_size
    else:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    after = cases[0]["image"]
    assert torch.equal(before, after) is (changed == "time")
    cases[0]
    assert made(tmp_path) == 2


def test_a_mended_label_is_preprocessed_again(tmp_path):
    item = write_case(tmp_path)
    label = tmp_path / "case_seg.nii.gz"
    found = []
    for number in (1, 2):
        nib.save(nib.Nifti1Image(np.full(SHAPE, float(number)), nib.load(item["image"][0]).affine), label)
        os.utime(label, ns=(number, number))
        cases = CheckedPersistentDataset(
            [{**item, "label": str(label)}], LoadImaged("label"), cache_dir=tmp_path / "cache"
        )
        found.append(float(cases[0]["label"].max()))
    assert found == [1, 2]
