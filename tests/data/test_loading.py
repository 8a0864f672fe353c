"""A case is loaded as MONAI would load it, the brain is where the data are not 0, and damaged files are named."""

from __future__ import annotations

import gc
import gzip
import json
import traceback

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_idm.data import LoadVolumesd, SaveVolumesd
from tests.data.cases import SHAPE, affine, smooth_brain, write_case, write_volume


def test_two_files_load_as_monai_loads_them(tmp_path):
    item = write_case(tmp_path, matrix=affine((1.2, 1, 1), "LPS", oblique_deg=9))
    ours = LoadVolumesd()(item)["image"]
    theirs = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])(item)["image"]
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), rtol=0, atol=0)
    torch.testing.assert_close(ours.affine, theirs.affine, rtol=0, atol=0)
    assert set(ours.meta) == set(theirs.meta)
    assert ours.meta["filename_or_obj"] == item["image"][0]
    for key in ("original_affine", "spatial_shape", "space"):
        np.testing.assert_array_equal(np.asarray(ours.meta[key]), np.asarray(theirs.meta[key]))


@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [
        (np.int16, None, 0),
        (np.uint8, 2.5, 0),
        (np.int16, 0.5, -3),
        (np.float32, None, 0),
        (np.float64, None, 0),
    ],
)
def test_the_scaling_in_the_header_is_applied(tmp_path, dtype, slope, inter):
    values = np.round(200 * smooth_brain())
    path = write_volume(tmp_path / "a.nii.gz", values, dtype=dtype, slope=slope, inter=inter)
    image = LoadVolumesd()({"image": [path]})["image"]
    assert image.dtype == torch.float32
    assert image.shape == (1, *SHAPE)
    np.testing.assert_allclose(image[0].numpy(), nib.load(path).get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(image[0].numpy(), values * (slope or 1) + inter, rtol=1e-6)


def test_the_brain_is_where_any_channel_is_not_zero(tmp_path):
    first, second = np.zeros(SHAPE), np.zeros(SHAPE)
    first[3:6, 4, 5] = (7, -2, 0)  # a negative voxel inside the brain belongs to it
    second[5:8, 4, 5] = (-1, 0, 3)
    paths = [write_volume(tmp_path / name, v) for name, v in (("a.nii", first), ("b.nii", second))]
    data = LoadVolumesd()({"image": paths})
    assert data["mask"].shape == (1, *SHAPE)
    assert data["mask"][0, :, 4, 5].tolist() == [0, 0, 0, 1, 1, 1, 0, 1] + [0] * (SHAPE[0] - 8)
    assert data["mask"].sum() == 4
    torch.testing.assert_close(data["mask"].affine, data["image"].affine)


@pytest.mark.parametrize("single", [True, False])
def test_channels_choose_from_a_4d_file(tmp_path, single):
    volumes = np.stack([(i + 1) * (smooth_brain() > 0.3) for i in range(4)], -1)
    path = write_volume(tmp_path / "a.nii.gz", volumes)
    image = LoadVolumesd()({"image": path if single else [path] * 2, "channels": [3, 1]})["image"]
    assert image.shape == (2, *SHAPE)
    assert [float(channel.max()) for channel in image] == [4, 2]


def test_endings_in_upper_case_load(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", smooth_brain())
    (tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    assert LoadVolumesd()({"image": path.replace("a.nii.gz", "A.NII.GZ")})["image"].shape == (1, *SHAPE)


@pytest.mark.parametrize("n", [None, 1, 3])
def test_one_path_gives_all_its_channels(tmp_path, n):
    values = smooth_brain() if n is None else np.stack([smooth_brain()] * n, -1)
    assert LoadVolumesd()({"image": write_volume(tmp_path / "a.nii", values)})["image"].shape == (
        n or 1,
        *SHAPE,
    )


@pytest.mark.parametrize("single", [False, True])
def test_a_tensor_that_another_tool_loaded_is_taken_as_it_is(tmp_path, single):
    item = write_case(tmp_path, matrix=affine((1.2, 1, 1), "LPS"))
    item = {"image": item["image"][:1]} if single else item
    expected = LoadVolumesd()(item)
    image = expected["image"]
    found = LoadVolumesd()({"image": image[0] if single else image})
    for key in ("image", "mask"):
        torch.testing.assert_close(found[key].as_tensor(), expected[key].as_tensor(), rtol=0, atol=0)
        torch.testing.assert_close(found[key].affine, expected[key].affine, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"a tensor of shape \(4, 5\) instead of paths"):
        LoadVolumesd()({"image": torch.zeros(4, 5)})
    with pytest.raises(ValueError, match="the input tensor is 0 in every voxel"):
        LoadVolumesd()({"image": torch.zeros(1, 4, 4, 4)})


def test_the_mask_is_of_the_first_key(tmp_path):
    volumes = smooth_brain(), np.roll(smooth_brain(), 1, axis=0)
    first, second = ([write_volume(tmp_path / f"{i}.nii.gz", v)] for i, v in enumerate(volumes))
    data = LoadVolumesd(["scan", "other"])({"scan": first, "other": second})
    assert set(data) == {"scan", "other", "mask"}
    assert torch.equal(data["mask"], LoadVolumesd()({"image": first})["mask"])
    assert not torch.equal(data["mask"], LoadVolumesd()({"image": second})["mask"])


@pytest.mark.parametrize("dataset", [Dataset, CacheDataset])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_cases_pass_through_dataset_workers_and_collate(tmp_path, dataset, num_workers):
    items = [write_case(tmp_path, f"case_{i}", seed=i) for i in range(3)]
    options = {"progress": False, "num_workers": 2} if dataset is CacheDataset else {}
    loader = DataLoader(dataset(items, LoadVolumesd(), **options), batch_size=3, num_workers=num_workers)
    [batch] = loader
    for i, item in enumerate(items):
        expected = LoadVolumesd()(item)
        torch.testing.assert_close(batch["image"][i].as_tensor(), expected["image"].as_tensor())
        torch.testing.assert_close(batch["mask"][i].as_tensor(), expected["mask"].as_tensor())


def bad_file(name: str, folder) -> dict:
    good = write_volume(folder / "good.nii.gz", 100 * smooth_brain())
    bad = folder / "bad.nii.gz"
    values = 100 * smooth_brain()
    if name == "truncated":
        bad.write_bytes((folder / "good.nii.gz").read_bytes()[:3000])
    elif name == "truncated, not compressed":
        bad = folder / "bad.nii"
        write_volume(bad, values)
        bad.write_bytes(bad.read_bytes()[:3000])
    elif name == "text":
        bad.write_text("<html>404</html>")
    elif name == "empty":
        bad.touch()
    elif name == "shape":
        write_volume(bad, values[:-1])
    elif name == "affine":
        write_volume(bad, values, affine() + np.outer([1, 0, 0, 0], [0, 0, 0, 2e-3]))
    elif name == "nan":
        values[4, 5, 6:8] = np.nan
        write_volume(bad, values)
    elif name == "inf":
        values[4, 5, 6] = np.inf
        write_volume(bad, values)
    elif name == "zeros":
        write_volume(bad, 0 * values)
    elif name == "2d":
        write_volume(bad, values[..., 9])
        return {"image": [str(bad)]}
    elif name == "5d":
        write_volume(bad, np.stack([values, values], -1)[..., None, :])
        return {"image": [str(bad)]}
    elif name == "complex":
        write_volume(bad, values, dtype=np.complex64)
    elif name == "4d":
        write_volume(bad, np.stack([values, values], -1))
    elif name == "singular":
        write_volume(bad, values, affine()[:, [0, 1, 1, 3]])
        return {"image": [str(bad)]}
    return {"image": [good, str(bad)]}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing", FileNotFoundError, r"bad\.nii\.gz is missing.*restore it"),
        ("truncated", ValueError, r"cannot read .*bad\.nii\.gz as NIfTI \(EOFError.*download"),
        ("truncated, not compressed", ValueError, r"cannot read .*bad\.nii as NIfTI.*download"),
        ("text", ValueError, r"cannot read .*bad\.nii\.gz as NIfTI \(ImageFileError"),
        ("empty", ValueError, r"cannot read .*bad\.nii\.gz as NIfTI \(ImageFileError"),
        ("shape", ValueError, r"good.* has \(27, 33, 22\) voxels.*bad.* has \(26, 33, 22\).*co-register"),
        ("affine", ValueError, r"affines differ by more than 0\.001 mm.*good.*bad.*resample"),
        ("nan", ValueError, r"bad\.nii\.gz holds 2 NaN or Inf voxels out of 19602.*nan_to_num"),
        ("complex", ValueError, r"bad\.nii\.gz holds complex numbers"),
        ("inf", ValueError, r"bad\.nii\.gz holds 1 NaN or Inf voxels"),
        ("zeros", ValueError, r"bad\.nii\.gz is 0 in every voxel"),
        ("2d", ValueError, r"bad\.nii\.gz has the shape \(1, 27, 33\).* must be \(C, X, Y, Z\)"),
        ("5d", ValueError, r"bad\.nii\.gz has the shape \(2, 27, 33, 22, 1\)"),
        ("4d", ValueError, r'bad\.nii\.gz is 4D with 2 channels where a 3D file is needed.*"channels"'),
        ("singular", ValueError, r"bad\.nii\.gz has the affine .* no inverse"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_bad_file_is_named(tmp_path, name, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        LoadVolumesd()(bad_file(name, tmp_path))


def test_affines_that_differ_by_rounding_are_one_grid(tmp_path):
    paths = [
        write_volume(tmp_path / f"{i}.nii", smooth_brain(), affine() + np.outer([1, 0, 0, 0], [0, 0, 0, i * 5e-4]))
        for i in range(2)
    ]
    assert LoadVolumesd()({"image": paths})["image"].shape == (2, *SHAPE)


@pytest.mark.parametrize("channels", [[0, 2], [-1, 0]])
def test_channel_that_is_not_there_is_an_error(tmp_path, channels):
    path = write_volume(tmp_path / "a.nii", np.ones((*SHAPE, 2)))
    with pytest.raises(ValueError, match=r"channel (2|-1) of .*a\.nii does not exist; the file has 2"):
        LoadVolumesd()({"image": [path] * 2, "channels": channels})


@pytest.mark.parametrize("item", [{"image": []}, {"image": ["a.nii"], "channels": [0, 1]}])
def test_paths_and_channels_that_do_not_match_are_an_error(item):
    with pytest.raises(ValueError, match=r"paths .* with channels .*: correct the datalist"):
        LoadVolumesd()(item)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_wrong_survives_compose_and_workers(tmp_path, num_workers):
    item = bad_file("nan", tmp_path)
    loader = DataLoader(Dataset([item], Compose([LoadVolumesd()])), num_workers=num_workers)
    with pytest.raises(RuntimeError, match="applying transform") as error:
        next(iter(loader))
    assert "bad.nii.gz holds 2 NaN or Inf voxels" in "".join(traceback.format_exception(error.value))
    del error  # frees the loader's iterator, and with it its workers
    gc.collect()


def test_no_text_of_a_header_comes_along(tmp_path):
    file = tmp_path / "scan.nii.gz"
    image = nib.Nifti1Image(100 * smooth_brain(), affine())
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, file)
    data = LoadVolumesd()({"image": [str(file)], "subject": "scan"})
    assert "DOE" not in str(data["image"].meta) + str(data["mask"].meta)
    SaveVolumesd("image", tmp_path / "out", ["t1"])(data)
    torch.save(data, tmp_path / "cached.pt")
    assert b"DOE" not in gzip.decompress((tmp_path / "out" / "scan_t1.nii.gz").read_bytes())
    assert b"DOE" not in (tmp_path / "cached.pt").read_bytes()


NAMES = ("flair", "t1", "t1ce", "t2")  # the order of the Decathlon


def in_one_file(folder, name: str, dataset: dict | None = None) -> str:
    """Four channels with the maxima 1, 2, 3 and 4, in the order of NAMES."""
    volumes = np.stack([(i + 1) * (smooth_brain() > 0.3) for i in range(4)], -1)
    if dataset is not None:
        (folder / "dataset.json").write_text(json.dumps(dataset))
    return write_volume(folder / "imagesTr" / name, volumes)


@pytest.mark.parametrize("modalities", [("t1", "t1ce", "t2", "flair"), ("t2", "flair")])
@pytest.mark.parametrize(
    ("name", "dataset", "options"),
    [
        ("BRATS_001.nii.gz", None, {}),
        ("case.nii.gz", {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}, {}),
        ("case.nii.gz", None, {"channel_order": NAMES}),
    ],
    ids=["name", "dataset.json", "channel_order"],
)
def test_a_4d_file_comes_in_the_order_asked_for(tmp_path, name, dataset, options, modalities):
    file = in_one_file(tmp_path, name, dataset)
    image = LoadVolumesd(modalities=modalities, **options)({"image": file})["image"]
    assert [float(channel.max()) for channel in image] == [NAMES.index(modality) + 1 for modality in modalities]
    loaded = LoadImaged("image", ensure_channel_first=True)({"image": file})  # loaded by MONAI, as in Deploy
    again = LoadVolumesd(modalities=modalities, **options)(loaded)["image"]
    torch.testing.assert_close(again.as_tensor(), image.as_tensor(), rtol=0, atol=0)


def test_a_4d_file_whose_order_nobody_says_is_refused(tmp_path):
    file = in_one_file(tmp_path, "case.nii.gz")
    with pytest.raises(ValueError, match=r"has 4 channels in unknown order, .*--channel_order \"\['t1', 't2'\]"):
        LoadVolumesd(modalities=("t1", "t2"))({"image": file})
    with pytest.raises(ValueError, match=r"their order is given as t1, t2; the contrasts needed are t1, t2"):
        LoadVolumesd(modalities=("t1", "t2"), channel_order=("t1", "t2"))({"image": file})
    with pytest.raises(ValueError, match=r"their order is given as flair, t1, adc, t2; .* needed are t1, t1ce"):
        LoadVolumesd(modalities=("t1", "t1ce"), channel_order=("flair", "t1", "adc", "t2"))({"image": file})


def test_a_tensor_without_a_file_is_in_the_order_of_the_metadata():
    volume = torch.stack([torch.as_tensor(smooth_brain()) * (i + 1) for i in range(2)])
    image = LoadVolumesd(modalities=("t1", "t2"))({"image": volume})["image"]
    torch.testing.assert_close(image.as_tensor(), volume.float())
    with pytest.raises(ValueError, match="has 2 channels, but their order is given as t1, t2, flair"):
        LoadVolumesd(modalities=("t1", "t2", "flair"))({"image": volume})


@pytest.mark.parametrize(
    ("names", "modalities", "message"),
    [
        (("a_t2.nii.gz", "a_t1.nii.gz"), ("t1", "t2"), r"a_t2\.nii\.gz is given for t1, and its name says t2"),
        (("a-t1n.nii.gz", "a-t1c.nii.gz"), ("t1", "t2"), r"a-t1c\.nii\.gz is given for t2, and its name says t1ce"),
        (("a_t1.nii.gz",), ("t1", "t2"), r"1 files, .*a_t1\.nii\.gz, for the contrasts t1, t2"),
        ("a_flair.nii.gz", ("t2",), r"a_flair\.nii\.gz is given for t2, and its name says flair"),
        (("a_t1.nii.gz", "a_seg.nii.gz"), ("t1", "t2"), r"a_seg\.nii\.gz is given for t2, and its name says seg"),
    ],
)
def test_a_file_whose_name_says_another_contrast_is_refused(tmp_path, names, modalities, message):
    single = isinstance(names, str)
    files = [write_volume(tmp_path / name, smooth_brain()) for name in ([names] if single else names)]
    with pytest.raises(ValueError, match=message):
        LoadVolumesd(modalities=modalities)({"image": files[0] if single else files})
