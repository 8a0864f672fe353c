"""Files are float32 with the tensor's affine, one per modality, written completely or not at all."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_idm.data import LoadVolumesd, SaveVolumesd
from tests.data.cases import affine


def make_volume(matrix=None, dtype=torch.float32) -> MetaTensor:
    matrix = affine((1.2, 1, 1), "LPS", 17) if matrix is None else matrix
    return MetaTensor(torch.randn(2, 5, 4, 3).to(dtype), affine=torch.as_tensor(matrix))


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_files_hold_the_values_on_the_affine_in_mm(tmp_path, dtype):
    volume = make_volume(dtype=dtype).requires_grad_()
    data = {"pred": volume, "subject": "case_1"}
    assert SaveVolumesd("pred", tmp_path / "new" / "folder", ["t1", "t2"])(data)["pred"] is volume
    for channel, modality in zip(volume.detach().float().numpy(), ("t1", "t2"), strict=True):
        image = nib.load(tmp_path / "new" / "folder" / f"case_1_{modality}.nii.gz")
        np.testing.assert_array_equal(image.get_fdata(), channel.astype(np.float32))
        np.testing.assert_allclose(image.affine, affine((1.2, 1, 1), "LPS", 17), rtol=1e-6)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert image.get_data_dtype() == np.float32
        assert image.header.get_xyzt_units()[0] == "mm"
        assert np.isnan(image.header["scl_slope"])


def test_what_is_saved_can_be_loaded(tmp_path):
    volume = make_volume()
    SaveVolumesd("pred", tmp_path, ["t1", "t2"])({"pred": volume, "subject": "a"})
    loaded = LoadVolumesd(air=0)({"image": [tmp_path / "a_t1.nii.gz", tmp_path / "a_t2.nii.gz"]})["image"]
    torch.testing.assert_close(loaded.as_tensor(), volume.as_tensor(), rtol=0, atol=0)


def test_each_key_has_its_postfix(tmp_path):
    data = {"pred": make_volume(), "image": make_volume(), "subject": "a"}
    SaveVolumesd(["pred", "image"], tmp_path, ["t1", "t2"], ["rebuilt", ""])(data)
    assert names(tmp_path) == ["a_t1.nii.gz", "a_t1_rebuilt.nii.gz", "a_t2.nii.gz", "a_t2_rebuilt.nii.gz"]


@pytest.mark.parametrize(
    ("subject", "name"),
    [("../../etc/x y", "_.._etc_x_y"), ("é/ü", "é_ü"), ("BraTS-GLI-1.2", "BraTS-GLI-1.2"), (7, "7")],
)
def test_subjects_become_plain_file_names(tmp_path, subject, name):
    SaveVolumesd("pred", tmp_path, ["t1", "t2"])({"pred": make_volume(), "subject": subject})
    assert names(tmp_path) == [f"{name}_t1.nii.gz", f"{name}_t2.nii.gz"]


def test_names_in_any_script_have_files_of_their_own(tmp_path):
    save, subjects = SaveVolumesd("pred", tmp_path, ["seg"]), ["患者", "病人", "张三", "Müller", "M_ller"]
    for subject in subjects:
        save({"pred": make_volume()[:1], "subject": subject})
    assert names(tmp_path) == sorted(f"{subject}_seg.nii.gz" for subject in subjects)


@pytest.mark.parametrize("twin", ["x_1", "X 1", "x/1"])
def test_a_second_subject_does_not_replace_the_files_of_the_first(tmp_path, twin):
    save = SaveVolumesd("pred", tmp_path, ["t1", "t2"])
    first = make_volume()
    save({"pred": first, "subject": "x 1"})
    save({"pred": first, "subject": "x 1"})  # the same case again is not another subject
    with pytest.raises(ValueError, match=rf"subjects 'x 1' and '{twin}' would share the file name"):
        save({"pred": make_volume(), "subject": twin})
    np.testing.assert_array_equal(nib.load(tmp_path / "x_1_t1.nii.gz").get_fdata(), first[0].numpy())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    save = SaveVolumesd("pred", tmp_path, ["t1", "t2"])
    old = make_volume()
    save({"pred": old, "subject": "a"})
    monkeypatch.setattr(nib, "save", lambda image, file: (file.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        save({"pred": make_volume(), "subject": "a"})
    np.testing.assert_array_equal(nib.load(tmp_path / "a_t1.nii.gz").get_fdata(), old[0].numpy())


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (3, 5, 4, 3), (2, 2, 5, 4, 3), (2, 5, 4)])
def test_channels_that_do_not_match_the_modalities_are_an_error(tmp_path, shape):
    with pytest.raises(ValueError, match=r"'pred' has the shape .* channel for each of t1, t2.*decollate"):
        SaveVolumesd("pred", tmp_path, ["t1", "t2"])({"pred": MetaTensor(torch.zeros(shape)), "subject": "a"})


def test_a_plain_tensor_is_an_error_because_it_was_not_inverted(tmp_path):
    with pytest.raises(ValueError, match=r"'pred' is a plain tensor.*EnsureTyped before Invertd"):
        SaveVolumesd("pred", tmp_path, ["t1", "t2"])({"pred": torch.zeros(2, 5, 4, 3), "subject": "a"})


@pytest.mark.parametrize("data", [{}, {"subject": None}, {"subject": ""}, {"subject": "..."}])
def test_no_subject_is_an_error(tmp_path, data):
    with pytest.raises(ValueError, match=r"'subject' is .* must be the name"):
        SaveVolumesd("pred", tmp_path, ["t1", "t2"])(data | {"pred": make_volume()})


def test_keys_whose_files_would_clash_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"output_postfix .* must differ in name"):
        SaveVolumesd(["pred", "image"], tmp_path, ["t1", "t2"])


def test_labels_stay_integers(tmp_path):
    label = MetaTensor(torch.tensor([0, 4], dtype=torch.uint8).reshape(1, 2, 1, 1), affine=torch.eye(4))
    SaveVolumesd("pred", tmp_path, ["seg"])({"pred": label, "subject": "a"})
    image = nib.load(tmp_path / "a_seg.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.get_fdata().flatten().tolist() == [0, 4]


def test_items_without_a_subject_are_passed_over_where_that_is_allowed(tmp_path):
    data = {"pred": make_volume()}
    SaveVolumesd("pred", tmp_path, ["t1", "t2"], allow_missing_keys=True)(data)
    assert names(tmp_path) == []
    with pytest.raises(ValueError, match="give it in the datalist"):
        SaveVolumesd("pred", tmp_path, ["t1", "t2"])(data)
