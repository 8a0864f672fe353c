"""Preprocessed cases wait on the disk, and come back as they were made."""

from __future__ import annotations

import pytest
import torch
from monai.data import PersistentDataset
from monai.transforms import Compose, DeleteItemsd, EnsureTyped, Lambdad, RandFlipd

from monai_idm.data import CheckedPersistentDataset, LoadVolumesd
from tests.data.cases import write_case


def dataset(folder, kind=CheckedPersistentDataset, made=None):
    def count(image):
        made.append(image.shape)
        return image

    transforms = [
        LoadVolumesd("image"), Lambdad("image", count), EnsureTyped("image", track_meta=False), DeleteItemsd("mask"),
        RandFlipd("image", prob=1.0, spatial_axis=0),
    ]  # fmt: skip
    return kind([{**write_case(folder), "subject": "A"}], Compose(transforms), cache_dir=folder / "cache")


def test_it_is_monais_and_prepares_a_case_once(tmp_path):
    ours, theirs = [], []
    expected = dataset(tmp_path / "theirs", PersistentDataset, theirs)
    found = dataset(tmp_path / "ours", made=ours)
    for _ in range(3):
        a, b = expected[0], found[0]
        assert torch.equal(a["image"], b["image"])
        assert a.keys() == b.keys()
        assert b["subject"] == "A"
    assert len(ours) == len(theirs) == 1


@pytest.mark.parametrize("part", ["cut short", "a voxel changed"])
def test_a_file_that_is_damaged_is_made_anew(part, tmp_path):
    made = []
    cases = dataset(tmp_path, made=made)
    expected = cases[0]["image"]
    (file,) = (tmp_path / "cache").iterdir()
    sound = file.read_bytes()
    damaged = bytearray(sound[: len(sound) // 2] if part == "cut short" else sound)
    damaged[len(sound) // 3] ^= 1
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match="preprocessing this case again"):
        assert torch.equal(cases[0]["image"], expected)
    assert torch.equal(cases[0]["image"], expected)
    assert len(made) == 2
    assert [f.name for f in (tmp_path / "cache").iterdir()] == [file.name]
