"""Air is the value that the border of a volume shares, whatever it is; if there is none, nothing is guessed."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_idm.data import AirToZerod, LoadVolumesd
from tests.data.cases import SHAPE, affine, chain, smooth_brain, write_volume

BRAIN = smooth_brain() != 0
INTENSITIES = 200 + 800 * smooth_brain()
NOISE = np.random.default_rng(0).normal(size=SHAPE)
BACKGROUNDS = {
    "zero": 0.0,
    "minus one": -1.0,
    "ten": 10.0,
    "far below": -400.0,
    "above the brain": 4095.0,
    "rounding noise": 1e-15 * NOISE,
    "rounding noise around ten": 10 + 1e-7 * NOISE,
}


def load(tmp_path, values: np.ndarray, **options) -> dict:
    return LoadVolumesd(**options)({"image": [write_volume(tmp_path / "a.nii.gz", values, dtype=np.float64)]})


def written(background) -> np.ndarray:
    return np.where(BRAIN, INTENSITIES, background)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_brain_is_found_before_any_background(tmp_path, background):
    data = load(tmp_path, written(BACKGROUNDS[background]))
    assert np.array_equal(data["mask"][0].numpy() != 0, BRAIN)
    np.testing.assert_allclose(data["image"][0].numpy(), written(BACKGROUNDS[background]), rtol=1e-6, atol=1e-12)


def test_a_z_score_keeps_its_brain_where_it_crosses_the_air(tmp_path):
    z = (INTENSITIES - INTENSITIES[BRAIN].mean()) / INTENSITIES[BRAIN].std()
    for background in (0.0, z[BRAIN].min() - 1):
        assert np.array_equal(load(tmp_path, np.where(BRAIN, z, background))["mask"][0].numpy() != 0, BRAIN)


def test_each_contrast_has_air_of_its_own(tmp_path):
    values = {"a_t1.nii": written(0.0), "a_t2.nii": written(-1.0)}
    data = LoadVolumesd()({"image": [write_volume(tmp_path / name, v) for name, v in values.items()]})
    assert np.array_equal(data["mask"][0].numpy() != 0, BRAIN)
    zeroed = AirToZerod("image")(data)["image"]
    assert not zeroed[:, data["mask"][0] == 0].any()


def test_air_other_than_zero_is_in_the_log(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        load(tmp_path, written(0.0))
        assert not caplog.records
        load(tmp_path, written(10.0))
    assert "a.nii.gz: most of its border is 10, which is taken to be air" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (INTENSITIES + NOISE, "has no clear air: .*skull-strip the volumes.*--air 0"),
        (np.where(BRAIN, INTENSITIES, np.abs(30 * NOISE)), "has no clear air"),
        (np.where(BRAIN, INTENSITIES, np.round(np.abs(1.1 * NOISE))), "has no clear air"),
        (np.pad(200 + np.abs(NOISE)[1:-1, 1:-1, 1:-1], 1), "fills 100% of a box"),
        (np.pad(INTENSITIES[5:-5, 5:-5, 5:-5] + 1, 5), "fills 100% of a box of .*looks like .* a cut-out"),
    ],
    ids=["brain everywhere", "noise", "noise of small integers", "noise in a frame", "cut-out"],
)
def test_without_clear_air_nothing_is_guessed(tmp_path, values, message):
    with pytest.raises(ValueError, match=rf"(?s)a\.nii\.gz.*{message}"):
        load(tmp_path, values)
    mask = load(tmp_path, values, air=0)["mask"]  # the user is believed
    assert np.array_equal(mask[0].numpy() != 0, values != 0)


def test_nothing_but_air_is_no_brain(tmp_path):
    with pytest.raises(ValueError, match="is 7 in every voxel"):
        load(tmp_path, np.full(SHAPE, 7.0))


@pytest.mark.parametrize("background", [0.0, -1.0, 10.0, -400.0])
def test_files_come_back_with_their_own_air_in_every_voxel(tmp_path, background):
    files = [write_volume(tmp_path / f"a_{m}.nii.gz", written(background), affine(axes="LPS")) for m in ("t1", "t2")]
    before, after = chain(spatial_size=[40, 40, 40], zoom=False, output_dir=str(tmp_path / "out"))
    data = before({"subject": "a", "image": files})
    after(data | {"pred": data["image"].as_tensor().clone()})
    back = nib.load(tmp_path / "out" / "a_t1.nii.gz").get_fdata()
    np.testing.assert_allclose(back[~BRAIN], background, atol=1e-3)
    inside = BRAIN & (np.percentile(INTENSITIES[BRAIN], 99) > INTENSITIES)
    np.testing.assert_allclose(back[inside], INTENSITIES[inside], rtol=1e-4)


def test_the_network_sees_the_same_whatever_the_air_was(tmp_path):
    seen = []
    for background in (0.0, 1e-15 * NOISE):
        files = [write_volume(tmp_path / f"a_{m}.nii.gz", written(background), dtype=np.float64) for m in ("t1", "t2")]
        seen.append(chain()[0]({"subject": "a", "image": files})["image"].as_tensor())
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-6)
    shifted = [write_volume(tmp_path / f"a_{m}.nii.gz", written(0.0) + 37) for m in ("t1", "t2")]
    torch.testing.assert_close(
        chain()[0]({"subject": "a", "image": shifted})["image"].as_tensor(), seen[0], rtol=0, atol=1e-5
    )


def test_other_channels_than_were_loaded_do_not_come_back():
    transform = AirToZerod("image")
    data = {"image": MetaTensor(torch.ones(2, 3, 3, 3)), "mask": torch.ones(1, 3, 3, 3)}
    zeroed = transform(data)["image"]
    assert torch.equal(zeroed.as_tensor(), torch.ones(2, 3, 3, 3))  # no air: nothing to subtract
    with pytest.raises(ValueError, match="the image to invert has 1 channels, but 2 were loaded"):
        transform.inverse({"image": zeroed[:1]})
