"""A volume fills its grid without distortion, keeps its place, and is restored to its own voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import Compose, Invertd

from monai_idm.data import FitToGridd, WindowIntensityd, grid_spacing_mm
from tests.data.cases import affine, smooth_brain


def make_image(shape, matrix=None, channels=1) -> MetaTensor:
    return MetaTensor(torch.rand(channels, *shape), affine=torch.as_tensor(affine() if matrix is None else matrix))


def world(matrix: torch.Tensor, shape) -> torch.Tensor:
    """Position in mm of every voxel, ``(3, X, Y, Z)``."""
    voxels = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij"))
    return torch.einsum("ij,jxyz->ixyz", matrix[:3, :3], voxels) + matrix[:3, 3].view(3, 1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "spacing", "grid", "resized"),
    [
        ((40, 50, 30), (1, 1, 1), (25, 25, 25), (20, 25, 15)),  # the longest axis fills the grid
        ((40, 50, 30), (1.25, 1, 1), (25, 25, 25), (25, 25, 15)),  # 40 of 1.25 mm are as long as 50 of 1 mm
        ((40, 50, 30), (1, 1, 3), (32, 20, 18), (8, 10, 18)),  # the axis that is longest for its grid decides
        ((8, 10, 6), (1, 1, 1), (20, 20, 20), (16, 20, 12)),  # a small one grows
        ((60, 60, 2), (1, 1, 1), (10, 10, 10), (10, 10, 1)),  # no axis vanishes
        ((42, 50, 31), (1, 1, 1), (20, 20, 20), (17, 20, 12)),  # 16.8 and 12.4
    ],
)
def test_one_spacing_for_all_axes(shape, spacing, grid, resized):
    values = torch.ones(1, *shape)
    image = MetaTensor(values, affine=torch.as_tensor(affine(spacing)))
    fitted = FitToGridd("image", grid)({"image": image})["image"]
    assert fitted.shape[1:] == grid
    inside = [int(fitted[0].amax(tuple({0, 1, 2} - {axis})).ne(0).sum()) for axis in range(3)]
    assert tuple(inside) == resized
    np.testing.assert_allclose(
        affine_to_spacing(fitted.affine), np.array(shape) * spacing / np.array(resized), rtol=1e-9
    )


def test_the_padding_is_symmetric():
    fitted = FitToGridd("image", (24, 12, 16))({"image": MetaTensor(torch.ones(1, 12, 12, 12), affine=torch.eye(4))})
    filled = fitted["image"][0].nonzero()
    assert filled.min(0).values.tolist() == [6, 0, 2]
    assert filled.max(0).values.tolist() == [17, 11, 13]


@pytest.mark.parametrize("zoom", [True, False])
@pytest.mark.parametrize("matrix", [affine(), affine((1.2, 1, 1), "LPS", 12), affine((1, 1.5, 2), "SRA", 5)])
def test_the_affine_keeps_every_point_in_its_place(matrix, zoom):
    shape = (20, 16, 18)
    position = world(torch.as_tensor(matrix), shape)
    image = MetaTensor(position.float(), affine=torch.as_tensor(matrix))  # a channel per coordinate
    fitted = FitToGridd("image", (24, 28, 30), zoom=zoom)({"image": image})["image"]
    resized = FitToGridd("image", (24, 28, 30), zoom=zoom)({"image": image * 0 + 1})["image"][0] == 1
    inner = torch.nn.functional.avg_pool3d(resized[None].float(), 5, 1, 2)[0] == 1  # smoothing bends the edge
    assert inner.sum() > 500
    expected = world(fitted.affine, fitted.shape[1:])
    torch.testing.assert_close(fitted.as_tensor()[:, inner].double(), expected[:, inner], rtol=0, atol=1e-3)


def test_masks_keep_their_values_and_stay_on_the_image():
    values = torch.as_tensor(smooth_brain((40, 44, 36)), dtype=torch.float32)[None]
    data = {
        "image": MetaTensor(values),
        "mask": MetaTensor((values != 0).float()),
        "label": MetaTensor((values > 0.5) * 4),
    }
    fitted = FitToGridd(["image", "mask", "label"], 20, mode=["trilinear", "nearest", "nearest"])(data)
    assert fitted["mask"].unique().tolist() == [0, 1]
    assert fitted["label"].unique().tolist() == [0, 4]
    torch.testing.assert_close(fitted["mask"].affine, fitted["image"].affine)
    mask = fitted["mask"] == 1
    assert fitted["image"][mask].mean() > 100 * fitted["image"][~mask].mean()


def test_down_sampling_does_not_alias():
    checkers = torch.as_tensor(np.indices((40, 40, 40)).sum(0) % 2, dtype=torch.float32)[None]
    fitted = FitToGridd("image", 15)({"image": MetaTensor(checkers)})["image"][0, 3:-3, 3:-3, 3:-3]
    assert fitted.std() < 0.05  # without the filter 0.17


@pytest.mark.parametrize("offset", [0.0, -0.5, -3.0])
def test_the_border_is_air_for_every_channel(offset):
    brain = smooth_brain()[4:-4, 4:-4, 3:-3]
    shifted = np.where(brain != 0, brain + offset, 0)
    image = torch.as_tensor(np.stack([brain, shifted]), dtype=torch.float32)
    data = {"image": MetaTensor(image), "mask": MetaTensor((image[:1] != 0).float())}
    chain = Compose([WindowIntensityd("image"), FitToGridd("image", (40, 24, 40))])
    windowed = chain.transforms[0](data)["image"]
    fitted = chain(data)["image"]
    air = windowed[:, 0, 0, 0]  # a corner of this ellipsoid's box
    torch.testing.assert_close(fitted[:, 0, 0, 0].as_tensor(), air.as_tensor(), rtol=0, atol=1e-6)
    torch.testing.assert_close(fitted[:, -1, -1, -1].as_tensor(), air.as_tensor(), rtol=0, atol=1e-6)
    torch.testing.assert_close(fitted[:, 20, 12, 5].as_tensor(), air.as_tensor(), rtol=0, atol=1e-6)
    assert fitted.min() >= -1e-6
    assert fitted.max() <= 1 + 1e-6


def test_nothing_but_air_stays_air():
    """Smoothing must not darken the edge of the box where air is not 0."""
    image = MetaTensor(torch.full((2, 20, 20, 20), 0.25), meta={"window": {"lo": [-1.0, -1.0], "hi": [3.0, 3.0]}})
    fitted = FitToGridd("image", (12, 10, 10))({"image": image})["image"]
    torch.testing.assert_close(fitted.as_tensor(), torch.full((2, 12, 10, 10), 0.25))


def test_without_zoom_every_voxel_stays():
    image = make_image((9, 12, 7), channels=2)
    fitted = FitToGridd("image", (16, 12, 8), zoom=False)({"image": image})["image"]
    torch.testing.assert_close(fitted[:, 3:12, :, :7].as_tensor(), image.as_tensor(), rtol=0, atol=0)
    assert fitted.sum() == pytest.approx(float(image.sum()))


@pytest.mark.parametrize("zoom", [True, False])
@pytest.mark.parametrize("matrix", [affine((1.2, 1, 1)), affine((1, 2, 1), "PIR", 20)])
def test_invertd_returns_to_shape_affine_and_values(zoom, matrix):
    image = make_image((9, 12, 7), matrix)
    transform = Compose([FitToGridd("image", (27, 36, 21), zoom=zoom)])
    data = transform({"image": image})
    data["pred"] = MetaTensor(data["image"].as_tensor())
    pred = Invertd("pred", transform, "image", nearest_interp=False)(data)["pred"]
    assert pred.shape == image.shape
    np.testing.assert_allclose(pred.affine, matrix, atol=1e-9)
    assert not pred.applied_operations
    if zoom:  # three times as many voxels: the middle ones are the old ones
        assert (pred - image).abs().max() < 0.5
        assert np.corrcoef(pred.flatten(), image.flatten())[0, 1] > 0.9
    else:
        torch.testing.assert_close(pred.as_tensor(), image.as_tensor(), rtol=0, atol=0)


def test_masks_invert_to_masks():
    mask = MetaTensor((torch.as_tensor(smooth_brain()) != 0).float()[None])
    transform = Compose([FitToGridd("mask", 30, "nearest")])
    data = transform({"mask": mask})
    pred = Invertd("pred", transform, "mask", nearest_interp=False)(data | {"pred": data["mask"].clone()})["pred"]
    assert pred.unique().tolist() == [0, 1]
    assert (pred != mask).float().mean() < 0.02


def test_a_volume_that_does_not_fit_is_an_error_without_zoom():
    with pytest.raises(ValueError, match=r"has \(9, 12, 7\) voxels, the grid \(8, 12, 8\).*zoom=True"):
        FitToGridd("image", (8, 12, 8), zoom=False)({"image": make_image((9, 12, 7))})


@pytest.mark.parametrize("image", [torch.rand(1, 4, 4, 4), MetaTensor(torch.rand(4, 4, 4))])
def test_a_volume_without_affine_or_in_2d_is_an_error(image):
    with pytest.raises(
        ValueError, match=r"Tensor of shape .* cannot be fitted; it must be a MetaTensor \(C, X, Y, Z\)"
    ):
        FitToGridd("image", 8)({"image": image})


def test_an_empty_grid_is_an_error():
    with pytest.raises(ValueError, match=r"spatial_size \(8, 0, 8\) must be positive"):
        FitToGridd("image", (8, 0, 8))


def test_grid_spacing_is_the_median_over_the_first_items():
    spacings = [(2, 2, 2), (1, 2, 4), (3, 3, 3), (9, 9, 9), (9, 9, 9)]
    items = [{"image": make_image((3, 3, 3), affine(spacing, "LPS", 10))} for spacing in spacings]
    assert grid_spacing_mm(items, limit=3) == pytest.approx(2)
    assert grid_spacing_mm(Dataset(items, FitToGridd("image", 6, zoom=False))) == pytest.approx(3)


@pytest.mark.parametrize("items", [[], [{"image": torch.rand(1, 3, 3, 3)}]])
def test_grid_spacing_without_affines_is_an_error(items):
    with pytest.raises(ValueError, match=rf"{len(items)} items, 0 with an affine"):
        grid_spacing_mm(items)
