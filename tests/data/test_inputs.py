"""Every transform accepts arrays, plain tensors and MetaTensors, tracked or not, or names what it needs."""

from __future__ import annotations

import importlib
import json
import pkgutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, InvertibleTransform, Transform

import monai_idm.data
from monai_idm.data import (
    AddCoordinatesd,
    AirToZerod,
    BrainToGridd,
    ChannelsToGreyd,
    DrawNoised,
    FitToGridd,
    LabelToChannelsd,
    LabelToHoled,
    LabelToRegionsd,
    LoadLabeld,
    LoadVolumesd,
    PlaceOnTrainingGridd,
    RandCentrePatchd,
    RegionsToLabeld,
    RequireThickSlicesd,
    SaveSettingsd,
    SaveVolumesd,
    ScaleToNetworkRanged,
    SelectChannelsd,
    ThickSlicesd,
    ToImageRanged,
    ToNatived,
    WindowIntensityd,
)
from monai_idm.tasks import ChooseKnownd

SIZE = (5, 6, 4)
AFFINE = torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=torch.float64))
KINDS = {"array": np.asarray, "plain": torch.as_tensor, "meta": lambda x: MetaTensor(x, affine=AFFINE)}


def voxels(channels=2, integers=False):
    x = torch.rand(channels, *SIZE, generator=torch.Generator().manual_seed(0))
    return ((x * 3).int() if integers else x).numpy()


@pytest.fixture(params=[True, False], ids=["tracked", "untracked"])
def tracked(request):
    set_track_meta(request.param)
    yield request.param
    set_track_meta(True)


MASK = np.ones((1, *SIZE))  # all brain
# each transform, its input, and the keys whose values it sets; those that need an affine are in NEEDS
TABLE = {
    "AddCoordinatesd": (AddCoordinatesd(), voxels(), ["image", "coordinates"]),
    "RandCentrePatchd": (RandCentrePatchd("image", 3).set_random_state(1), voxels(), ["image"]),
    "ChooseKnownd": (ChooseKnownd("image", ["t1", "t2"], known=["t1"]), voxels(), ["image", "target"]),
    "ChooseKnownd, integers": (ChooseKnownd("image", ["t1", "t2"], known=["t1"]), voxels(2, True), ["image"]),
    "ScaleToNetworkRanged": (ScaleToNetworkRanged("image"), voxels(), ["image"]),
    "ScaleToNetworkRanged, integers": (ScaleToNetworkRanged("image"), voxels(2, True), ["image"]),
    "LabelToRegionsd": (LabelToRegionsd("image", ["whole", "core"]), voxels(1, True), ["image"]),
    "RegionsToLabeld": (RegionsToLabeld("image", ["whole", "core"]), voxels(), ["image"]),
    "FitToGridd, padded": (FitToGridd("image", 8, zoom=False), voxels(), ["image"]),
    "LoadVolumesd": (LoadVolumesd(air=0), voxels(), ["image", "mask"]),
    "AirToZerod": (AirToZerod("image"), voxels(), ["image"]),
    "WindowIntensityd": (WindowIntensityd("image"), voxels(), ["image"]),
    "BrainToGridd, padded": (BrainToGridd("image", 8, zoom=False), voxels(), ["image", "mask"]),
    "SelectChannelsd": (SelectChannelsd("image", ["t1", "t2"], ["t2", "t1", "t2"]), voxels(), ["image"]),
    "ToImageRanged": (ToImageRanged("image", (-1, 1)), voxels(), ["image"]),
    "LabelToHoled": (LabelToHoled("image"), voxels(1, True), ["image"]),
    "LabelToChannelsd": (LabelToChannelsd("image", {"a": [1], "b": [2]}), voxels(1, True), ["image"]),
    "ChannelsToGreyd": (ChannelsToGreyd("image", 2), voxels(), ["image"]),
    "PlaceOnTrainingGridd": (PlaceOnTrainingGridd("image", 1.0), voxels(), ["image"]),
}
NEEDS = {
    "FitToGridd": (lambda folder: FitToGridd("image", 8), r"must be a\s+MetaTensor .* or use zoom=False"),
    "ThickSlicesd": (lambda folder: ThickSlicesd("image", "axial", 3.0), "does not know the size of its voxels"),
    "RequireThickSlicesd": (lambda folder: RequireThickSlicesd("image", "coronal", 2.0), "keeps no record of"),
    "SaveVolumesd": (lambda folder: SaveVolumesd("image", folder, ["t1", "t2"]), "must carry an affine"),
}
# those that need more than an image and its mask have tests of their own; the last three have no volume as input
OTHERWISE = {"LoadCubed", "LoadLabeld", "ToNatived", "RandHoled", "HideHoled", "FillHoled", "SaveInpaintedd"}
OTHERWISE |= {"ToThinSlicesd", "DrawNoised", "EncodeConditionsd", "SaveSettingsd"}


def test_the_table_is_complete():
    modules = [
        importlib.import_module(m.name) for m in pkgutil.iter_modules(monai_idm.data.__path__, "monai_idm.data.")
    ]
    ours = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Transform) and value.__module__ == module.__name__
    }
    assert ours | {"ChooseKnownd"} == {name.split(",")[0] for name in TABLE} | {*NEEDS} | OTHERWISE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TABLE)
def test_the_values_are_the_same_whatever_holds_them(name, kind, tracked):
    transform, x, made = TABLE[name]
    found = transform({"image": KINDS[kind](x.copy()), "mask": MASK})
    set_track_meta(True)
    expected = transform({"image": MetaTensor(x.copy(), affine=AFFINE), "mask": MASK})
    for key in made:
        if "RandCentre" in name:
            assert found[key].shape == expected[key].shape
        else:
            np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(expected[key]))
            assert torch.as_tensor(np.asarray(found[key])).dtype == expected[key].dtype


INVERTIBLE = [name for name, (t, *_) in TABLE.items() if isinstance(t, InvertibleTransform)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in INVERTIBLE if "Brain" not in name])  # BrainToGridd: test_brain.py
def test_the_inverse_gives_the_input_back_or_says_what_it_lacks(name, kind, tracked):
    transform, x, _ = TABLE[name]
    made = transform({"image": KINDS[kind](x.copy()), "mask": MASK})
    if "Scale" not in name and not isinstance(made["image"], MetaTensor):
        with pytest.raises(ValueError, match="keeps no record of"):
            transform.inverse(made)
        return
    expected = np.clip(x, 0, 1) if "Scale" in name else x
    if name == "WindowIntensityd":
        expected = np.minimum(x, np.percentile(x, 99.5, axis=(1, 2, 3), keepdims=True))
    np.testing.assert_allclose(np.asarray(transform.inverse(made)["image"]), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["array", "plain"])
@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_an_affine_says_so(name, kind, tracked, tmp_path):
    make, message = NEEDS[name]
    with pytest.raises(ValueError, match=message):
        make(tmp_path)({"image": KINDS[kind](voxels()), "subject": "a"})
    set_track_meta(True)
    make(tmp_path)({"image": KINDS["meta"](voxels()), "subject": "a"})


def test_files_are_not_loaded_without_their_affine(tmp_path):
    nib.save(nib.Nifti1Image(voxels()[0], np.eye(4)), tmp_path / "one.nii.gz")
    item = {"image": [str(tmp_path / "one.nii.gz")]}
    set_track_meta(False)
    try:
        with pytest.raises(ValueError, match=r"one\.nii\.gz was loaded without its affine.*set_track_meta\(True\)"):
            LoadVolumesd()(item)
    finally:
        set_track_meta(True)
    assert LoadVolumesd(air=0)(item)["image"].shape == (1, *SIZE)


def test_noise_and_settings(tracked, tmp_path):
    draw = DrawNoised("image", 2, SIZE)
    drawn = draw({"seed": np.int64(3)})["image"]
    assert isinstance(drawn, MetaTensor) == get_track_meta() == tracked
    assert torch.equal(torch.as_tensor(drawn), torch.as_tensor(draw({"seed": torch.tensor(3)})["image"]))
    SaveSettingsd(tmp_path, {}, {})({"subject": "a", "seed": np.int64(3), "class_label": torch.tensor(1)})
    assert json.loads((tmp_path / "a.json").read_text())["seed"] == 3


@pytest.mark.parametrize("transform", [
    SelectChannelsd("image", ["t1"], ["t1"], allow_missing_keys=True),
    ToImageRanged("image", (-1, 1), allow_missing_keys=True),
    ToNatived("image", Compose([]), allow_missing_keys=True),
    SaveVolumesd("image", "nowhere", ["t1"], allow_missing_keys=True),
], ids=lambda t: type(t).__name__)  # fmt: skip
def test_an_item_without_any_of_the_keys_passes_where_it_may(transform):
    item = {"other": 1, "subject": "a"}
    assert transform(item) == item


@pytest.mark.parametrize("transform", [
    LoadVolumesd("image"), LoadLabeld("image"), AddCoordinatesd("image"), RandCentrePatchd("image", 3),
    ScaleToNetworkRanged("image"), LabelToRegionsd("image"), RegionsToLabeld("image"), AirToZerod("image"),
    WindowIntensityd("image"), FitToGridd("image", 8), BrainToGridd("image", 8), ChooseKnownd("image", ["t1", "t2"]),
    SelectChannelsd("image", ["t1"], ["t1"]), ToImageRanged("image", (-1, 1)), ToNatived("image", Compose([])),
    SaveVolumesd("image", "nowhere", ["t1"]), PlaceOnTrainingGridd("image", 1.0),
], ids=lambda t: type(t).__name__)  # fmt: skip
def test_an_item_without_the_key_is_refused(transform):
    with pytest.raises(KeyError, match="image"):
        transform({"other": 1, "subject": "a", "mask": torch.ones(1, 4, 4, 4)})
