"""A label may list its voxels in any order, but must lie in the place of its images."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd

from monai_idm.data import LoadLabeld, LoadVolumesd
from monai_idm.data.displacement import displacement
from tests.data.cases import SHAPE, affine, smooth_brain, write_volume

LPS = affine((1.2, 1, 1), "LPS", oblique_deg=9)
LABEL = np.zeros(SHAPE)
LABEL[10:16, 12:20, 8:12] = 4
LABEL[12:14, 12:20, 8:12] = 1


def item(folder, label: np.ndarray = LABEL, matrix=LPS) -> dict:
    image = write_volume(folder / "a_t1.nii.gz", 100 * smooth_brain(), LPS)
    return {"image": [image], "label": write_volume(folder / "a_seg.nii.gz", label, matrix)}


def load(data: dict) -> torch.Tensor:
    to_ras = Orientationd(["image", "label"], axcodes="RAS", labels=[["L", "R"], ["P", "A"], ["I", "S"]])
    return to_ras(LoadLabeld()(LoadVolumesd()(data)))["label"]


def test_a_label_on_its_image_loads(tmp_path):
    expected = load(item(tmp_path))
    assert expected.shape == (1, *SHAPE)
    assert expected.unique().tolist() == [0, 1, 4]


@pytest.mark.parametrize("axes", ["RAS", "PSR", "ILA"])
def test_another_order_of_voxels_is_the_same_label(tmp_path, axes):
    expected = load(item(tmp_path))
    given = item(tmp_path)
    label = nib.load(given["label"])
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(label.affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(label.as_reoriented(turn), given["label"])
    found = load(given)
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=0)


def shifted(matrix: np.ndarray, mm: float) -> np.ndarray:
    moved = matrix.copy()
    moved[0, 3] += mm
    return moved


@pytest.mark.parametrize(
    ("label", "matrix"),
    [
        (LABEL, np.eye(4)),
        (LABEL, shifted(LPS, 10)),
        (LABEL, shifted(LPS, 1)),
        (LABEL, affine((1.2, 1, 1), "RAS", oblique_deg=9)),
        (LABEL, affine((1.2, 1, 1.02), "LPS", oblique_deg=9)),
        (LABEL, affine((1.2, 1, 1), "LPS", oblique_deg=12)),
        (LABEL[:-1], LPS),
        (LABEL.transpose(1, 0, 2), LPS),
    ],
    ids=["identity", "10 mm", "1 mm", "mirrored", "spacing", "turned", "cropped", "transposed"],
)
def test_a_label_elsewhere_is_refused(tmp_path, label, matrix):
    with pytest.raises(ValueError, match=r"(?s)a_seg\.nii\.gz does not lie on .*a_t1\.nii\.gz .*apart.*resample it"):
        load(item(tmp_path, label, matrix))


def test_a_header_without_a_place_is_refused(tmp_path):
    given = item(tmp_path)
    label = nib.load(given["label"])
    bare = nib.Nifti1Image(label.get_fdata().astype(np.uint8), None, label.header)
    bare.set_sform(None, code=0)
    bare.set_qform(None, code=0)
    nib.save(bare, given["label"])
    with pytest.raises(ValueError, match=r"does not lie on"):
        load(given)


def test_headers_that_differ_by_rounding_are_one_place(tmp_path):
    assert load(item(tmp_path, matrix=shifted(LPS, 0.05))).shape == (1, *SHAPE)


def test_voxels_in_another_order_than_their_header_says_show_in_the_air(tmp_path):
    corner = np.zeros(SHAPE)
    corner[:6, :8, :5] = 1
    with pytest.raises(ValueError, match=r"marks 240 voxels, \d+% of them in the air; .* another case's"):
        load(item(tmp_path, corner))
    assert not load(item(tmp_path, np.zeros(SHAPE))).any()  # an empty label is no mistake


def test_a_label_that_is_no_single_volume_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a label has one volume"):
        load(item(tmp_path, np.stack([LABEL, LABEL], -1)))


@pytest.mark.parametrize("value", [0.5, 2.01, -1])
def test_what_holds_other_values_than_whole_numbers_is_no_label(tmp_path, value):
    with pytest.raises(ValueError, match=rf"a_seg.nii.gz holds 64 voxels such as {value}; a label holds whole numbers"):
        load(item(tmp_path, np.where(LABEL == 1, value, 0)))
    assert load(item(tmp_path, LABEL + 1e-4)).any()  # the scaling of a file may leave as much


def test_a_case_without_a_label_is_told_so(tmp_path):
    scan = {"image": item(tmp_path)["image"]}
    with pytest.raises(KeyError, match="the case has no 'label'"):
        load(scan)


def test_a_label_that_another_tool_loaded_is_compared_too(tmp_path):
    data = item(tmp_path)
    assert load({**data, "label": MetaTensor(torch.tensor(LABEL)[None], affine=LPS)}).unique().tolist() == [0, 1, 4]
    with pytest.raises(ValueError, match=r"the label given does not lie on"):
        load({**data, "label": MetaTensor(torch.tensor(LABEL)[None], affine=shifted(LPS, 5))})


def test_displacement_is_in_voxels_of_the_first_grid():
    two_mm = affine((2, 2, 2))
    assert displacement(SHAPE, two_mm, SHAPE, shifted(two_mm, 3)) == pytest.approx(1.5)
    assert displacement(SHAPE, two_mm, (*SHAPE[:2], 9), two_mm) == np.inf
    assert displacement(SHAPE, two_mm, SHAPE, affine((1, 1, 1))) == np.inf
