"""A written file is the one that was read, except in the hole, where it holds the new intensities."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_idm.data import SaveInpaintedd

SIZE = (5, 6, 7)
RNG = np.random.default_rng(0)
HOLE = np.zeros((1, *SIZE), bool)
HOLE[0, 1:3, 2:5, 3:6] = True


def scan(file, kind, scaling=(1.0, 0.0), channels=()):
    stored = (RNG.random((*SIZE, *channels)) * 100).astype(kind)
    nib.save(nib.Nifti1Image(stored, np.diag([1.0, 2.0, 3.0, 1.0])), file)
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[112:120] = np.array(scaling, "<f4").tobytes()
    file.write_bytes(gzip.compress(bytes(content)))
    return nib.load(file)


def saved(tmp_path, files, pred, modalities, **more):
    item = {"subject": "a", "files": [str(file) for file in files], "hole": HOLE, "pred": pred, **more}
    SaveInpaintedd("pred", tmp_path / "out", modalities)(item)
    return {file.name: nib.load(file) for file in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [(np.int16, (0.5, 3.0)), (np.uint8, (2.0, -10.0)), (np.float32, (1.0, 0.0)), (">i2", (1.0, 0.0))],
)
def test_new_intensities_are_those_given_in_the_files_own_type(tmp_path, kind, scaling):
    before = scan(tmp_path / "a_t1.nii.gz", kind, scaling)
    pred = torch.from_numpy(RNG.random((1, *SIZE)) * 80 + 5)
    ((name, after),) = saved(tmp_path, [tmp_path / "a_t1.nii.gz"], pred, ["t1"]).items()
    assert name == "a_t1_inpainted.nii.gz"
    assert after.get_data_dtype() == before.get_data_dtype()
    hole = HOLE[0]
    np.testing.assert_allclose(after.get_fdata()[hole], pred[0].numpy()[hole], atol=scaling[0] / 2 + 1e-4)
    old, new = (image.dataobj.get_unscaled() for image in (before, after))
    np.testing.assert_array_equal(new[~hole], old[~hole])


def test_integers_are_limited_to_their_range(tmp_path):
    scan(tmp_path / "a_t1.nii.gz", np.uint8)
    pred = torch.full((1, *SIZE), 300.0)
    pred[0, :2] = -7
    (after,) = saved(tmp_path, [tmp_path / "a_t1.nii.gz"], pred, ["t1"]).values()
    assert {*after.get_fdata()[HOLE[0]]} == {0.0, 255.0}


def test_a_file_of_all_contrasts_stays_one(tmp_path):
    before = scan(tmp_path / "a.nii.gz", np.int16, channels=(3,))
    pred = torch.from_numpy(RNG.random((2, *SIZE)) * 80).round()
    found = saved(tmp_path, [tmp_path / "a.nii.gz"] * 2, pred, ["t1", "t2"], channels=[2, 0])
    ((name, after),) = found.items()
    assert name == "a_inpainted.nii.gz"
    old, new, hole = before.get_fdata(), after.get_fdata(), HOLE[0]
    np.testing.assert_array_equal(new[hole][:, 2], pred[0].numpy()[hole])
    np.testing.assert_array_equal(new[hole][:, 0], pred[1].numpy()[hole])
    np.testing.assert_array_equal(new[..., 1], old[..., 1])
    np.testing.assert_array_equal(new[~hole], old[~hole])


def test_equal_results_are_equal_files(tmp_path):
    scan(tmp_path / "a_t1.nii.gz", np.int16)
    pred = torch.full((1, *SIZE), 30.0)
    written = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        saved(folder, [tmp_path / "a_t1.nii.gz"], pred, ["t1"])
        written.append((folder / "out" / "a_t1_inpainted.nii.gz").read_bytes())
    assert written[0] == written[1]


def test_another_grid_is_refused_and_another_tools_item_skipped(tmp_path):
    scan(tmp_path / "a_t1.nii.gz", np.int16)
    with pytest.raises(ValueError, match="put ToNatived before"):
        saved(tmp_path, [tmp_path / "a_t1.nii.gz"], torch.zeros(1, 4, 4, 4), ["t1"])
    item = {"pred": torch.zeros(1, *SIZE), "hole": HOLE, "files": "a_t1.nii.gz"}
    assert SaveInpaintedd("pred", tmp_path / "none", ["t1"])(item) == item
    assert not (tmp_path / "none").exists()
