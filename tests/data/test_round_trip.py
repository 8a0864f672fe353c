"""From files to the network's grid and back to files: shape, affine and intensities of the input are restored.

The transforms are those of a config; the preprocessed image itself is the prediction.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, decollate_batch
from monai.transforms import SaveImaged

from monai_idm.data import CheckedPersistentDataset
from tests.data.cases import SHAPE, affine, chain, write_case

GEOMETRIES = {
    "RAS": affine(),
    "LPS": affine(axes="LPS"),
    "anisotropic": affine((1.2, 1, 1)),
    "sagittal": affine((1.2, 1, 1), "PIR"),
    "oblique": affine((1.2, 1, 1), "LPS", oblique_deg=14),
    "scaled": affine((0.3, 0.4, 0.5), "SLA", oblique_deg=-21),
}
INTENSITIES = {
    "int16": (np.int16, (500, 2000)),
    "float32": (np.float32, (1e6, 40)),
    "negative": (np.float32, (-800, 9)),
}


def round_trip(item: dict, output_dir, **knobs) -> dict:
    before, after = chain(output_dir=str(output_dir), **knobs)
    data = before(item)
    return after(data | {"pred": data["image"].as_tensor().clone()})


def compare(item: dict, data: dict, output_dir, tolerance: float) -> None:
    """Files have the input's grid and values within the window, close to the input's values clipped to it."""
    window = data["image"].meta["window"]
    for channel, (modality, path) in enumerate(zip(("t1", "t2"), item["image"], strict=True)):
        original = nib.load(path)
        written = nib.load(output_dir / f"{item['subject']}_{modality}.nii.gz")
        assert written.shape == original.shape
        np.testing.assert_allclose(written.affine, original.affine, rtol=1e-6, atol=1e-6)
        lo, hi = window["lo"][channel], window["hi"][channel]
        before, after = original.get_fdata(), written.get_fdata()
        assert after.min() >= lo - 1e-6 * (hi - lo)
        assert after.max() <= hi + 1e-6 * (hi - lo)
        error = np.abs(after - np.clip(before, lo, hi)) / (hi - lo)
        assert error[before != 0].mean() < tolerance
        assert error[before == 0].mean() < tolerance
        assert np.all(after[:2] == 0)  # outside the brain's box: air, whatever the window


@pytest.mark.parametrize("intensities", INTENSITIES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_zoomed_volumes_return_within_a_few_percent(tmp_path, geometry, intensities):
    dtype, scale = INTENSITIES[intensities]
    item = write_case(tmp_path, matrix=GEOMETRIES[geometry], dtype=dtype, scale=scale)
    data = round_trip(item, tmp_path / "out", spatial_size=[20, 16, 24])
    assert data["image"].shape == (2, 20, 16, 24)
    compare(item, data, tmp_path / "out", tolerance=0.04)


@pytest.mark.parametrize("intensities", INTENSITIES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_volumes_that_are_not_zoomed_return_exactly(tmp_path, geometry, intensities):
    dtype, scale = INTENSITIES[intensities]
    item = write_case(tmp_path, matrix=GEOMETRIES[geometry], dtype=dtype, scale=scale)
    data = round_trip(item, tmp_path / "out", spatial_size=[40, 40, 40], zoom=False)
    compare(item, data, tmp_path / "out", tolerance=1e-6)


@pytest.mark.parametrize("network_range", [[-1.0, 1.0], [0.0, 1.0]])
def test_the_network_sees_its_range_and_air_at_its_bottom(tmp_path, network_range):
    before, _ = chain(network_range=network_range)
    data = before(write_case(tmp_path))
    low, high = network_range
    assert data["image"].shape == (2, 24, 24, 24)
    assert data["image"].dtype == torch.float32
    assert data["image"].min() == low
    assert high - 0.2 * (high - low) < data["image"].max() <= high
    assert (data["image"][:, data["mask"][0] == 0] == low).float().mean() > 0.7
    assert data["mask"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("dataset", [Dataset, CacheDataset, CheckedPersistentDataset])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_return_case_by_case(tmp_path, dataset, num_workers):
    items = [
        write_case(tmp_path, f"case_{i}", GEOMETRIES[g], scale=(10.0**i, 300), dtype=np.float32, seed=i)
        for i, g in enumerate(("oblique", "LPS", "sagittal", "RAS"), start=2)
    ]
    before, after = chain(output_dir=str(tmp_path / "out"))
    options = {
        CacheDataset: {"progress": False, "num_workers": 2},
        CheckedPersistentDataset: {"cache_dir": tmp_path / "cache"},
    }.get(dataset, {})
    loader = DataLoader(dataset(items, before, **options), batch_size=2, num_workers=num_workers)
    for _ in range(2):  # the first pass must leave the cache unchanged
        seen = []
        for batch in loader:
            batch["pred"] = batch["image"].as_tensor() + 0
            seen += [after(data) for data in decollate_batch(batch)]
        assert [data["subject"] for data in seen] == [item["subject"] for item in items]
        for item, data in zip(items, seen, strict=True):
            compare(item, data, tmp_path / "out", tolerance=0.04)


def test_a_decathlon_item_returns_too(tmp_path):
    item = write_case(tmp_path, matrix=GEOMETRIES["oblique"])
    volumes = [nib.load(path).get_fdata() for path in item["image"]]
    nib.save(
        nib.Nifti1Image(np.stack([volumes[1], volumes[0]], -1), GEOMETRIES["oblique"]),
        tmp_path / "both.nii.gz",
    )
    data = round_trip(
        {"subject": "case", "image": [str(tmp_path / "both.nii.gz")] * 2, "channels": [1, 0]},
        tmp_path / "out",
    )
    compare(item, data, tmp_path / "out", tolerance=0.04)


def test_monai_can_save_the_inverted_prediction_too(tmp_path):
    item = write_case(tmp_path, matrix=GEOMETRIES["oblique"])
    data = round_trip(item, tmp_path / "ours")
    options = {"output_postfix": "pred", "separate_folder": False, "print_log": False}
    SaveImaged("pred", output_dir=tmp_path / "theirs", **options)(data)
    theirs = nib.load(tmp_path / "theirs" / "case_t1_pred.nii.gz")
    np.testing.assert_allclose(theirs.affine, GEOMETRIES["oblique"], rtol=1e-6, atol=1e-5)
    for channel, modality in enumerate(("t1", "t2")):
        ours = nib.load(tmp_path / "ours" / f"case_{modality}.nii.gz").get_fdata()
        np.testing.assert_allclose(theirs.get_fdata()[..., channel], ours, rtol=1e-6)


def test_shape_and_values_stay_with_the_case():
    assert len(set(SHAPE)) == 3  # otherwise a swapped axis would go unnoticed
