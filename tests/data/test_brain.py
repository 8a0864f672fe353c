"""A head goes to the network's grid and back by the same steps that a config could list one by one."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd

from monai_idm.data import (
    AirToZerod,
    BrainToGridd,
    FitToGridd,
    LoadLabeld,
    LoadVolumesd,
    ScaleToNetworkRanged,
    WindowIntensityd,
)
from tests.data.cases import SHAPE, affine, smooth_brain, write_case, write_volume

SIZE = (20, 16, 24)
AXES = (("L", "R"), ("P", "A"), ("I", "S"))
CASES = {
    "defaults": {},
    "labels": {"label_keys": "label"},
    "an interpolated mask": {"mask_mode": "trilinear"},
    "labels and an interpolated mask": {"label_keys": "label", "mask_mode": "trilinear"},
    "not zoomed": {"zoom": False, "spatial_size": (40, 36, 34)},
    "not zoomed, with labels": {"zoom": False, "spatial_size": (40, 36, 34), "label_keys": "label"},
    "another range and window": {"network_range": (0.0, 1.0), "window_percentiles": (2.0, 98.0)},
}


def step_by_step(
    spatial_size=SIZE, zoom=True, window_percentiles=(0.5, 99.5), network_range=(-1.0, 1.0), label_keys=(),
    mask_mode="nearest",
):  # fmt: skip
    labels = [label_keys] if label_keys else []
    all_keys = ["image", *labels, "mask"]
    return Compose([
        AirToZerod("image"),
        Orientationd(all_keys, "RAS", labels=AXES),
        CropForegroundd(all_keys, source_key="mask"),
        WindowIntensityd("image", lower=window_percentiles[0], upper=window_percentiles[1]),
        FitToGridd(all_keys, spatial_size, ["trilinear", *["trilinear" for _ in labels], mask_mode], zoom),
        ScaleToNetworkRanged("image", *network_range),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A tilted head with air at -5, and a label with two numbers."""
    folder = tmp_path_factory.mktemp("case")
    matrix = affine((1.2, 1, 1), "LPS", oblique_deg=14)
    item = write_case(folder, matrix=matrix, dtype=np.float32, scale=(30, 0.1))
    for file in item["image"]:
        image = nib.load(file)
        nib.save(nib.Nifti1Image((image.get_fdata() - 5).astype(np.float32), image.affine), file)
    label = write_volume(folder / "case" / "case_seg.nii.gz", 2 * (smooth_brain() > 0.6), matrix)
    return LoadLabeld()(LoadVolumesd()({**item, "label": label}))


def both(options):
    options = {"spatial_size": SIZE, **options}
    return BrainToGridd("image", **options), step_by_step(**options)


def same(one, other):
    assert torch.equal(one.as_tensor(), other.as_tensor())
    assert torch.equal(one.affine, other.affine)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_steps_one_after_the_other(case, loaded):
    transform, steps = both(CASES[case])
    found, expected = transform(loaded), steps(loaded)
    assert found.keys() == expected.keys()
    for key in ("image", "mask", "label"):
        same(found[key], expected[key])
    assert found["image"].shape == (2, *CASES[case].get("spatial_size", SIZE))
    assert (found["label"].shape == found["mask"].shape) == ("label_keys" in CASES[case])
    assert loaded["image"].shape == (2, *SHAPE)  # the input is left as it was


@pytest.mark.parametrize("orig_key", ["image", "mask"])
@pytest.mark.parametrize("case", CASES)
def test_what_a_network_made_goes_back_by_the_steps_in_reverse(case, orig_key, loaded):
    transform, steps = both(CASES[case])
    size = CASES[case].get("spatial_size", SIZE)
    made = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, expected = (
        Invertd("pred", t, orig_key, nearest_interp=False)({**t(loaded), "pred": MetaTensor(made.clone())})["pred"]
        for t in (transform, steps)
    )
    same(found, expected)
    assert found.shape == (2, *SHAPE)
    np.testing.assert_allclose(found.affine, loaded["image"].affine, atol=1e-6)
    inside = loaded["mask"][0] != 0
    if orig_key == "image":
        assert abs(float(found[0][~inside].median()) + 5) < 0.5  # air has the value it had before
    else:
        assert found[:, inside].abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("options", [{}, {"zoom": False, "spatial_size": (40, 36, 34)}])
def test_the_image_itself_comes_back(options, loaded):
    transform, _ = both({"window_percentiles": (0, 100), **options})
    data = transform(loaded)
    back = Invertd("pred", transform, "image", nearest_interp=False)({**data, "pred": data["image"].clone()})["pred"]
    error = (back - loaded["image"]).abs().flatten(1).mean(1) / loaded["image"].flatten(1).std(1)
    assert error.max() < (0.2 if options == {} else 1e-6)


def test_its_settings_are_what_a_voxel_depends_on():
    given = {"zoom": False, "window_percentiles": [1, 99], "network_range": [0, 1]}
    settings = BrainToGridd("image", 24, mask_mode="trilinear", label_keys="label", **given).settings
    assert settings == {**given, "spatial_size": [24, 24, 24]}
    twin = BrainToGridd("image", **settings)
    assert twin.settings == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_size": 0}, "must be positive"),
        ({"mask_mode": "cubic"}, "mode cubic is unknown; choose one of trilinear, nearest"),
        ({"network_range": (1, 1)}, "must be below"),
        ({"window_percentiles": (90, 10)}, "percentiles"),
    ],
)
def test_what_its_steps_refuse_it_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        both(options)[0]
