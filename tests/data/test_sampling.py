"""The noise that sampling starts from, and the affine and the settings of its results."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_idm.data import DrawNoised, PlaceOnTrainingGridd, SaveSettingsd, SaveVolumesd, sample_list

RECORD = {"data": {"num_cases": 3}, "seed": 7, "split": {"salt": "0"}, "earlier": []}


def test_noise_is_normal_and_follows_the_seed_alone():
    draw = DrawNoised("image", 2, (32, 32, 32))
    first, second = (draw(item)["image"] for item in sample_list(2, seed=7))
    assert first.shape == (2, 32, 32, 32)
    assert abs(float(first.mean())) < 0.02
    assert abs(float(first.std()) - 1) < 0.02
    assert not torch.equal(first, second)
    assert torch.equal(second, draw(sample_list(1, seed=8)[0])["image"])
    assert [item["subject"] for item in sample_list(2, seed=7)] == ["sample_007", "sample_008"]


def test_noise_needs_a_size():
    item = sample_list(1)[0]
    assert DrawNoised("image", 3, (6, 4, 8))(item)["image"].shape == (3, 6, 4, 8)
    with pytest.raises(ValueError, match="--spatial_size"):
        DrawNoised("image", 2, None)(item)


def test_samples_lie_centred_on_the_origin_with_the_spacing_of_training():
    place = PlaceOnTrainingGridd("pred", 2.5)
    affine = place({"pred": torch.zeros(2, 6, 4, 8)})["pred"].affine.numpy()
    np.testing.assert_allclose(np.diag(affine), [2.5, 2.5, 2.5, 1])
    np.testing.assert_allclose(affine @ [2.5, 1.5, 3.5, 1], [0, 0, 0, 1])


def test_what_is_drawn_is_not_drawn_again_unless_it_would_be_another(tmp_path):
    settings = {"num_inference_steps": 10, "spatial_size": (4, 4, 4)}
    save = SaveSettingsd(tmp_path, settings, RECORD)
    listed = lambda n, **changes: sample_list(n, 3, **{"output_dir": tmp_path, "settings": settings, **changes})  # noqa: E731
    first, second = listed(2, classes=[1])
    assert save(first) is first
    written = json.loads((tmp_path / "sample_003.json").read_text())
    assert (written["seed"], written["class_label"], written["settings"]["num_inference_steps"]) == (3, 1, 10)
    assert written["checkpoint"] == {"data": {"num_cases": 3}, "seed": 7}  # and no hashes of cases
    assert written["versions"]["torch"]
    assert listed(2, classes=[1]) == [second]
    assert listed(1, classes=[1]) == []
    for changes, name in [({"classes": [0]}, "class_label"), ({"settings": {"spatial_size": [4, 4, 4]}}, "num_inf")]:
        with pytest.raises(ValueError, match=rf"sample_003.json is from a sample with other settings \({name}"):
            listed(2, **{"classes": [1], **changes})


def test_settings_lie_beside_the_volumes_of_their_case(tmp_path):
    save, volumes = SaveSettingsd(tmp_path, {}, {}), SaveVolumesd("pred", tmp_path, ["seg"])
    for subject, stem in (("患者 1", "患者_1"), ("../Ü", "_Ü")):
        save({"subject": subject})
        volumes({"subject": subject, "pred": MetaTensor(torch.zeros(1, 2, 2, 2))})
        assert {path.name for path in tmp_path.glob(f"{stem}*")} == {f"{stem}.json", f"{stem}_seg.nii.gz"}
    with pytest.raises(ValueError, match=r"'患者 1' .* and '患者_1' .* would share the file name"):
        save({"subject": "患者_1"})


def test_who_names_no_subject_writes_by_himself(tmp_path):
    item = {"pred": 1}  # as from MONAI Label or Deploy
    assert SaveSettingsd(tmp_path, {}, RECORD)(item) is item
    assert not list(tmp_path.iterdir())
