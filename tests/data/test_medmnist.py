"""Files of MedMNIST3D are unpacked once, checked, and keep their split, classes and voxels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_idm.data import prepare_datalist, read_class_labels
from monai_idm.data.medmnist import LoadCubed, medmnist_classes, medmnist_grid, unpack_medmnist

COUNTS = {"train": 4, "val": 2, "test": 3}


def content(side=28, counts=COUNTS, classes=2):
    rng = np.random.default_rng(0)
    found = {}
    for part, count in counts.items():
        found[f"{part}_images"] = rng.integers(0, 256, (count, side, side, side), np.uint8)
        found[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
    return found


def written(folder, name="synapsemnist3d.npz", **arrays):
    np.savez_compressed(folder / name, **(arrays or content()))
    return folder / name


@pytest.mark.parametrize(("name", "side", "grid"), [("synapsemnist3d.npz", 28, 32), ("synapsemnist3d_64.npz", 64, 64)])
def test_volumes_classes_and_split_are_those_of_the_file(name, side, grid, tmp_path):
    arrays = content(side)
    folder = unpack_medmnist(written(tmp_path, name, **arrays), tmp_path / "unpacked")
    assert medmnist_grid(folder) == [grid] * 3
    assert medmnist_classes(folder) == ["inhibitory synapse", "excitatory synapse"]
    classes = read_class_labels(f"{folder}/classes.csv", medmnist_classes(folder))
    split = prepare_datalist(
        folder, tmp_path / "d.json", ["image"], datalist_file=f"{folder}/datalist.json", class_labels=classes
    )
    for part, ours in (("train", "training"), ("val", "validation"), ("test", "test")):
        assert [item["class_label"] for item in split[ours]] == arrays[f"{part}_labels"].ravel().tolist()
        for item, volume in zip(split[ours], arrays[f"{part}_images"], strict=True):
            np.testing.assert_array_equal(nib.load(item["image"][0]).get_fdata(), volume)


@pytest.mark.parametrize(
    ("name", "classes", "names"),
    [
        ("organmnist3d.npz", 3, 11),  # a small file need not have a case of each class
        ("FractureMNIST3D_64.npz", 3, 3),
        ("adrenalmnist3d.npz", 3, ["0", "1", "2"]),  # more classes than that data set has
        ("mine.npz", 2, ["0", "1"]),
    ],
)
def test_unknown_data_sets_have_numbers_as_names(name, classes, names, tmp_path):
    folder = unpack_medmnist(written(tmp_path, name, **content(classes=classes)), tmp_path / "unpacked")
    found = medmnist_classes(folder)
    assert found == names or len(found) == names


@pytest.mark.parametrize("side", [28, 64])
def test_loaded_volumes_fill_the_grid_and_the_range(side, tmp_path):
    arrays = content(side, {**COUNTS, "train": 1})
    folder = Path(unpack_medmnist(written(tmp_path, **arrays), tmp_path / "unpacked"))
    item = json.loads((folder / "datalist.json").read_text())["training"][0]
    grid = medmnist_grid(folder)
    image = LoadCubed("image", grid, (-1, 3))({"image": [str(folder / item["image"][0])]})
    assert image["image"].shape == image["mask"].shape == (1, *grid)
    assert image["mask"].min() == 1
    if side == 64:
        expected = torch.as_tensor(arrays["train_images"][0]).float() / 255 * 4 - 1
        torch.testing.assert_close(image["image"].as_tensor()[0], expected)
    else:
        assert image["image"].mean() == pytest.approx(arrays["train_images"].mean() / 255 * 4 - 1, abs=0.02)
        assert abs(image["image"][0, :2]).max() <= 3  # resized, not padded
        assert image["image"][0, :2].std() > 0.1


def test_a_file_is_unpacked_once_and_again_after_an_interruption(tmp_path, monkeypatch):
    file = written(tmp_path)
    folder = Path(unpack_medmnist(file, tmp_path / "unpacked"))
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert unpack_medmnist(file, tmp_path / "unpacked") == str(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    (folder / "medmnist.json").unlink()  # as if it had been interrupted
    next(folder.rglob("*.nii.gz")).write_bytes(b"half")
    unpack_medmnist(file, tmp_path / "unpacked")
    assert all(nib.load(path).shape == (28, 28, 28) for path in folder.rglob("*.nii.gz"))


def test_another_file_of_the_same_name_is_refused(tmp_path):
    unpack_medmnist(written(tmp_path), tmp_path / "unpacked")
    with pytest.raises(ValueError, match=r"holds another file that was also called synapsemnist3d\.npz"):
        unpack_medmnist(written(tmp_path, **content(classes=1)), tmp_path / "unpacked")


def without(key):
    return {name: array for name, array in content().items() if name != key}


BAD = {
    "no file": (None, "is not a file"),
    "not zipped": (b"volumes", "is not an NPZ file, or is damaged"),
    "a part is missing": (without("val_images"), "but no val_images"),
    "other arrays": ({"a": np.zeros(3)}, "holds a, but no train_images"),
    "2D": (content() | {"train_images": np.zeros((4, 28, 28), np.uint8)}, r"shape \(4, 28, 28\); it must be uint8"),
    "colour": (content() | {"train_images": np.zeros((4, 28, 28, 3), np.uint8)}, r"shape \(4, 28, 28, 3\)"),
    "floats": (content() | {"test_images": np.zeros((3, 28, 28, 28))}, "float64"),
    "no volume": (content() | {"val_images": np.zeros((0, 28, 28, 28), np.uint8)}, "at least one volume"),
    "other sizes": (content() | {"val_images": np.zeros((2, 64, 64, 64), np.uint8)}, r"different sizes, \[28, 64\]"),
    "labels too few": (
        content() | {"train_labels": np.zeros((3, 1), np.uint8)},
        r"train_labels .* each of the 4 volumes",
    ),
    "several labels": (content() | {"train_labels": np.zeros((4, 14), np.uint8)}, r"shape \(4, 14\)"),
    "fractions": (content() | {"train_labels": np.zeros((4, 1))}, "float64"),
    "below 0": (content() | {"train_labels": np.full((4, 1), -1)}, "0 or more"),
    "objects": (
        content() | {"train_labels": np.array([[{}]] * 4, dtype=object)},
        "cannot be read .*; download it again",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_such_file_is_named(case, tmp_path):
    arrays, message = BAD[case]
    file = tmp_path / "synapsemnist3d.npz"
    if isinstance(arrays, bytes):
        file.write_bytes(arrays)
    elif arrays:
        written(tmp_path, **arrays)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        unpack_medmnist(file, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_half_a_download_is_named(tmp_path):
    file = written(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="download it again"):
        unpack_medmnist(file, tmp_path / "unpacked")
    flipped = bytearray(whole)
    flipped[2000] ^= 255
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match="download it again"):
        unpack_medmnist(file, tmp_path / "unpacked")


def test_no_file_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"--dataset_dir synapsemnist3d_64\.npz"):
        unpack_medmnist(None, tmp_path)


def test_the_table_of_classes_can_be_read_by_others(tmp_path):
    folder = unpack_medmnist(written(tmp_path), tmp_path / "unpacked")
    with open(f"{folder}/classes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"subject": "synapsemnist3d-train-00001", "class": "excitatory synapse"}
